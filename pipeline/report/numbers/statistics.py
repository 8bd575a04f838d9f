"""Mean, spread and paired differences, with intervals that say what they are of."""

import functools
import math
from dataclasses import dataclass, replace

import numpy as np

LEVEL = 0.95
N_RESAMPLES = {"single_label": 2000, "multi_label": 200}  # of the test clips; mAP sorts every class in each


@dataclass(frozen=True)
class Difference:
    """A mean difference, and its 95 % confidence intervals.

    Attributes:
        mean: Over the seeds.
        low: Of the interval; None where there is no way to give one.
        high: Likewise.
        n_seeds: Pairs of runs of the same seed.
        method: "t": over seeds; "bootstrap": over test clips, where there is none over seeds; "": none.
        over_clips: Of "t", where the runs' outputs were kept, the interval of the same mean over test clips.
    """

    mean: float
    low: float | None
    high: float | None
    n_seeds: int
    method: str
    over_clips: tuple[float, float] | None = None

    @property
    def sign(self) -> int:
        """1 or -1 where zero is outside the interval, and outside that over test clips if there is one; else 0.

        Of three seeds some agree by chance, and their interval then is narrower than the clips allow.
        """
        intervals = [bounds for bounds in ((self.low, self.high), self.over_clips) if bounds and bounds[0] is not None]
        if not intervals:
            return 0
        least = 1e-9  # bootstrapped bounds are often 0 to rounding; and none if NaN
        return int(all(low > least for low, _ in intervals)) - int(all(high < -least for _, high in intervals))


def spread(values: list[float]) -> float | None:
    """Returns the sample standard deviation; None of fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def paired_t(differences: list[float]) -> Difference:
    """Returns the mean of differences, one a seed, with Student's interval.

    There is none of a single one, and none where all are the same, as happens on a few clips: its width would be zero.
    It takes the differences for a sample from a normal distribution: what changes from seed to seed is covered, which
    clips are in the test split is not.
    """
    mean, n = float(np.mean(differences)), len(differences)
    if n < 2 or np.ptp(differences) < 1e-9:
        return Difference(mean, None, None, n, "")
    half = t_quantile(0.5 + LEVEL / 2, n - 1) * spread(differences) / math.sqrt(n)
    return Difference(mean, mean - half, mean + half, n, "t")


def resampled_scores(task: str, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns a run's scores on resamples of the test clips, (n_resamples,): the same resamples for every run.

    Args:
        task: single_label or multi_label.
        logits: (n, n_classes).
        labels: (n,) classes, or (n, n_classes) of 0 and 1.
    """
    n = len(labels)
    counts = _counts(n, N_RESAMPLES[task])
    if task == "single_label":
        return counts @ (logits.argmax(axis=1) == labels).astype(np.float64) / n
    return resampled_map(logits, labels, counts)


@functools.lru_cache(maxsize=4)
def _counts(n: int, n_resamples: int) -> np.ndarray:
    """Returns how often each resample has each of n clips, (n_resamples, n)."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), n_resamples)


def paired(differences: list[float], resampled: list[np.ndarray] | None) -> Difference:
    """Returns the mean of differences, one a seed, with its intervals.

    Over seeds what another seed would change is covered; over test clips, by the paired bootstrap (percentiles), what
    another draw of clips would.

    Args:
        differences: Of the runs' scores, ours less the other's.
        resampled: The same of `resampled_scores`, (n_resamples,) each; None where outputs are missing.
    """
    difference = paired_t(differences)
    if resampled is None:
        return difference
    low, high = map(float, np.quantile(np.mean(resampled, axis=0), [0.5 - LEVEL / 2, 0.5 + LEVEL / 2]))
    if difference.low is None:
        return replace(difference, low=low, high=high, method="bootstrap")
    return replace(difference, over_clips=(low, high))


def resampled_map(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns macro mAP (see `mean_average_precision`) of resamples of clips, (n_resamples,).

    Args:
        scores: (n, n_classes).
        labels: (n, n_classes) of 0 and 1.
        counts: (n_resamples, n), how often a resample has a clip. Classes that it lacks are left out of its mean.
    """
    often = np.ascontiguousarray(counts.T, np.int32)  # (n, n_resamples)
    total, present = np.zeros(len(counts)), np.zeros(len(counts))
    for score, label in zip(scores.T, labels.T, strict=True):
        order = np.argsort(-score, kind="stable")
        positive = np.flatnonzero(label[order])
        if not len(positive):
            continue
        ends = np.searchsorted(-score[order], -score[order][positive], side="right")  # equal scores: one threshold
        drawn = often[order[positive]]  # (n_positive, n_resamples)
        hits = drawn.cumsum(axis=0)[np.searchsorted(positive, ends) - 1]
        until, which = np.unique(ends, return_inverse=True)
        taken = np.add.reduceat(often[order[: until[-1]]], np.append(0, until[:-1])).cumsum(axis=0)[which]
        n_positive = drawn.sum(axis=0)
        total += (drawn * hits / np.maximum(taken, 1)).sum(axis=0) / np.maximum(n_positive, 1)
        present += n_positive > 0
    return total / np.maximum(present, 1)


def t_quantile(probability: float, n_degrees: int) -> float:
    """Returns the quantile of Student's t distribution for a probability of 0.5 to 0.9999, by bisection."""
    low, high = 0.0, 1e5
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_probability(middle, n_degrees) < probability else (low, middle)
    return low


def _t_probability(t: float, n_degrees: int) -> float:
    """P(T <= t) for t >= 0: the finite sums of Abramowitz and Stegun, 26.7.3 (odd) and 26.7.4 (even)."""
    angle = math.atan(t / math.sqrt(n_degrees))
    cosine, odd = math.cos(angle), n_degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for step in range(2 + odd, n_degrees + 1, 2):
        total += term
        term *= cosine**2 * (step - 1) / step
    within = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return 0.5 + within / 2
