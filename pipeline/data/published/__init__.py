"""The published data sets, by their official lists."""
