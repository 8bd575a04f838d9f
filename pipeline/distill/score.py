"""What a student scores, and where it looks."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.distill.data import Split
from pipeline.distill.losses import student_attention
from pipeline.frames import mean_share, share_in_event, student_grid, teacher_grid, without_readout
from pipeline.tasks import METRICS, task_score
from students import Student

_BATCH_SIZE = 100


@dataclass(frozen=True)
class Scores:
    """Of one split: the task's metric, and the share of the attention inside the events (None: none known)."""

    metric: str  # accuracy or mAP
    value: float  # of the metric, 0 to 1
    attention_in_event: float | None

    def __str__(self) -> str:
        share = "" if self.attention_in_event is None else f", attention in event {self.attention_in_event:.2f}"
        return f"{self.metric} {self.value:.4f}{share}"


@torch.inference_mode()
def score(student: Student, query: Tensor, split: Split, metadata: dict[str, Any]) -> Scores:
    """Returns the scores of a student on a split, in float32."""
    training = student.training
    student.eval()
    grid, logits, shares = student_grid(metadata, student), [], []
    for batch in split.batches(_BATCH_SIZE):
        batch = batch.to(query.device)
        out = student(batch.features.float(), batch.lengths)
        logits.append(out.logits.cpu())
        attention = student_attention(out.frames, query, out.lengths).exp()
        shares.append(share_in_event(attention, grid, batch.event_start, batch.event_stop))
    student.train(training)
    return _scores(split, logits, shares)


def score_teacher(split: Split, metadata: dict[str, Any]) -> tuple[Scores, float | None]:
    """Returns the scores of the cached teacher, and the share of equal weights inside the events."""
    readout, logits, shares, uniform = metadata["teacher"].get("readout", ""), [], [], []
    for batch in split.batches(_BATCH_SIZE):
        logits.append(batch.teacher_logits)
        event = teacher_grid(metadata), batch.event_start, batch.event_stop
        shares.append(share_in_event(without_readout(batch.weights, readout), *event))
        valid = (torch.arange(batch.weights.shape[1]) < batch.weight_lengths[:, None]).float()
        uniform.append(share_in_event(without_readout(valid, readout), *event))
    return _scores(split, logits, shares), mean_share(torch.cat(uniform))


def _scores(split: Split, logits: list[Tensor], shares: list[Tensor]) -> Scores:
    """Returns the scores of all clips of a split, batch by batch in their order."""
    task = split.cache.task
    return Scores(METRICS[task], task_score(task, torch.cat(logits), split.labels), mean_share(torch.cat(shares)))
