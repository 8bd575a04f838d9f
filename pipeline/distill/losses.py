"""Loss terms, each a pure function of tensors."""

import torch
from torch import Tensor
from torch.nn import functional


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


def own_attention(attention: Tensor) -> Tensor:
    """Returns log a_S, (batch, T), of a student that has attention of its own, the mean of its heads.

    Args:
        attention: (batch, T), sum 1 over the valid frames, 0 beyond.
    """
    return attention.float().clamp_min(1e-30).log()  # the floor keeps the divergence finite where a softmax underflows


def temporal_kd_loss(log_student: Tensor, teacher: Tensor) -> Tensor:
    """Returns L_KD = KL(a_T || a_S) of each clip, (batch,) (arXiv 2110.14131, section 2).

    Args:
        log_student: log a_S, (batch, T), -inf beyond the valid frames.
        teacher: a_T on the student's frames, (batch, T), sum 1, 0 beyond the valid frames.
    """
    # Where a_T is 0 the term is 0 (its limit), also beyond the valid frames, where log a_S is -inf.
    difference = teacher.clamp_min(1e-30).log() - log_student.masked_fill(teacher == 0, 0)
    return (teacher * difference).sum(dim=1)


def logit_kd_loss(task: str, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Returns the loss to the teacher's logits of each clip, (batch,).

    single_label: t^2 KL(softmax(z_T / t) || softmax(z_S / t)) (Hinton et al. 2015, arXiv 1503.02531, section 2, whose
    cross-entropy differs by a constant). multi_label: the same for every class by itself, between sigmoid(z_T / t) and
    sigmoid(z_S / t), averaged over the classes; it, too, is 0 where they agree.

    Args:
        task: single_label or multi_label.
        student: z_S, (batch, n_classes).
        teacher: z_T, (batch, n_classes).
        temperature: t.
    """
    student, teacher = student.float() / temperature, teacher.float() / temperature
    if task == "single_label":
        divergence = functional.kl_div(
            student.log_softmax(dim=1), teacher.log_softmax(dim=1), reduction="none", log_target=True
        ).sum(dim=1)
    else:
        soft = teacher.sigmoid()
        cross = functional.binary_cross_entropy_with_logits(student, soft, reduction="none")
        entropy = functional.binary_cross_entropy_with_logits(teacher, soft, reduction="none")
        divergence = (cross - entropy).mean(dim=1)
    return temperature**2 * divergence


def combined_loss(task: Tensor, distillation: list[tuple[float, Tensor]], combination: str) -> Tensor:
    """Returns task and distillation terms as one loss.

    convex: (1 - sum of the weights) * task + sum of weight * term. additive: the task's weight stays 1. The paper
    (arXiv 2110.14131, section 2) says "a weighted combination" and no more; that the convex one is meant is ours.

    Args:
        task: A scalar, or (batch,).
        distillation: Weight and term, of the task's shape.
        combination: convex or additive.
    """
    rest = 1 - sum(weight for weight, _ in distillation) if combination == "convex" else 1.0
    return rest * task + sum(weight * term for weight, term in distillation)
