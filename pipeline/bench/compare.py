"""Comparing within one run.

Variants are run in turn (A B C, C B A, A B C, ...) after a warm-up, and compared round by round, so that a machine that
speeds up or slows down does so for all of them.
"""

import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import comb
from pathlib import Path
from statistics import median

import torch

from pipeline.bench.results import Row


def take_turns(variants: Mapping[str, Callable[[], object]], rounds: int, warm_up: bool = True) -> dict[str, list]:
    """Returns the seconds of each variant, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    if warm_up:
        for run in variants.values():
            run()
    for round_ in range(rounds):
        for name in variants if round_ % 2 == 0 else reversed(variants):
            started = time.perf_counter()
            variants[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def row(what: str, own: Sequence[float], reference: Sequence[float]) -> Row:
    """Returns `own` beside `reference`, measured round by round: the median of the rounds' ratios, and its spread."""
    return _row(what, [one / other for one, other in zip(own, reference, strict=True)], own, reference)


def speed_row(what: str, own: Sequence[float], reference: Sequence[float]) -> Row:
    """Returns the same for speed: above 1, `own` took less time than `reference`."""
    return _row(what, [other / one for one, other in zip(own, reference, strict=True)], own, reference)


def _row(what: str, ratios: Sequence[float], own: Sequence[float], reference: Sequence[float]) -> Row:
    spread = interval(ratios) if len(ratios) > 1 else ()
    return Row(what, median(ratios), median(own), median(reference), len(ratios), *spread)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the 95 % confidence interval of the median, by order statistics; of fewer than six values their range.

    Nothing is assumed of their distribution: the number of values below the median is binomial.
    """
    values, n, below = sorted(values), len(values), 0.0
    for k in range(n // 2):
        below += comb(n, k) / 2**n
        if below > 0.025:
            return values[max(0, k - 1)], values[n - 1 - max(0, k - 1)]
    return values[0], values[-1]


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Within, torch computes with `n` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def thread_counts() -> tuple[int, ...]:
    """Returns 1 and, where it is another, the number of threads that torch takes by itself on this machine."""
    return tuple(sorted({1, torch.get_num_threads()}))


def in_words(n_threads: int) -> str:
    """Returns "1 thread" or "2 threads"."""
    return f"{n_threads} thread{'s' if n_threads > 1 else ''}"


def peak_memory() -> int:
    """Returns this process's peak memory in bytes."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Not ru_maxrss, which on Linux begins with the parent's.
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
