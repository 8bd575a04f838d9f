"""`make bench`: what the two stages cost, and how fast a cache is read, as ratios to references within one run."""
