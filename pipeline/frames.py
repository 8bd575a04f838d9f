"""Teacher frames to student frames: the one place where the two clocks meet."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from students import Student


@dataclass(frozen=True)
class FrameGrid:
    """Frames at regular times: frame i is centred at sample `offset + i * hop_length`."""

    hop_length: float  # samples
    offset: float  # samples


def teacher_grid(metadata: dict[str, Any]) -> FrameGrid:
    """Returns the grid of a cache's frame weights."""
    return FrameGrid(metadata["teacher"]["hop_length"], metadata["teacher"]["frame_offset"])


def student_grid(metadata: dict[str, Any], student: Student) -> FrameGrid:
    """Returns the grid of a student's frames, on a cache's features."""
    features = metadata["features"]
    return FrameGrid(
        student.stride * features["hop_length"],
        features["frame_offset"] + student.offset * features["hop_length"],
    )


def align(
    weights: Tensor,
    lengths: Tensor,
    source: FrameGrid,
    target: FrameGrid,
    target_lengths: Tensor,
    n_target: int,
    how: str = "area",
) -> Tensor:
    """Returns frame weights on the target's frames, (batch, n_target): >= 0, sum 1 over valid frames, 0 beyond.

    Both ways go by time, where arXiv 2110.14131, section 2, stretches one axis onto the other. `area`: a target frame
    gets the mass that lies in its span, from halfway to the frame before to halfway to the next (the outermost two:
    to the clip's ends), each source frame's mass spread evenly over its own span. Nothing is lost at any stride.
    `linear`: it gets the weight at its centre, interpolated as in the paper (the outermost value outside): where it is
    longer than a source frame, a peak between two centres is missed. At equal hops the two agree.

    Args:
        weights: (batch, T), >= 0, 0 beyond `lengths`.
        lengths: (batch,) valid source frames.
        source: Times of the source frames.
        target: Times of the target frames.
        target_lengths: (batch,) valid target frames.
        n_target: Target frames to return.
        how: area or linear.
    """
    frames = torch.arange(n_target, device=weights.device)
    position = (target.offset + target.hop_length * frames - source.offset) / source.hop_length  # in source frames
    if how == "area":
        stop = torch.where(
            frames < target_lengths[:, None] - 1, position + target.hop_length / source.hop_length / 2, torch.inf
        )
        aligned = _masses(weights, lengths, stop + 0.5)
    else:
        aligned = _interpolated(weights, lengths, position)
    aligned = aligned * (frames < target_lengths[:, None])
    return aligned / aligned.sum(dim=1, keepdim=True).clamp_min(1e-12)


def _masses(weights: Tensor, lengths: Tensor, stop: Tensor) -> Tensor:
    """Returns the mass up to each of the rising points `stop`, (batch, n), from the one before.

    Frame i reaches from i to i + 1.
    """
    stop = torch.minimum(stop.clamp_min(0), lengths[:, None])
    frame = stop.long().clamp_max(weights.shape[1] - 1)
    before = torch.nn.functional.pad(weights.cumsum(dim=1), (1, 0)).gather(1, frame)
    up_to = before + (stop - frame) * weights.gather(1, frame)
    return up_to.diff(dim=1, prepend=torch.zeros_like(up_to[:, :1])).clamp_min(0)  # below 0 by rounding alone


def _interpolated(weights: Tensor, lengths: Tensor, position: Tensor) -> Tensor:
    """Returns the weights at the points `position`, (n,), of the axis on which frame i is at i; (batch, n)."""
    position = torch.minimum(position.clamp_min(0)[None], lengths[:, None] - 1)
    left = position.floor()
    fraction = position - left
    left = left.long()
    right = torch.minimum(left + 1, lengths[:, None] - 1)
    return (1 - fraction) * weights.gather(1, left) + fraction * weights.gather(1, right)


def share_in_event(weights: Tensor, grid: FrameGrid, start: Tensor, stop: Tensor) -> Tensor:
    """Returns the share of each clip's weights that lies on frames centred in its event, (batch,); NaN without event.

    Args:
        weights: (batch, T), >= 0.
        grid: Times of the frames.
        start: (batch,) first sample of the event; -1: unknown, or no event.
        stop: (batch,) sample after its last.
    """
    inside = in_event(grid, weights.shape[1], start, stop)
    shares = (weights * inside).sum(dim=1) / weights.sum(dim=1).clamp_min(1e-12)
    return shares.masked_fill(start < 0, torch.nan)


def in_event(grid: FrameGrid, n_frames: int, start: Tensor, stop: Tensor) -> Tensor:
    """Returns which frames are centred in each clip's event, (batch, n_frames) bool; none where it is -1, unknown.

    Args:
        grid: Times of the frames.
        n_frames: How many there are.
        start: (batch,) first sample of the event.
        stop: (batch,) sample after its last.
    """
    centre = grid.offset + grid.hop_length * torch.arange(n_frames, device=start.device)
    return (centre >= start[:, None]) & (centre < stop[:, None])


def without_first(weights: Tensor) -> Tensor:
    """Returns the weights (batch, T) with frame 0 at zero: the readout token's own place in a rollout.

    The token keeps weight on itself through every layer's residual, wherever the sound is.
    """
    weights = weights.clone()
    weights[:, 0] = 0
    return weights


def without_readout(weights: Tensor, readout: str) -> Tensor:
    """Returns a rollout (batch, T) without the readout's own place, if the readout has one: first_token."""
    return without_first(weights) if readout == "first_token" else weights


def mean_share(shares: Tensor) -> float | None:
    """Returns the mean of shares (batch,) over the clips whose event is known; None if no clip's is."""
    mean = float(shares.nanmean())
    return None if math.isnan(mean) else mean
