"""A report's statistics by second routes: scipy, and the metric itself on clips drawn one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.report.numbers.statistics import (
    Difference,
    _counts,
    paired,
    paired_t,
    resampled_map,
    resampled_scores,
    t_quantile,
)
from pipeline.tasks import mean_average_precision


@given(st.integers(1, 200), st.floats(0.5, 0.999))
def test_quantiles_of_t_are_those_of_scipy(n_degrees, probability):
    assert t_quantile(probability, n_degrees) == pytest.approx(stats.t.ppf(probability, n_degrees), rel=1e-8, abs=1e-9)


def test_intervals_of_t_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = [difference.low < 1 < difference.high for difference in map(paired_t, rng.normal(1, 2, (2000, 3)).tolist())]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_the_same_difference_in_every_seed_is_no_certainty():
    """An interval of no width would exclude zero; what other clips would change is left."""
    assert paired_t([0.1, 0.1, 0.1]) == Difference(pytest.approx(0.1), None, None, 3, "")
    resampled = [np.linspace(-0.1, 0.3, 401)] * 3
    found = paired([0.1, 0.1, 0.1], resampled)
    assert (found.method, found.low, found.high) == ("bootstrap", pytest.approx(-0.09), pytest.approx(0.29))


@given(st.integers(0, 1000))
def test_resampled_map_is_the_metric_of_the_clips_drawn(seed):
    """Also with equal scores, with classes that no clip drawn has, and with classes that no clip has."""
    rng = np.random.default_rng(seed)
    scores, labels = rng.standard_normal((20, 4)).round(1), (rng.random((20, 4)) < 0.15).astype(np.uint8)
    labels[0, 0], labels[:, 3] = 1, 0
    counts = rng.multinomial(20, np.full(20, 1 / 20), 3)
    drawn = [np.repeat(np.arange(20), count) for count in counts]
    expected = [mean_average_precision(torch.from_numpy(scores[it]), torch.from_numpy(labels[it])) for it in drawn]
    assert resampled_map(scores, labels, counts) == pytest.approx(np.nan_to_num(expected))


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_a_bootstrap_of_equal_runs_is_zero_and_its_interval_has_no_width(task):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((50, 3)).astype(np.float32)
    labels = rng.integers(0, 3, 50) if task == "single_label" else rng.integers(0, 2, (50, 3)).astype(np.uint8)
    scores = resampled_scores(task, logits, labels)
    _counts.cache_clear()
    assert paired([0.0], [scores - resampled_scores(task, logits, labels)]) == Difference(0.0, 0.0, 0.0, 1, "bootstrap")


def test_the_bootstrap_is_paired_twins_are_told_apart_by_the_clips_they_differ_in():
    """4 of 400 clips: a variance a clip of 0.01 * 0.99, where unpaired resamples would have 0.5."""
    labels, first = np.zeros(400, np.int64), np.stack([np.arange(400) % 2, np.full(400, 0.5)], axis=1)
    second = first.copy()
    second[:8:2, 0] = 1  # were wrong
    ours, vanilla = (resampled_scores("single_label", logits, labels) for logits in (second, first))
    found = paired([0.01], [ours - vanilla])
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(0.01 * 0.99 / 400), rel=0.2)


def test_the_interval_over_clips_of_several_seeds_is_that_of_their_mean():
    """Independent right answers, 0.6 and 0.8 of them, over three seeds: a variance a clip of (0.24 + 0.16) / 3."""
    rng, n = np.random.default_rng(1), 4000
    labels, resampled, differences = np.zeros(n, np.int64), [], []
    for _ in range(3):
        logits = [np.stack([rng.random(n) < share, np.full(n, 0.5)], axis=1) for share in (0.8, 0.6)]
        ours, vanilla = (resampled_scores("single_label", values, labels) for values in logits)
        resampled.append(ours - vanilla)
        differences.append(float(np.mean(logits[0][:, 0]) - np.mean(logits[1][:, 0])))
    found = paired(differences, resampled)
    low, high = found.over_clips
    assert low < np.mean(differences) < high and found.low == paired_t(differences).low
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt((0.24 + 0.16) / 3 / n), rel=0.1)


@pytest.mark.parametrize(
    ("low", "high", "sign"),
    [(0.1, 0.2, 1), (-2, -1, -1), (-1, 1, 0), (0, 1, 0), (3.6e-17, 1, 0), (np.nan, np.nan, 0), (None, None, 0)],
)
def test_only_an_interval_beside_zero_has_a_sign(low, high, sign):
    assert Difference(0.0, low, high, 3, "t").sign == sign
    assert Difference(0.0, low, high, 3, "t", (-9.0, 9.0)).sign == 0
