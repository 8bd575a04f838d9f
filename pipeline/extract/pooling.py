"""Attention that pools its own maps while it makes its output, a piece that fits the processor's cache at a time."""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

# Bytes of attention map worked on at once: what stays in a core's caches, and a part of an accelerator's memory.
_ON_CPU, _ON_ACCELERATOR = 1 << 21, 1 << 28


class Pooling:
    """The layers of one forward pass; each calls `attend`, and leaves its pooled map behind.

    Attributes:
        received: Each layer's attention that a frame receives, the mean over valid query frames, float32 (batch,
            n_heads, T): sums to 1, 0 beyond a clip's frames.
        head_means: Each layer's map averaged over heads, float32 (batch, T, T): rows of valid frames sum to 1, all
            else is 0. The rollout starts at the top layer, so that these have to wait for it.
    """

    def __init__(self, lengths: list[int]) -> None:
        """`lengths`: valid frames of each clip of the batch."""
        self.received: list[Tensor] = []
        self.head_means: list[Tensor] = []
        self._runs: list[tuple[slice, int]] = []  # neighbours of one length
        start = 0
        for n_frames, run in itertools.groupby(lengths):
            stop = start + len(list(run))
            self._runs.append((slice(start, stop), n_frames))
            start = stop

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, bias: Tensor | None = None) -> Tensor:
        """Returns softmax(scaling · q kᵀ + bias) v, (batch, T, n_heads, head_dim); 0 beyond a clip's frames.

        Frames beyond a clip's length are left out, so that no mask is needed. Softmax and pooling are float32; so are
        the scores on a CPU, whatever the inputs.

        Args:
            query: (batch, n_heads, T, head_dim).
            key: As `query`.
            value: As `query`.
            scaling: Factor of the scores.
            bias: Added to the scores, (batch, n_heads, T, T).
        """
        batch, n_heads, n_frames, head_dim = query.shape
        padded = any(n < n_frames for _, n in self._runs)
        new = query.new_zeros if padded else query.new_empty
        output = new(batch, n_frames, n_heads, head_dim)
        head_means = new(batch, n_frames, n_frames, dtype=torch.float32)
        received = query.new_zeros(batch, n_heads, n_frames, dtype=torch.float32)
        score_dtype = torch.float32 if query.device.type == "cpu" else query.dtype
        with torch.autocast(query.device.type, enabled=False):
            for run, n in self._runs:
                scaled = query[run, :, :n].to(score_dtype) * scaling
                keys = key[run, :, :n].to(score_dtype).transpose(2, 3)  # (clips, n_heads, head_dim, n)
                values = value[run, :, :n]
                for clips, rows, heads_at_once in _tiles(run.stop - run.start, n_heads, n, query.device):
                    total = None  # over heads
                    for head in range(0, n_heads, heads_at_once):
                        heads = slice(head, head + heads_at_once)
                        scores = scaled[clips, heads, rows] @ keys[clips, heads]  # (clips, heads, rows, n)
                        if bias is not None:
                            scores += bias[run, heads, :n, :n][clips, :, rows]
                        attention = scores.softmax(-1, dtype=torch.float32)
                        mixed = attention.to(values.dtype) @ values[clips, heads]
                        output[run, :n][clips, rows, heads] = mixed.transpose(1, 2)
                        received[run, heads, :n][clips] += attention.sum(2)
                        summed = attention.sum(1) if attention.shape[1] > 1 else attention[:, 0]
                        total = summed if total is None else total.add_(summed)
                    torch.mul(total, 1 / n_heads, out=head_means[run, :n, :n][clips, rows])
        self.received.append(received / received.sum(-1, keepdim=True))
        self.head_means.append(head_means)
        return output


def _tiles(n_clips: int, n_heads: int, n_frames: int, device: torch.device) -> Iterator[tuple[slice, slice, int]]:
    """Yields the maps of clips of one length in pieces: clips, rows (queries), and the heads to be taken at once.

    Several clips at a time; if that is too much, some heads of one clip; if that is, some rows of one head.
    """
    n_bytes = _ON_CPU if device.type == "cpu" else _ON_ACCELERATOR
    n_rows = n_bytes // (4 * n_frames)  # of float32
    step_clips = max(1, n_rows // (n_heads * n_frames))
    step_rows = min(n_frames, max(16, n_rows))
    heads_at_once = min(n_heads, max(1, n_rows // n_frames))
    for clip in range(0, n_clips, step_clips):
        for row in range(0, n_frames, step_rows):
            yield slice(clip, clip + step_clips), slice(row, row + step_rows), heads_at_once
