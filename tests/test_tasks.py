"""The two tasks: their labels, losses and metrics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tasks import (
    balanced_class_weights,
    clip_losses,
    label_tensor,
    mean_average_precision,
    task_loss,
    task_score,
)


def test_average_precision_of_a_hand_worked_ranking():
    """Hits at ranks 1, 3 and 4 of 5: (1/1 + 2/3 + 3/4) / 3."""
    scores = torch.tensor([[0.9], [0.8], [0.7], [0.6], [0.5]])
    labels = torch.tensor([[1.0], [0.0], [1.0], [1.0], [0.0]])
    assert mean_average_precision(scores, labels) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


def test_clips_of_equal_score_share_a_threshold():
    """All scores equal: every clip is taken at once, whatever their order, and precision is the share of hits."""
    for labels in ([1, 0, 0, 0], [0, 0, 0, 1]):
        assert mean_average_precision(torch.zeros(4, 1), torch.tensor(labels)[:, None]) == pytest.approx(0.25)


def test_classes_without_a_clip_are_left_out():
    labels = torch.tensor([[1, 0], [0, 0]])
    assert mean_average_precision(torch.tensor([[1.0, 3.0], [0.0, 2.0]]), labels) == 1.0
    assert math.isnan(mean_average_precision(torch.zeros(2, 2), torch.zeros(2, 2)))


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 60), st.integers(1, 4))
def test_it_is_the_area_under_the_steps_of_the_precision_recall_points(seed, n, n_classes):
    """A second route: precision and recall counted from scratch at every threshold."""
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 6, (n, n_classes)).astype(np.float32), rng.random((n, n_classes)) < 0.4
    expected = []
    for score, label in zip(scores.T, labels.T, strict=True):
        if label.any():
            area = recall = 0.0
            for threshold in sorted(set(score), reverse=True):
                taken = score >= threshold
                recall, before = (taken & label).sum() / label.sum(), recall
                area += (recall - before) * (taken & label).sum() / taken.sum()
            expected.append(area)
    found = mean_average_precision(torch.from_numpy(scores), torch.from_numpy(labels))
    assert (not expected and math.isnan(found)) or found == pytest.approx(np.mean(expected))


def test_labels_losses_and_scores_of_both_tasks():
    single = label_tensor("single_label", [(1,), (0,)], 2)
    several = label_tensor("multi_label", [(0, 1), ()], 2)
    assert single.tolist() == [1, 0]
    assert several.tolist() == [[1, 1], [0, 0]]
    logits = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]])
    assert task_score("single_label", logits, single) == 0.5
    probability = 1 / (1 + math.exp(-2))  # of the right class: softmax of a difference of 2
    assert float(task_loss("single_label", logits, single)) == pytest.approx(
        -(math.log(probability) + math.log(1 - probability)) / 2
    )
    up = 1 / (1 + math.exp(-1))  # sigmoid(1); every clip has one class at each side
    assert float(task_loss("multi_label", logits, several)) == pytest.approx(-(math.log(up) + math.log(1 - up)) / 2)


def test_mixed_labels_cost_what_their_parts_cost():
    logits, mixed = torch.randn(1, 3), torch.tensor([[0.7, 0.3, 0.0]])
    parts = [float(clip_losses("single_label", logits, torch.tensor([label]))) for label in (0, 1)]
    assert float(clip_losses("single_label", logits, mixed)) == pytest.approx(0.7 * parts[0] + 0.3 * parts[1])
    parts = [float(clip_losses("multi_label", logits, torch.eye(3)[[label]])) for label in (0, 1)]
    ends = [float(clip_losses("multi_label", logits, row[None])) for row in torch.tensor([[1.0, 1, 0], [0, 0, 0]])]
    half = float(clip_losses("multi_label", logits, torch.tensor([[0.5, 0.5, 0.0]])))
    assert half == pytest.approx(sum(parts) / 2) == pytest.approx(sum(ends) / 2)


def test_balanced_weights_give_every_class_the_same_say():
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 2, 2])
    weights = balanced_class_weights("single_label", labels, 4)
    assert weights.tolist() == pytest.approx([8 / 12, 0, 2, 0])
    losses = clip_losses("single_label", torch.zeros(8, 4), labels, weights)
    assert float(losses[labels == 0].sum()) == pytest.approx(float(losses[labels == 2].sum()))
    assert float(losses.mean()) == pytest.approx(math.log(4))
    several = torch.tensor([[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    assert balanced_class_weights("multi_label", several, 3).tolist() == [3, 4, 1]
