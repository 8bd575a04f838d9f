"""KWT: a keyword transformer, one token per frame and a class token."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from students.base import Student
from students.masking import valid_mask

INITIAL_STD = 0.02


def sinusoids(n_positions: int, like: Tensor) -> Tensor:
    """(n_positions, n_channels): sine and cosine position codes (arXiv 1706.03762, section 3.5).

    Args:
        n_positions: Positions, counted from 0.
        like: (..., n_channels), n_channels even: gives size, dtype and device.
    """
    n_waves = like.shape[-1] // 2
    waves = torch.arange(n_waves, dtype=like.dtype, device=like.device)
    angles = torch.arange(n_positions, dtype=like.dtype, device=like.device).unsqueeze(1) * torch.exp(
        waves * (-math.log(10_000.0) / n_waves)
    )
    return torch.cat([angles.sin(), angles.cos()], 1)


class TransformerBlock(nn.Module):
    """Self-attention of one head, then two dense layers; LayerNorm after either (arXiv 2104.00769, section 3.1).

        x = LN(x + W_O softmax(x W_Q (x W_K)^T / sqrt(d)) x W_V)
        x = LN(x + W_2 GELU(W_1 x + b_1) + b_2)

    W_Q, W_K and W_V have no biases, W_O has one.
    """

    def __init__(self, n_channels: int, n_hidden: int) -> None:
        """`n_channels` of each token, `n_hidden` between the dense layers."""
        super().__init__()
        self.queries = nn.Linear(n_channels, n_channels, bias=False)
        self.keys = nn.Linear(n_channels, n_channels, bias=False)
        self.values = nn.Linear(n_channels, n_channels, bias=False)
        self.out = nn.Linear(n_channels, n_channels)
        self.norm1 = nn.LayerNorm(n_channels, eps=1e-6)
        self.dense1 = nn.Linear(n_channels, n_hidden)
        self.dense2 = nn.Linear(n_hidden, n_channels)
        self.norm2 = nn.LayerNorm(n_channels, eps=1e-6)

    def forward(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """All tokens (batch, n, n_channels) after the block; valid (batch, 1, n), bool: which of them are read."""
        # (batch, 1, n, n_channels): with a dimension for the one head, which the export to ONNX asks for
        heads = (layer(tokens).unsqueeze(1) for layer in (self.queries, self.keys, self.values))
        read = nn.functional.scaled_dot_product_attention(*heads, None if valid is None else valid.unsqueeze(1))
        return self._feed(tokens, read.squeeze(1))

    def first(self, tokens: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Token 0 alone after the block, (batch, n_channels), and its attention to the others, (batch, n - 1).

        The attention sums to 1: token 0's to itself is left out.
        """
        token = tokens[:, :1]
        scores = self.queries(token) @ self.keys(tokens).transpose(1, 2) / math.sqrt(tokens.shape[2])  # (batch, 1, n)
        if valid is not None:
            scores = scores.masked_fill(~valid, float("-inf"))
        token = self._feed(token, torch.softmax(scores, 2) @ self.values(tokens))
        return token.squeeze(1), torch.softmax(scores[:, 0, 1:], 1)

    def _feed(self, tokens: Tensor, read: Tensor) -> Tensor:
        tokens = self.norm1(tokens + self.out(read))
        return self.norm2(tokens + self.dense2(nn.functional.gelu(self.dense1(tokens))))


class Kwt1(Student):
    """KWT-1: 12 blocks of 64 channels, one head; the class token is classified.

    Berg, O'Connor, Tairum Cruz 2021 (arXiv 2104.00769), table 1: a linear layer makes a token of each frame; a learned
    class token goes before them; post-norm transformer blocks; linear. No dropout, as there.

    Deviation: sine and cosine position codes for the 99 learned ones, so that a clip may have any length and no
    position is untrained. 600,972 parameters for 12 classes; the paper's 607 k are those and 99 x 64 positions,
    607,308. There the features are 40 coefficients of 80 mel bins at a hop of 10 ms.

    c' is what the class token reads in the last block: the frames' tokens before it. After it they reach no logit,
    and are not computed. Its attention there, over the frames, is the student's own.

    Attributes:
        n_blocks: Transformer blocks.
        n_hidden: Width between a block's dense layers.
    """

    name = "kwt_1"
    paper = "arXiv 2104.00769"
    n_mfcc = 40
    n_channels = 64
    scope = "clip"
    n_blocks: ClassVar[int] = 12
    n_hidden: ClassVar[int] = 256

    def __init__(self, n_classes: int, n_mels: int) -> None:
        """600,972 parameters for 12 classes."""
        super().__init__(n_mels)
        self.project = nn.Linear(self.n_mfcc, self.n_channels)
        self.class_token = nn.Parameter(torch.empty(self.n_channels))
        self.blocks = nn.ModuleList(TransformerBlock(self.n_channels, self.n_hidden) for _ in range(self.n_blocks))
        self.classifier = nn.Linear(self.n_channels, n_classes)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "norm" not in name:
                nn.init.trunc_normal_(parameter, std=INITIAL_STD, a=-2 * INITIAL_STD, b=2 * INITIAL_STD)

    def compute(self, mfcc: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, the frames' tokens before the last block (batch, T, 64), and the class token's attention to them."""
        frames = self.project(mfcc.transpose(1, 2))
        tokens = torch.cat([self.class_token.expand(frames.shape[0], 1, -1), frames], 1)  # (batch, 1 + T, 64)
        tokens = tokens + sinusoids(tokens.shape[1], tokens)
        valid = None if lengths is None else valid_mask(lengths + 1, tokens.shape[1]).unsqueeze(1)
        for block in self.blocks[:-1]:
            tokens = block(tokens, valid)
        if valid is not None:
            tokens = tokens.masked_fill(~valid.transpose(1, 2), 0.0)
        token, attention = self.blocks[-1].first(tokens, valid)
        return self.classifier(token), tokens[:, 1:], attention
