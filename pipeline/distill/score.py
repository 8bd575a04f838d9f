"""What a student scores, and where it looks."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.distill.alignment import FrameGrid, align, frames_inside, student_grid
from pipeline.distill.data import Clips
from pipeline.distill.losses import student_attention
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
        shares.append(share_inside(attention, grid, batch))
    student.train(training)
    return Scores(n_right / len(clips), float(torch.cat(shares).nanmean()))


def share_inside(weights: Tensor, grid: FrameGrid, clips: Clips) -> Tensor:
    """Returns the share of each clip's weights (batch, T) on frames centred in its event; NaN where there is none."""
    inside = frames_inside(grid, clips.event_start, clips.event_stop, weights.shape[1])
    shares = (weights * inside).sum(dim=1) / weights.sum(dim=1).clamp_min(1e-12)
    return shares.masked_fill(clips.event_start < 0, torch.nan)


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
        first_frame: "drop" leaves the rollout's first entry out: the readout token attends to itself through every
            residual, whatever the sound is. "keep" is the rollout as it stands.
    """
    weights = clips.weights
    if first_frame == "drop":
        weights = weights.clone()
        weights[:, 0] = 0
    return align(weights, clips.weight_lengths, source, target, lengths, n_frames)
