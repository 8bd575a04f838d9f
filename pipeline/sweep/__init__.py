"""The grid students x weights x seeds, trained from one cache."""
