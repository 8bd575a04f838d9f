"""TC-ResNet: temporal convolutions that see the coefficients as channels."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from students.base import Student
from students.initialisation import keras_init
from students.masking import MaskedBatchNorm, valid_mask


class ResidualBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus shortcut, then ReLU (Choi et al. 2019, arXiv 1904.03814, figure 2).

    Where the width changes, the block halves the frame rate and its shortcut is a 1x1 conv-BN-ReLU.
    """

    kernel_size = 9  # frames

    def __init__(self, n_inputs: int, n_channels: int) -> None:
        """A block from `n_inputs` to `n_channels` channels."""
        super().__init__()
        self.stride = 1 if n_inputs == n_channels else 2
        # TensorFlow's "same" padding at stride 2 puts its extra frame before or after by the clip's parity. For an
        # odd count, as every clip of the papers has (49, 99, 199, ...), it is this padding exactly; for an even
        # one it would shift the grid by a frame, away from the shortcut's and by the clip's length, so that
        # padding a batch would change the result. Here student frame j is centred on input frame 2 j at any length.
        padding = self.kernel_size // 2
        self.conv1 = nn.Conv1d(n_inputs, n_channels, self.kernel_size, self.stride, padding)
        self.norm1 = MaskedBatchNorm(n_channels)
        self.conv2 = nn.Conv1d(n_channels, n_channels, self.kernel_size, padding=padding)
        self.norm2 = MaskedBatchNorm(n_channels)
        if self.stride > 1:
            self.shortcut_conv = nn.Conv1d(n_inputs, n_channels, 1, self.stride)
            self.shortcut_norm = MaskedBatchNorm(n_channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Output (batch, n_channels, ceil(T / stride)), 0 where masked out.

        Args:
            x: (batch, n_inputs, T), 0 beyond each clip's valid frames.
            mask: (batch, ceil(T / stride)), bool, valid frames of the output; None when all are.
        """
        y = torch.relu(self.norm1(self.conv1(x), mask))
        y = self.norm2(self.conv2(y), mask)
        if self.stride > 1:
            x = torch.relu(self.shortcut_norm(self.shortcut_conv(x), mask))
        return torch.relu(x + y)


class TcResNet(Student):
    """Six residual blocks of 50, 50, 50, 50, 72, 72 channels; the mean over time is classified.

    The sizes are kws_streaming's; TC-ResNet8 of arXiv 1904.03814 is a smaller network.
    """

    name = "tc_resnet"
    n_mfcc = 40
    n_channels = 72
    stride = 2

    def __init__(self, n_classes: int, n_mels: int) -> None:
        """366,894 parameters for 12 classes, of which 365,274 are trained."""
        super().__init__(n_mels)
        self.conv = nn.Conv1d(self.n_mfcc, 50, 3, padding=1)
        self.norm = MaskedBatchNorm(50)
        widths = [50, 50, 50, 50, 50, 72, self.n_channels]
        self.blocks = nn.ModuleList(ResidualBlock(*pair) for pair in pairwise(widths))
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(self.n_channels, n_classes)
        self.apply(keras_init)

    def encode(self, mfcc: Tensor, lengths: Tensor | None) -> Tensor:
        """The map before average pooling, (batch, ceil(T / 2), 72)."""
        x = self.conv(mfcc)
        mask = None if lengths is None else valid_mask(lengths, x.shape[2])
        x = torch.relu(self.norm(x, mask))
        for block in self.blocks:
            mask = None if mask is None else mask[:, :: block.stride]
            x = block(x, mask)
        return x.transpose(1, 2)

    def read_out(self, frames: Tensor, lengths: Tensor | None) -> tuple[Tensor, None]:
        """Classifies the mean over the valid frames."""
        mean = frames.mean(1) if lengths is None else frames.sum(1) / lengths.unsqueeze(1)
        return self.classifier(self.dropout(mean)), None
