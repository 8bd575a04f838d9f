"""`make bench`: what the two stages cost, and how fast a cache is read, as ratios to references within one run."""

import pipeline.cli  # noqa: F401  threads wait as in tkd, which says how before torch is loaded
