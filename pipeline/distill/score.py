"""What a student scores, and where it looks."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.distill.data import Clips
from pipeline.distill.losses import student_attention
from pipeline.frames import FrameGrid, align, share_in_event, student_grid, without_first
from students import Student


@dataclass(frozen=True)
class Scores:
    """Of one split: `accuracy`, and the share of the student's attention inside the events (NaN: none known)."""

    accuracy: float
    attention_in_event: float


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
    return Scores(n_right / len(clips), float(torch.cat(shares).nanmean()))


def target_weights(
    clips: Clips, source: FrameGrid, target: FrameGrid, lengths: Tensor, n_frames: int, first_frame: str
) -> Tensor:
    """Returns a_T on the student's frames, (batch, n_frames); see `align`.

    Args:
        clips: A batch.
        source: The teacher's grid.
        target: The student's grid.
        lengths: (batch,) valid student frames.
        n_frames: Student frames.
        first_frame: "drop" leaves the rollout's first entry out, "keep" takes the rollout as it stands.
    """
    weights = without_first(clips.weights) if first_frame == "drop" else clips.weights
    return align(weights, clips.weight_lengths, source, target, lengths, n_frames)
