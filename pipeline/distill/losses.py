"""Loss terms, each a pure function of tensors."""

import torch
from torch import Tensor


def student_attention(frames: Tensor, query: Tensor, lengths: Tensor) -> Tensor:
    """Returns log a_S, (batch, T): log-softmax over valid frames of c' . q; -inf beyond.

    arXiv 2110.14131, section 2. The paper states neither scale nor temperature; none is applied.

    Args:
        frames: c', (batch, T, n_channels).
        query: q, (n_channels,).
        lengths: (batch,) valid frames.
    """
    scores = (frames @ query).float()  # (batch, T)
    valid = torch.arange(scores.shape[1], device=scores.device) < lengths[:, None]
    return scores.masked_fill(~valid, -torch.inf).log_softmax(dim=1)


def temporal_kd_loss(log_student: Tensor, teacher: Tensor) -> Tensor:
    """Returns L_KD = KL(a_T || a_S), mean over the batch, a scalar (arXiv 2110.14131, section 2).

    Args:
        log_student: log a_S, (batch, T), -inf beyond the valid frames.
        teacher: a_T on the student's frames, (batch, T), sum 1, 0 beyond the valid frames.
    """
    # Where a_T is 0 the term is 0 (its limit), also beyond the valid frames, where log a_S is -inf.
    difference = teacher.clamp_min(1e-30).log() - log_student.masked_fill(teacher == 0, 0)
    return (teacher * difference).sum(dim=1).mean()


def combined_loss(task: Tensor, temporal: Tensor, kd_weight: float) -> Tensor:
    """Returns (1 - kd_weight) * task + kd_weight * temporal.

    The paper (arXiv 2110.14131, section 2) says "a weighted combination" and no more; the convex form is ours.
    """
    return (1 - kd_weight) * task + kd_weight * temporal
