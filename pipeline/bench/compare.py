"""Comparing within one run.

Variants are run in turn (A B C A B C ...) after a warm-up, and medians compared, so that a machine that speeds up or
slows down does so for all of them.
"""

import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median


def take_turns(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of each variant, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            if round_ > 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def compare(variants: dict[str, Callable[[], object]], rounds: int = 7) -> dict[str, float]:
    """Returns the median seconds of each variant, run in turn."""
    return {name: median(seconds) for name, seconds in take_turns(variants, rounds).items()}


def speeds(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Returns how fast each variant is beside the first: the median of the rounds' ratios."""
    reference, *others = take_turns(variants, rounds).items()
    return {
        name: median(first / own for first, own in zip(reference[1], seconds, strict=True)) for name, seconds in others
    }


def peak_memory() -> int:
    """Returns this process's peak memory in bytes."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Not ru_maxrss, which on Linux begins with the parent's.
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
