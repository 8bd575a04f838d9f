"""The two tasks: one label a clip (cross-entropy, accuracy) or any number of them (binary cross-entropy, macro mAP)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

METRICS = {"single_label": "accuracy", "multi_label": "mAP"}


def label_tensor(task: str, labels: Sequence[Sequence[int]], n_classes: int) -> Tensor:
    """Returns the labels of clips as a loss takes them: (n,) int64, or (n, n_classes) float32 of 0 and 1.

    Args:
        task: single_label or multi_label.
        labels: Class indices, clip by clip; exactly one each for single_label.
        n_classes: Classes of the task.
    """
    if task == "single_label":
        return torch.tensor([label for (label,) in labels])
    hot = torch.zeros(len(labels), n_classes)
    for row, indices in enumerate(labels):
        hot[row, list(indices)] = 1
    return hot


def task_loss(task: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean loss of a batch, float32 (): cross-entropy, or binary cross-entropy also averaged over classes.

    Args:
        task: single_label or multi_label.
        logits: (batch, n_classes), before softmax or sigmoid.
        labels: As `label_tensor` returns them.
    """
    return clip_losses(task, logits, labels).mean()


def clip_losses(task: str, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Returns the loss of each clip, float32 (batch,); see `task_loss`.

    Args:
        task: single_label or multi_label.
        logits: (batch, n_classes), before softmax or sigmoid.
        labels: As `label_tensor` returns them, or mixed ones: (batch, n_classes) float32, probabilities.
        class_weights: (n_classes,), of each class's part, or for multi_label of its positive clips' part.
    """
    if task == "single_label":
        return nn.functional.cross_entropy(logits.float(), labels, class_weights, reduction="none")
    return nn.functional.binary_cross_entropy_with_logits(
        logits.float(), labels.float(), pos_weight=class_weights, reduction="none"
    ).mean(dim=1)


def balanced_class_weights(task: str, labels: Tensor, n_classes: int) -> Tensor:
    """Returns weights (n_classes,) under which rare classes count as much as frequent ones.

    single_label: in inverse proportion to the class's clips, 1 on average over the clips, as scikit-learn's "balanced"
    (classes without clips: 0). multi_label: clips without the class divided by clips with it, from 1 to 100.

    Args:
        task: single_label or multi_label.
        labels: All training clips': (n,) int64, or (n, n_classes) of 0 and 1.
        n_classes: Classes of the task.
    """
    if task == "single_label":
        counts = labels.bincount(minlength=n_classes).float()
        return torch.where(counts > 0, len(labels) / ((counts > 0).sum() * counts), 0.0)
    positive = labels.float().sum(dim=0)
    return ((len(labels) - positive) / positive.clamp_min(1)).clamp(1, 100)


def task_score(task: str, logits: Tensor, labels: Tensor) -> float:
    """Returns the task's metric (`METRICS`) over all clips of a split, 0 to 1; shapes as in `task_loss`."""
    if task == "single_label":
        return float((logits.argmax(dim=1) == labels).double().mean())
    return mean_average_precision(logits, labels)


def mean_average_precision(scores: Tensor, labels: Tensor) -> float:
    """Returns the mean over classes of the average precision, 0 to 1 (macro mAP); NaN if no class has a clip.

    A class's average precision is the sum over its thresholds of (R_n - R_{n-1}) P_n, without interpolation, as
    scikit-learn's; clips of equal score share a threshold. Classes that no clip has are left out.

    Args:
        scores: (n, n_classes), higher for likelier.
        labels: (n, n_classes), 1 where the clip has the class.
    """
    precisions = []
    for score, label in zip(scores.T.cpu(), labels.T.cpu().double(), strict=True):
        if label.sum() > 0:
            order = score.argsort(descending=True, stable=True)
            hits = label[order].cumsum(0)  # (n,)
            last = torch.cat([score[order].diff() != 0, torch.tensor([True])])  # of its threshold
            hits, n_taken = hits[last], torch.arange(1, len(score) + 1)[last]
            recall = torch.cat([torch.zeros(1), hits / label.sum()])
            precisions.append((recall.diff() * hits / n_taken).sum())
    return float(torch.stack(precisions).mean()) if precisions else float("nan")
