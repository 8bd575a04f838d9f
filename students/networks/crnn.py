"""CRNN: two convolutions, then a GRU."""

import torch
from torch import Tensor, nn

from students.base import Student
from students.convolution import channels_last
from students.initialisation import keras_init
from students.masking import frame_at
from students.recurrent import Gru


class Crnn(Student):
    """Two convolutions over time and coefficients, a GRU of 256 whose last output is classified.

    The network of kws_streaming (arXiv 2005.06720). The convolutions are "valid", which costs 3 frames at
    either end; the GRU applies its reset gate after the recurrent product, with two biases, as both torch
    and Keras (`reset_after`) do.
    """

    name = "crnn"
    paper = "arXiv 2005.06720"
    n_mfcc = 20
    n_channels = 256
    min_frames = 7
    offset = 3.0
    reach = 3
    scope = "past"

    def __init__(self, n_classes: int, n_mels: int) -> None:
        """467,772 parameters for 12 classes; 467,004 with one bias vector, as a GRU that resets before has."""
        super().__init__(n_mels)
        self.conv1 = nn.Conv2d(1, 16, (3, 3))  # kernel: coefficients x frames
        self.conv2 = nn.Conv2d(16, 16, (3, 5))
        self.gru = Gru(16 * (self.n_mfcc - 4), self.n_channels, batch_first=True)
        self.dropout = nn.Dropout(0.1)
        self.dense1 = nn.Linear(self.n_channels, 128)  # no activation, as in the original
        self.dense2 = nn.Linear(128, 256)
        self.classifier = nn.Linear(256, n_classes)
        self.apply(keras_init)

    def encode(self, mfcc: Tensor, lengths: Tensor | None) -> Tensor:
        """The GRU's outputs, (batch, T - 6, 256); no valid one sees padding, which comes after."""
        x = torch.relu(self.conv1(channels_last(mfcc.unsqueeze(1))))  # (batch, 16, 18, T - 2)
        x = self.conv2(x)  # (batch, 16, 16, T - 6)
        x = torch.relu(x.permute(3, 0, 1, 2).flatten(2))  # (T - 6, batch, 256)
        return self.gru(x.transpose(0, 1))

    def read_out(self, frames: Tensor, lengths: Tensor | None) -> tuple[Tensor, None]:
        """Classifies the last valid output."""
        last = frames[:, -1] if lengths is None else frame_at(frames, lengths - 1)
        x = self.dense1(self.dropout(last))
        return self.classifier(torch.relu(self.dense2(x))), None
