"""Stage one: one pass of the teacher over every clip, its attention pooled to frame weights, into a cache."""
