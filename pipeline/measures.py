"""How well attention points: measures of frame weights against the event."""

import torch
from torch import Tensor

from pipeline.frames import FrameGrid, share_in_event


def measure(
    weights: Tensor, lengths: Tensor, grid: FrameGrid, start: Tensor, stop: Tensor, sample_rate: int
) -> dict[str, Tensor]:
    """Returns measures of each clip's frame weights, (batch,) float32 each; NaN where the event is unknown.

    `in_event`: the share of the weight on frames centred in the event. `peak_in_event`: 1 if the largest weight's frame
    is centred in it, else 0 (the pointing game of Zhang et al. 2016, arXiv 1608.00507, with no tolerance).
    `peak_distance_seconds`: how far that centre is from the event, 0 inside. `entropy`: of the weights, over that of
    equal ones: 1 where all valid frames weigh the same, 0 where one has all (known for every clip).

    Args:
        weights: (batch, T), >= 0, sum 1, 0 beyond `lengths`.
        lengths: (batch,) valid frames.
        grid: Times of the frames.
        start: (batch,) first sample of the event; -1: unknown, or no event.
        stop: (batch,) sample after its last.
        sample_rate: Hz.
    """
    peak = grid.offset + grid.hop_length * weights.argmax(dim=1)  # samples
    inside, unknown = (peak >= start) & (peak < stop), start < 0
    distance = torch.maximum(start - peak, peak - (stop - 1)).masked_fill(inside, 0) / sample_rate
    entropy = torch.special.entr(weights.float()).sum(dim=1) / lengths.clamp_min(2).log()
    return {
        "in_event": share_in_event(weights, grid, start, stop),
        "peak_in_event": inside.float().masked_fill(unknown, torch.nan),
        "peak_distance_seconds": distance.float().masked_fill(unknown, torch.nan),
        "entropy": entropy,
    }
