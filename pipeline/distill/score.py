"""What a student scores, and where it looks."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.distill.data import Split
from pipeline.distill.losses import student_attention
from pipeline.frames import mean_share, share_in_event, student_grid, teacher_grid, without_readout
from students import Student

_BATCH_SIZE = 100


@dataclass(frozen=True)
class Scores:
    """Of one split: `accuracy`, and the share of the student's attention inside the events (None: none known)."""

    accuracy: float
    attention_in_event: float | None

    def __str__(self) -> str:
        share = "" if self.attention_in_event is None else f", attention in event {self.attention_in_event:.2f}"
        return f"accuracy {self.accuracy:.4f}{share}"


@torch.inference_mode()
def score(student: Student, query: Tensor, split: Split, metadata: dict[str, Any]) -> Scores:
    """Returns the scores of a student on a split, in float32."""
    training = student.training
    student.eval()
    grid, n_right, shares = student_grid(metadata, student), 0, []
    for batch in split.batches(_BATCH_SIZE):
        batch = batch.to(query.device)
        out = student(batch.features.float(), batch.lengths)
        n_right += int((out.logits.argmax(dim=1) == batch.labels).sum())
        attention = student_attention(out.frames, query, out.lengths).exp()
        shares.append(share_in_event(attention, grid, batch.event_start, batch.event_stop))
    student.train(training)
    return Scores(n_right / len(split), mean_share(torch.cat(shares)))


def score_teacher(split: Split, metadata: dict[str, Any]) -> tuple[Scores, float | None]:
    """Returns the scores of the cached teacher, and the share of equal weights inside the events."""
    readout, right, shares, uniform = metadata["teacher"].get("readout", ""), [], [], []
    for batch in split.batches(_BATCH_SIZE):
        right.append(batch.teacher_logits.argmax(dim=1) == batch.labels)
        event = teacher_grid(metadata), batch.event_start, batch.event_stop
        shares.append(share_in_event(without_readout(batch.weights, readout), *event))
        valid = (torch.arange(batch.weights.shape[1]) < batch.weight_lengths[:, None]).float()
        uniform.append(share_in_event(without_readout(valid, readout), *event))
    scores = Scores(float(torch.cat(right).float().mean()), mean_share(torch.cat(shares)))
    return scores, mean_share(torch.cat(uniform))
