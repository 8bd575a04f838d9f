"""What a student scores, and where it looks."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.distill.data import Clips
from pipeline.distill.losses import student_attention
from pipeline.frames import mean_share, share_in_event, student_grid
from students import Student


@dataclass(frozen=True)
class Scores:
    """Of one split: `accuracy`, and the share of the student's attention inside the events (None: none known)."""

    accuracy: float
    attention_in_event: float | None

    def __str__(self) -> str:
        share = "" if self.attention_in_event is None else f", attention in event {self.attention_in_event:.2f}"
        return f"accuracy {self.accuracy:.4f}{share}"


@torch.inference_mode()
def score(student: Student, query: Tensor, clips: Clips, metadata: dict[str, Any], batch_size: int = 100) -> Scores:
    """Returns the scores of a student on clips, in float32."""
    training = student.training
    student.eval()
    grid, n_right, shares = student_grid(metadata, student), 0, []
    for batch in clips.batches(batch_size):
        batch = batch.to(query.device)
        out = student(batch.features.float(), batch.lengths)
        n_right += int((out.logits.argmax(dim=1) == batch.labels).sum())
        attention = student_attention(out.frames, query, out.lengths).exp()
        shares.append(share_in_event(attention, grid, batch.event_start, batch.event_stop))
    student.train(training)
    return Scores(n_right / len(clips), mean_share(torch.cat(shares)))
