"""Att-RNN and MHAtt-RNN: a bidirectional GRU read out by attention from the middle frame."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from students.base import Student
from students.convolution import channels_last
from students.initialisation import keras_init
from students.masking import MaskedBatchNorm, frame_at, valid_mask
from students.recurrent import Gru


class AttRnn(Student):
    """Two thin convolutions, two bidirectional GRUs of 128; one attention head reads the frames out.

    de Andrade et al. 2018 (arXiv 1808.08929) with a GRU for its LSTM, as in kws_streaming (arXiv 2005.06720).

    Attributes:
        n_heads: Attention heads; each reads a weighted sum of all frames.
        dropout_rate: Of what the heads have read.
    """

    name = "att_rnn"
    paper = "arXiv 2005.06720"
    n_mfcc = 20
    n_channels = 256
    reach = 2 + 2
    scope = "clip"
    n_heads: ClassVar[int] = 1
    dropout_rate: ClassVar[float] = 0.1

    def __init__(self, n_classes: int, n_mels: int) -> None:
        """496,519 parameters for 12 classes, moving statistics of BatchNorm included.

        As in Keras with `reset_after`, each GRU has two bias vectors; with one they would be 494,983.
        """
        super().__init__(n_mels)
        self.conv1 = nn.Conv2d(1, 10, (1, 5), padding=(0, 2))  # kernel: coefficients x frames
        self.norm1 = MaskedBatchNorm(10)
        self.conv2 = nn.Conv2d(10, 1, (1, 5), padding=(0, 2))
        self.norm2 = MaskedBatchNorm(1)
        self.gru = Gru(self.n_mfcc, self.n_channels // 2, num_layers=2, batch_first=True, bidirectional=True)
        self.queries = nn.ModuleList(nn.Linear(self.n_channels, self.n_channels) for _ in range(self.n_heads))
        self.dropout = nn.Dropout(self.dropout_rate)
        self.dense1 = nn.Linear(self.n_heads * self.n_channels, 64)
        self.dense2 = nn.Linear(64, 32)  # no activation, as in the original
        self.classifier = nn.Linear(32, n_classes)
        self.apply(keras_init)

    def encode(self, mfcc: Tensor, lengths: Tensor | None) -> Tensor:
        """The outputs of the second bidirectional GRU, (batch, T, 256), forward half first."""
        mask = None if lengths is None else valid_mask(lengths, mfcc.shape[2])
        x = torch.relu(self.conv1(channels_last(mfcc.unsqueeze(1))))
        # Contiguous: in channels-last order torch sums each channel in float32 value by value, which over so many
        # rows and frames loses three digits, and takes three times as long.
        x = self.norm1(x.contiguous(), mask)  # (batch, 10, n_mfcc, T)
        x = self.norm2(torch.relu(self.conv2(channels_last(x))), mask)  # (batch, 1, n_mfcc, T)
        return self.gru(x.squeeze(1).transpose(1, 2), lengths)

    def read_out(self, frames: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Classifies what the heads attend to, asking from the middle valid frame.

        The dot products are not scaled by the square root of their size: kws_streaming's are not either.
        """
        n_frames = frames.shape[1]
        middle = frames[:, n_frames // 2] if lengths is None else frame_at(frames, lengths // 2)
        queries = torch.stack([query(middle) for query in self.queries], 1)  # (batch, n_heads, 256)
        scores = queries @ frames.transpose(1, 2)  # (batch, n_heads, T)
        if lengths is not None:
            scores = scores.masked_fill(~valid_mask(lengths, n_frames).unsqueeze(1), float("-inf"))
        attention = torch.softmax(scores, 2)
        context = (attention @ frames).flatten(1)  # (batch, n_heads * 256)
        x = torch.relu(self.dense1(self.dropout(context)))
        return self.classifier(self.dense2(x)), attention.mean(1)


class MhAttRnn(AttRnn):
    """Att-RNN with four heads, each with its own query: 743,047 parameters for 12 classes.

    741,511 with one bias vector in each GRU.
    """

    name = "mhatt_rnn"
    n_heads = 4
    dropout_rate = 0.2
