"""Keeping padding out of the results. Time is the last dimension of `x`, the second of `frames`."""

import torch
from torch import Tensor, nn


def valid_mask(lengths: Tensor, n_frames: int) -> Tensor:
    """(batch, n_frames), bool: True on the first `lengths` frames of each clip."""
    return torch.arange(n_frames, device=lengths.device) < lengths.unsqueeze(1)


def frame_at(frames: Tensor, index: Tensor) -> Tensor:
    """(batch, n_channels): of frames (batch, T, n_channels), each clip's own frame `index` (batch,)."""
    return frames[torch.arange(len(frames), device=frames.device), index]


def mean_over_time(frames: Tensor, lengths: Tensor | None) -> Tensor:
    """(batch, n_channels): the mean over the valid frames of frames (batch, T, n_channels), 0 beyond `lengths`."""
    return frames.mean(1) if lengths is None else frames.sum(1) / lengths.unsqueeze(1)


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation to whose statistics only valid frames contribute, with Keras's constants unless told others.

    Plain BatchNorm would average over the padding too, and a clip would be trained differently in a longer batch.
    """

    def __init__(self, n_channels: int, eps: float = 1e-3, momentum: float = 0.01) -> None:
        """`n_channels`: size of dimension 1 of what is normalised; torch's `momentum` is 1 - Keras's (0.99)."""
        super().__init__(n_channels, eps=eps, momentum=momentum)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalised x, 0 where masked out.

        Args:
            x: (batch, n_channels, T) or (batch, n_channels, n_rows, T).
            mask: (batch, T), bool, True on valid frames; None when all are.
        """
        if mask is None:
            return super().forward(x)
        normalised = torch.zeros_like(x)
        by_frame = normalised.movedim(-1, 1)  # a view, (batch, T, n_channels[, n_rows])
        by_frame[mask] = super().forward(x.movedim(-1, 1)[mask])
        return normalised

    def _check_input_dim(self, input: Tensor) -> None:
        """Rows are taken too, as by BatchNorm2d."""
