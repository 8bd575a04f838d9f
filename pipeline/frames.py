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
    weights: Tensor, lengths: Tensor, source: FrameGrid, target: FrameGrid, target_lengths: Tensor, n_target: int
) -> Tensor:
    """Returns frame weights at the target's frames, (batch, n_target): >= 0, sum 1 over valid frames, 0 beyond.

    Linear interpolation, as arXiv 2110.14131 section 2, but in time rather than by stretching one axis onto the other:
    each target frame reads the weights at its own centre, the outermost value where it lies outside. Then renormalised
    over the valid target frames.

    Args:
        weights: (batch, T), >= 0, 0 beyond `lengths`.
        lengths: (batch,) valid source frames.
        source: Times of the source frames.
        target: Times of the target frames.
        target_lengths: (batch,) valid target frames.
        n_target: Target frames to return.
    """
    frames = torch.arange(n_target, device=weights.device)
    position = (target.offset + target.hop_length * frames - source.offset) / source.hop_length  # in source frames
    last = (lengths - 1).to(position.dtype)[:, None]
    position = torch.minimum(position.clamp_min(0)[None], last)  # (batch, n_target)
    left = position.floor()
    fraction = position - left
    left = left.long()
    right = torch.minimum(left + 1, lengths[:, None] - 1)
    aligned = (1 - fraction) * weights.gather(1, left) + fraction * weights.gather(1, right)
    aligned = aligned * (frames < target_lengths[:, None])
    return aligned / aligned.sum(dim=1, keepdim=True).clamp_min(1e-12)


def share_in_event(weights: Tensor, grid: FrameGrid, start: Tensor, stop: Tensor) -> Tensor:
    """Returns the share of each clip's weights that lies on frames centred in its event, (batch,); NaN without event.

    Args:
        weights: (batch, T), >= 0.
        grid: Times of the frames.
        start: (batch,) first sample of the event; -1: unknown, or no event.
        stop: (batch,) sample after its last.
    """
    centre = grid.offset + grid.hop_length * torch.arange(weights.shape[1], device=weights.device)
    inside = (centre >= start[:, None]) & (centre < stop[:, None])
    shares = (weights * inside).sum(dim=1) / weights.sum(dim=1).clamp_min(1e-12)
    return shares.masked_fill(start < 0, torch.nan)


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
