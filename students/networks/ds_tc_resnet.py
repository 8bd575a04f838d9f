"""DS-TC-ResNet and MatchboxNet: residual blocks of convolutions separable in time and channels."""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from students.base import Student
from students.initialisation import keras_init
from students.masking import MaskedBatchNorm, mean_over_time, valid_mask


class BlockSize(NamedTuple):
    """One row of the layer table.

    Attributes:
        n_channels: Channels out.
        kernel_size: Of the convolutions over time, in frames, odd; 0: none, the block mixes channels alone.
        dilation: Of the same.
        n_repeats: Separable convolutions in a row.
        residual: Whether a shortcut, 1x1 convolution and BN, is added before the last ReLU.
    """

    n_channels: int
    kernel_size: int
    dilation: int = 1
    n_repeats: int = 1
    residual: bool = False


class SeparableConv(nn.Module):
    """Depthwise convolution over time, 1x1 convolution, BN; no biases, stride 1, "same" padding."""

    def __init__(self, n_inputs: int, size: BlockSize) -> None:
        """`n_inputs`: channels in."""
        super().__init__()
        self.depthwise = (
            nn.Conv1d(
                n_inputs,
                n_inputs,
                size.kernel_size,
                padding=size.dilation * (size.kernel_size // 2),
                dilation=size.dilation,
                groups=n_inputs,
                bias=False,
            )
            if size.kernel_size
            else nn.Identity()
        )
        self.pointwise = nn.Conv1d(n_inputs, size.n_channels, 1, bias=False)
        self.norm = MaskedBatchNorm(size.n_channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, n_channels, T) of x (batch, n_inputs, T); 0 beyond the valid frames if x is."""
        return self.norm(self.pointwise(self.depthwise(x)), mask)


class SeparableBlock(nn.Module):
    """Separable convolutions with ReLU between them, plus the shortcut, ReLU (arXiv 2004.08531, figure 1)."""

    def __init__(self, n_inputs: int, size: BlockSize) -> None:
        """`n_inputs`: channels in."""
        super().__init__()
        widths = [n_inputs] + [size.n_channels] * (size.n_repeats - 1)
        self.convs = nn.ModuleList(SeparableConv(width, size) for width in widths)
        self.shortcut = SeparableConv(n_inputs, BlockSize(size.n_channels, 0)) if size.residual else None

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, n_channels, T) of x (batch, n_inputs, T); 0 beyond the valid frames if x is."""
        y = x
        for n, conv in enumerate(self.convs):
            y = conv(torch.relu(y) if n else y, mask)
        return torch.relu(y if self.shortcut is None else y + self.shortcut(x, mask))


class DsTcResNet(Student):
    """Six blocks at the full frame rate; the mean over time is classified.

    ds_tc_resnet of kws_streaming (arXiv 2005.06720) with the sizes of its experiments, which are MatchboxNet-3x1x64's:
    separable convolutions of 11, 13, 15, 17 and 29 (dilated twice) frames, of which the second to fourth have a
    shortcut, then a 1x1 convolution behind a depthwise one of a single frame.

    73,220 parameters for 12 classes, 76,187 for 35; "75K" in its experiments, which do not say for how many. 40
    coefficients of 80 mel bins at a hop of 10 ms there. BatchNorm's moving statistics are counted, there is no dropout.

    Attributes:
        blocks_table: The blocks' sizes, first to last.
    """

    name = "ds_tc_resnet"
    paper = "arXiv 2005.06720"
    n_mfcc = 40
    n_channels = 128
    reach = 5 + 6 + 7 + 8 + 2 * 14
    blocks_table: ClassVar[tuple[BlockSize, ...]] = (
        BlockSize(128, 11),
        BlockSize(64, 13, residual=True),
        BlockSize(64, 15, residual=True),
        BlockSize(64, 17, residual=True),
        BlockSize(128, 29, dilation=2),
        BlockSize(128, 1),
    )

    def __init__(self, n_classes: int, n_mels: int) -> None:
        """73,220 parameters for 12 classes."""
        super().__init__(n_mels)
        widths = [self.n_mfcc] + [size.n_channels for size in self.blocks_table]
        self.blocks = nn.ModuleList(map(SeparableBlock, widths, self.blocks_table))
        self.classifier = nn.Linear(self.n_channels, n_classes)
        self.apply(keras_init)

    def encode(self, mfcc: Tensor, lengths: Tensor | None) -> Tensor:
        """The map before average pooling, (batch, T, 128)."""
        x, mask = mfcc, None if lengths is None else valid_mask(lengths, mfcc.shape[2])
        for block in self.blocks:
            x = block(x, mask)
        return x.transpose(1, 2)

    def read_out(self, frames: Tensor, lengths: Tensor | None) -> tuple[Tensor, None]:
        """Classifies the mean over the valid frames."""
        return self.classifier(mean_over_time(frames, lengths)), None


class MatchboxNet(DsTcResNet):
    """MatchboxNet-3x2x64 (arXiv 2004.08531, table 1): two separable convolutions in each residual block.

    The paper takes 64 coefficients of 64 mel bins at a hop of 10 ms; with those and without BatchNorm's moving
    statistics it has 92,766 parameters for 30 classes, 93 K as published. Here it takes 40 coefficients, which every
    cache has.
    """

    name = "matchboxnet_3x2x64"
    paper = "arXiv 2004.08531"
    reach = 5 + 2 * (6 + 7 + 8) + 2 * 14
    blocks_table = (
        BlockSize(128, 11),
        BlockSize(64, 13, n_repeats=2, residual=True),
        BlockSize(64, 15, n_repeats=2, residual=True),
        BlockSize(64, 17, n_repeats=2, residual=True),
        BlockSize(128, 29, dilation=2),
        BlockSize(128, 0),
    )
