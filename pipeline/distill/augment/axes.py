"""The axes of a batch: when each frame is, which frequencies each bin hears, and reading a batch at other times."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.distill.data import Clips
from pipeline.errors import TkdError
from pipeline.frames import FrameGrid, teacher_grid


@dataclass(frozen=True)
class Axes:
    """Times of a cache's frames and frequencies of its mel bins.

    Frame 0 begins at sample 0 (no padding), so that a frame is heard for `2 * offset + 1` samples.
    """

    features: FrameGrid
    weights: FrameGrid
    sample_rate: int  # Hz
    n_fft: int
    n_mels: int
    f_min: float  # Hz
    f_max: float  # Hz
    floor: float  # natural logarithm of the smallest mel energy

    def n_samples(self, clips: Clips) -> Tensor:
        """Returns the fewest samples that clips with so many frames have, (n,) int64."""
        return torch.maximum(n_samples(self.features, clips.lengths), n_samples(self.weights, clips.weight_lengths))

    def mel_edges(self) -> Tensor:
        """Returns the frequencies in Hz at which the bins' triangles begin, peak and end, (n_mels + 2,): HTK's scale.

        Bin m rises from edge m to m + 1 and falls to edge m + 2.
        """
        low, high = (2595 * math.log10(1 + frequency / 700) for frequency in (self.f_min, self.f_max))
        return 700 * (10 ** (torch.linspace(low, high, self.n_mels + 2) / 2595) - 1)

    def mel_filters(self) -> Tensor:
        """Returns the bins' triangles over the bins of the Fourier transform, (n_mels, n_fft // 2 + 1), peak 1."""
        frequency = torch.linspace(0, self.sample_rate / 2, self.n_fft // 2 + 1)
        edges = self.mel_edges()[:, None]
        rising = (frequency - edges[:-2]) / (edges[1:-1] - edges[:-2])
        falling = (edges[2:] - frequency) / (edges[2:] - edges[1:-1])
        return torch.minimum(rising, falling).clamp_min(0)


def axes_of(metadata: dict[str, Any]) -> Axes:
    """Returns the axes of a cache with these metadata.

    Raises:
        TkdError: it does not say enough of its features.
    """
    features = metadata["features"]
    silent = [name for name in ("n_fft", "n_mels", "f_min", "f_max", "frame_offset", "floor") if name not in features]
    if silent:
        raise TkdError(
            f"The cache does not say {', '.join(silent)} of its features, which augmentation needs. Train with "
            "--augment none."
        )
    return Axes(
        FrameGrid(features["hop_length"], features["frame_offset"]),
        teacher_grid(metadata),
        *(features[name] for name in ("sample_rate", "n_fft", "n_mels", "f_min", "f_max")),
        math.log(features["floor"]),
    )


def n_samples(grid: FrameGrid, n_frames: Tensor) -> Tensor:
    """Returns the fewest samples in which so many frames lie, (n,) int64."""
    return ((n_frames.double() - 1) * grid.hop_length + 2 * grid.offset + 1).round().long()


def n_frames(grid: FrameGrid, n_samples: Tensor) -> Tensor:
    """Returns how many frames lie wholly inside so many samples, (n,) int64; at least 1."""
    return ((n_samples.double() - 2 * grid.offset - 1) / grid.hop_length).floor().long().clamp_min(0) + 1


def valid_frames(lengths: Tensor, like: Tensor) -> Tensor:
    """Returns which frames are within a clip's length, (n, 1, ..., T) to go with `like` (n, ..., T)."""
    valid = torch.arange(like.shape[-1], device=like.device) < lengths[:, None]
    return valid.view(len(like), *[1] * (like.ndim - 2), like.shape[-1])


def read_at(values: Tensor, position: Tensor, lengths: Tensor) -> Tensor:
    """Returns values at other places on their time axis, (n, ..., T_new): linear between frames, exact on them.

    Args:
        values: (n, ..., T) float32.
        position: (n, T_new), in frames of `values`; beyond a clip's frames its outermost one is read.
        lengths: (n,) valid frames of `values`.
    """
    last = lengths[:, None] - 1
    position = torch.minimum(position.clamp_min(0), last)
    left = position.floor().long()
    shape = (len(values), *[1] * (values.ndim - 2), position.shape[1])

    def at(frames: Tensor) -> Tensor:
        return values.gather(-1, frames.view(shape).expand(*values.shape[:-1], -1))

    fraction = (position - left).view(shape)
    return (1 - fraction) * at(left) + fraction * at(torch.minimum(left + 1, last))


def over_maps(weights: Tensor) -> Tensor:
    """Returns where the teacher looked, (n, T) float32 on the CPU: of weights (n, n_maps, T) the mean over maps."""
    weights = weights.cpu().float()
    return weights.mean(dim=1) if weights.ndim > 2 else weights


def normalised(weights: Tensor, lengths: Tensor) -> Tensor:
    """Returns weights (n, ..., T) with sum 1 over the valid frames and 0 beyond; uniform where nothing is left."""
    valid = valid_frames(lengths, weights)
    weights = weights * valid
    total = weights.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp_min(1e-30), valid / lengths.view(-1, *[1] * (weights.ndim - 1)))
