"""TC-ResNet: temporal convolutions that see the coefficients as channels."""

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from students.base import Student
from students.convolution import conv_over_time
from students.initialisation import keras_init
from students.masking import MaskedBatchNorm, mean_over_time, valid_mask


class ResidualBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus shortcut, then ReLU (Choi et al. 2019, arXiv 1904.03814, figure 2).

    Where the width changes, the block halves the frame rate and its shortcut is a 1x1 conv-BN-ReLU.
    """

    kernel_size = 9  # frames

    def __init__(self, n_inputs: int, n_channels: int, bias: bool) -> None:
        """A block from `n_inputs` to `n_channels` channels; `bias`: whether its convolutions have one."""
        super().__init__()
        self.stride = 1 if n_inputs == n_channels else 2
        # TensorFlow's "same" padding at stride 2 puts its extra frame before or after by the clip's parity. For an
        # odd count, as every clip of arXiv 2110.14131 has (49, 99, 199, ...), it is this padding exactly; for an even
        # one it would shift the grid by a frame, away from the shortcut's and by the clip's length, so that
        # padding a batch would change the result. Here frame j is centred on the block's input frame 2 j at any length.
        padding = self.kernel_size // 2
        self.conv1 = nn.Conv1d(n_inputs, n_channels, self.kernel_size, self.stride, padding, bias=bias)
        self.norm1 = MaskedBatchNorm(n_channels)
        self.conv2 = nn.Conv1d(n_channels, n_channels, self.kernel_size, padding=padding, bias=bias)
        self.norm2 = MaskedBatchNorm(n_channels)
        if self.stride > 1:
            self.shortcut_conv = nn.Conv1d(n_inputs, n_channels, 1, self.stride, bias=bias)
            self.shortcut_norm = MaskedBatchNorm(n_channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Output (batch, n_channels, 1, ceil(T / stride)), 0 where masked out.

        Args:
            x: (batch, n_inputs, 1, T), 0 beyond each clip's valid frames.
            mask: (batch, ceil(T / stride)), bool, valid frames of the output; None when all are.
        """
        y = torch.relu(self.norm1(conv_over_time(self.conv1, x), mask))
        y = self.norm2(conv_over_time(self.conv2, y), mask)
        if self.stride > 1:
            x = torch.relu(self.shortcut_norm(conv_over_time(self.shortcut_conv, x), mask))
        return torch.relu(x + y)


class TcResNet(Student):
    """Six residual blocks of 50, 50, 50, 50, 72, 72 channels; the mean over time is classified.

    The sizes are those of kws_streaming (arXiv 2005.06720), whose convolutions have biases; the original's are
    `TcResNet8` and `TcResNet14`.

    Attributes:
        widths: Channels of the first convolution, then of each block.
        bias: Whether convolutions have biases.
        dropout_rate: Of the mean over time.
    """

    name = "tc_resnet"
    paper = "arXiv 2005.06720"
    n_mfcc = 40
    n_channels = 72
    stride = 2
    reach = 1 + 4 * (4 + 4) + 4 + 2 * 4 + 2 * (4 + 4)
    widths: ClassVar[tuple[int, ...]] = (50, 50, 50, 50, 50, 72, 72)
    bias: ClassVar[bool] = True
    dropout_rate: ClassVar[float] = 0.2

    def __init__(self, n_classes: int, n_mels: int) -> None:
        """366,894 parameters for 12 classes, of which 365,274 are trained."""
        super().__init__(n_mels)
        self.conv = nn.Conv1d(self.n_mfcc, self.widths[0], 3, padding=1, bias=self.bias)
        self.norm = MaskedBatchNorm(self.widths[0])
        self.blocks = nn.ModuleList(ResidualBlock(*pair, self.bias) for pair in pairwise(self.widths))
        self.dropout = nn.Dropout(self.dropout_rate)
        self.classifier = nn.Linear(self.n_channels, n_classes)
        self.apply(keras_init)

    def encode(self, mfcc: Tensor, lengths: Tensor | None) -> Tensor:
        """The map before average pooling, (batch, ceil(T / stride), n_channels)."""
        x = conv_over_time(self.conv, mfcc.unsqueeze(2))  # (batch, n_channels, 1, T)
        mask = None if lengths is None else valid_mask(lengths, x.shape[3])
        x = torch.relu(self.norm(x, mask))
        for block in self.blocks:
            mask = None if mask is None else mask[:, :: block.stride]
            x = block(x, mask)
        return x.squeeze(2).transpose(1, 2)

    def read_out(self, frames: Tensor, lengths: Tensor | None) -> tuple[Tensor, None]:
        """Classifies the mean over the valid frames."""
        return self.classifier(self.dropout(mean_over_time(frames, lengths))), None


class TcResNet8(TcResNet):
    """The original: three blocks, each at half the rate of the one before (arXiv 1904.03814, figure 2).

    65,836 parameters for 12 classes, as published: moving statistics and the classifier's bias are counted.
    Published at a hop of 10 ms: 3.0 M operations a second there, a multiplication and an addition counted as two,
    are 1.52 M multiply-accumulates. BatchNorm's momentum is Keras's 0.99 here, 0.997 there.
    """

    name = "tc_resnet8"
    paper = "arXiv 1904.03814"
    n_channels = 48
    stride = 8
    reach = 1 + (4 + 2 * 4) + 2 * (4 + 2 * 4) + 4 * (4 + 2 * 4)
    widths = (16, 24, 32, 48)
    bias = False
    dropout_rate = 0.5


class TcResNet14(TcResNet8):
    """TC-ResNet14-1.5: six blocks, one and a half times as wide, 304,620 parameters for 12 classes, as published."""

    name = "tc_resnet14_1.5"
    n_channels = 72
    reach = TcResNet8.reach + 2 * (4 + 4) + 4 * (4 + 4) + 8 * (4 + 4)
    widths = (24, 36, 36, 48, 48, 72, 72)
