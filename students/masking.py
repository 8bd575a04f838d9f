"""Keeping padding out of the results. Time is the last dimension of `x`, the second of `frames`."""

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm


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

    The moving statistics are plain means over the first 1 / momentum steps: an average that starts from 0 and 1, as
    torch's and Keras's does, is still mostly those after the few steps that a small data set gives, and a network
    that has learned is scored as if it had not.
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
            return self._normalise(x)
        normalised = torch.zeros_like(x)
        by_frame = normalised.movedim(-1, 1)  # a view, (batch, T, n_channels[, n_rows])
        by_frame[mask] = self._normalise(x.movedim(-1, 1)[mask])
        return normalised

    def _normalise(self, x: Tensor) -> Tensor:
        """x by its own statistics in training; else, and where it has one value a channel, by the moving ones."""
        moving, affine = (self.running_mean, self.running_var), (self.weight, self.bias)
        if not self.training or x.numel() == x.shape[1]:
            return batch_norm(x, *moving, *affine, eps=self.eps)
        own = [torch.zeros_like(statistic) for statistic in moving]
        normalised = batch_norm(x, *own, *affine, training=True, momentum=1.0, eps=self.eps)  # and fills `own`
        self.num_batches_tracked.add_(1)
        share = (1 / self.num_batches_tracked).clamp_min(self.momentum)
        for statistic, value in zip(moving, own, strict=True):
            statistic.lerp_(value, share)
        return normalised

    def _check_input_dim(self, input: Tensor) -> None:
        """Rows are taken too, as by BatchNorm2d."""
