"""The order in which the clips of a split come: a function of seed, layout and split, never of the memory at hand."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cache_schema import Layout

POOL = 8  # partitions whose clips are shuffled together


@dataclass(frozen=True)
class Piece:
    """The rows of a split that lie in one partition: what is read and verified at a time."""

    partition: int
    start: int  # row within the partition
    first: int  # row within the split
    n: int


@dataclass(frozen=True)
class Pool:
    """Pieces that are in memory together, and the order in which their clips come."""

    pieces: tuple[Piece, ...]
    order: Tensor  # (n,) int64: positions in the pieces laid end to end
    ends_epoch: bool

    @property
    def rows(self) -> Tensor:
        """The clips as rows of the split, in their order, (n,) int64."""
        return torch.cat([torch.arange(piece.first, piece.first + piece.n) for piece in self.pieces])[self.order]


def pieces_of(layout: Layout, rows: range) -> list[Piece]:
    """Returns the pieces of a split that is the given rows of the cache."""
    pieces, size = [], layout.partition_size
    for partition in range(rows.start // size, -(-rows.stop // size)):
        start, stop = max(partition * size, rows.start), min((partition + 1) * size, rows.stop)
        pieces.append(Piece(partition, start - partition * size, start - rows.start, stop - start))
    return pieces


def n_pools(pieces: Sequence[Piece], pool: int) -> int:
    """Returns how many pools of at most `pool` pieces an epoch has."""
    return -(-len(pieces) // pool)


def largest_pool(pieces: Sequence[Piece], pool: int) -> int:
    """Returns how many clips a pool can hold."""
    in_one = -(-len(pieces) // n_pools(pieces, pool))
    return sum(sorted((piece.n for piece in pieces), reverse=True)[:in_one])


def clips_of(clip_id: np.ndarray, view: np.ndarray) -> Tensor | None:
    """Returns which clip each row is a view of, (n,) int64 numbers from 0; None if every row is a clip of its own.

    Args:
        clip_id: (n,) strings; of view k > 0 that of its clip and #k.
        view: (n,) numbers.
    """
    if not view.any():
        return None
    names = (name.removesuffix(f"#{k}") if k else name for name, k in zip(clip_id, view, strict=True))
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(name, len(numbers)) for name in names])


def one_view(clip_of: Tensor | None, seed: int) -> Tensor | None:
    """Returns which rows an epoch takes, (n,) bool: of each clip one view, itself or another, at random; None for all.

    Args:
        clip_of: As `clips_of` returns it.
        seed: Of the epoch.
    """
    if clip_of is None:
        return None
    drawn = torch.randperm(len(clip_of), generator=torch.Generator().manual_seed(-1 - seed))  # unlike the order
    first = torch.full((int(clip_of.max()) + 1,), len(clip_of)).scatter_reduce(0, clip_of, drawn, "amin")
    return drawn == first[clip_of]


def shuffled(pieces: Sequence[Piece], seed: int, pool: int = POOL, taken: Tensor | None = None) -> Iterator[Pool]:
    """Yields the pools of one epoch: pieces at random in pools of at most `pool`, of about equal size, then clips.

    A split of one pool is shuffled as a whole, `torch.randperm` over its rows. Two clips of the same partition always
    come within one pool, so a cache whose neighbours are alike is shuffled less well than one whose are not.

    Args:
        pieces: Of the split.
        seed: Of the epoch.
        pool: Pieces in a pool, at most.
        taken: (n,) bool, the rows of the split that come at all; None for all.
    """
    generator = torch.Generator().manual_seed(seed)
    n = n_pools(pieces, pool)
    if n > 1:
        pieces = [pieces[index] for index in torch.randperm(len(pieces), generator=generator)]
    for index in range(n):
        chosen = tuple(pieces[len(pieces) * index // n : len(pieces) * (index + 1) // n])
        order = torch.randperm(sum(piece.n for piece in chosen), generator=generator)
        shuffle = Pool(chosen, order, index + 1 == n)
        yield shuffle if taken is None else replace(shuffle, order=order[taken[shuffle.rows]])


def in_order(pieces: Sequence[Piece]) -> Iterator[Pool]:
    """Yields the clips as they stand in the cache, a piece at a time."""
    for piece in pieces:
        yield Pool((piece,), torch.arange(piece.n), piece is pieces[-1])
