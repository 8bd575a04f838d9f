"""BC-ResNet: convolutions over frequency, averaged, convolved over time, and broadcast back over frequency."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from students.base import Student
from students.masking import MaskedBatchNorm, mean_over_time, valid_mask

N_BANDS = 5  # of sub-spectral normalisation


def batch_norm(n_channels: int) -> MaskedBatchNorm:
    """BatchNorm with torch's constants, which the authors use."""
    return MaskedBatchNorm(n_channels, eps=1e-5, momentum=0.1)


class SubSpectralNorm(nn.Module):
    """BatchNorm with statistics and scales of its own for each of five bands (arXiv 2103.13620)."""

    def __init__(self, n_channels: int) -> None:
        """`n_channels`: channels of what is normalised."""
        super().__init__()
        self.norm = batch_norm(n_channels * N_BANDS)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Normalised x (batch, n_channels, n_rows, T), 0 where mask (batch, T) is False; n_rows a multiple of 5."""
        banded = x.reshape(x.shape[0], -1, x.shape[2] // N_BANDS, x.shape[3])  # (batch, n_channels * 5, n_rows / 5, T)
        return self.norm(banded, mask).view_as(x)


class BroadcastBlock(nn.Module):
    """y = ReLU(x + f2(x) + BC(f1(avgpool(f2(x))))) (arXiv 2106.04140, equation 2 and figure 2).

    f2: depthwise 3x1 over frequency, SubSpectralNorm. f1: mean over frequency, dilated depthwise 1x3 over time, BN,
    swish, 1x1, channel-wise dropout; BC repeats it for every row. Where the width changes, a 1x1 conv-BN-ReLU stands
    before f2 and x is not added (the "transition block").
    """

    def __init__(self, n_inputs: int, n_channels: int, dilation: int, stride: int) -> None:
        """A block from `n_inputs` to `n_channels` channels; `dilation` over time, `stride` over frequency."""
        super().__init__()
        self.transition = n_inputs != n_channels
        if self.transition:
            self.widen = nn.Conv2d(n_inputs, n_channels, 1, bias=False)
            self.widen_norm = batch_norm(n_channels)
        self.frequency = nn.Conv2d(
            n_channels, n_channels, (3, 1), (stride, 1), padding=(1, 0), groups=n_channels, bias=False
        )
        self.frequency_norm = SubSpectralNorm(n_channels)
        self.time = nn.Conv1d(
            n_channels, n_channels, 3, padding=dilation, dilation=dilation, groups=n_channels, bias=False
        )
        self.time_norm = batch_norm(n_channels)
        self.mix = nn.Conv1d(n_channels, n_channels, 1, bias=False)
        self.dropout = nn.Dropout1d(0.1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, n_channels, ceil(n_rows / stride), T) of x (batch, n_inputs, n_rows, T), 0 where mask is False."""
        wide = torch.relu(self.widen_norm(self.widen(x), mask)) if self.transition else x
        rows = self.frequency_norm(self.frequency(wide), mask)
        y = self.time_norm(self.time(rows.mean(2)), mask)
        y = self.dropout(self.mix(nn.functional.silu(y))).unsqueeze(2)  # (batch, n_channels, 1, T)
        y = y + rows
        return torch.relu(y if self.transition else y + x)


class BcResNet1(Student):
    """BC-ResNet-1: 12 broadcasted residual blocks in four stages, on the log-mel energies themselves.

    Kim et al. 2021 (arXiv 2106.04140), table 1, and the authors' code: conv 5x5 to 2 c channels, stride 2 over
    frequency; stages of 2, 2, 4, 4 blocks of c, 1.5 c, 2 c, 2.5 c channels, dilated 1, 2, 4, 8 times over time, the
    second and third at stride 2 over frequency; depthwise 5x5 and 1x1 to 4 c channels; mean; linear. No stride in time.

    9.2 k parameters for 12 classes as published: the trained ones, without BatchNorm's moving statistics. Published
    on features at a 10 ms hop, 30 ms window.

    Attributes:
        width: c. The larger networks are as many times as wide as their names say.
    """

    name = "bc_resnet_1"
    paper = "arXiv 2106.04140"
    n_mfcc = 0
    n_channels = 32
    reach = 2 + 2 * 1 + 2 * 2 + 4 * 4 + 4 * 8 + 2
    width: ClassVar[int] = 8

    def __init__(self, n_classes: int, n_mels: int) -> None:
        """A fresh network; `n_mels` is 40 as published, or a multiple of it.

        Raises:
            ValueError: If `n_mels` is no multiple of 40.
        """
        super().__init__(n_mels)
        if n_mels % 40:
            raise ValueError(
                f"{self.name}: n_mels is {n_mels}, expected 40 or a multiple of it: it halves the mel bins three times "
                "and cuts them into five bands. Compute the features with 40 mel bins, or use another student."
            )
        c = self.width
        self.conv = nn.Conv2d(1, 2 * c, 5, (2, 1), padding=2, bias=False)  # kernel: mel bins x frames
        self.norm = batch_norm(2 * c)
        self.blocks = nn.ModuleList()
        n_inputs = 2 * c
        stages = ((2, c, 1, 1), (2, c * 3 // 2, 2, 2), (4, 2 * c, 4, 2), (4, c * 5 // 2, 8, 1))
        for n_blocks, n_channels, dilation, stride in stages:
            for n in range(n_blocks):
                self.blocks.append(BroadcastBlock(n_inputs, n_channels, dilation, 1 if n else stride))
                n_inputs = n_channels
        self.head = nn.Conv2d(n_inputs, n_inputs, 5, padding=(0, 2), groups=n_inputs, bias=False)
        self.head_mix = nn.Conv2d(n_inputs, self.n_channels, 1, bias=False)
        self.head_norm = batch_norm(self.n_channels)
        self.classifier = nn.Linear(self.n_channels, n_classes)

    def encode(self, mfcc: Tensor, lengths: Tensor | None) -> Tensor:
        """The map before the mean over time, its rows averaged (with 40 mel bins there is one), (batch, T, 4 c)."""
        mask = None if lengths is None else valid_mask(lengths, mfcc.shape[2])
        x = torch.relu(self.norm(self.conv(mfcc.unsqueeze(1)), mask))  # (batch, 2 c, n_mels / 2, T)
        for block in self.blocks:
            x = block(x, mask)
        x = torch.relu(self.head_norm(self.head_mix(self.head(x)), mask))  # (batch, 4 c, n_mels / 8 - 4, T)
        return x.mean(2).transpose(1, 2)

    def read_out(self, frames: Tensor, lengths: Tensor | None) -> tuple[Tensor, None]:
        """Classifies the mean over the valid frames."""
        return self.classifier(mean_over_time(frames, lengths)), None


class BcResNet2(BcResNet1):
    """Twice as wide: 27.3 k trained parameters as published."""

    name = "bc_resnet_2"
    width = 16
    n_channels = 64


class BcResNet3(BcResNet1):
    """Three times as wide: 54.2 k trained parameters as published."""

    name = "bc_resnet_3"
    width = 24
    n_channels = 96


class BcResNet6(BcResNet1):
    """Six times as wide: 188 k trained parameters as published."""

    name = "bc_resnet_6"
    width = 48
    n_channels = 192


class BcResNet8(BcResNet1):
    """Eight times as wide: 321 k trained parameters as published."""

    name = "bc_resnet_8"
    width = 64
    n_channels = 256
