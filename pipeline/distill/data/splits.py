"""A split of a cache: resident once it has been read, or read again in each pass."""

import hashlib
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cache_schema import Cache
from pipeline.distill.data.ahead import read_ahead
from pipeline.distill.data.clips import Clips
from pipeline.distill.data.order import (
    Piece,
    Pool,
    clips_of,
    in_order,
    largest_pool,
    n_pools,
    one_view,
    pieces_of,
    shuffled,
)
from pipeline.distill.frame_weights import FrameWeights
from pipeline.errors import TkdError
from pipeline.frames import without_readout

_BUFFERS = 2  # one in use, one being filled


class Split:
    """One split of a cache, as batches; every partition is verified each time it is read. Its rows count as clips.

    Made by `load_splits`. The small columns are in memory from the start. Features, weights and logits stay in memory
    once they have been read if the split is `resident`; otherwise two buffers take turns. What comes, and in which
    order, is the same.

    Attributes:
        clip_id: (n,) strings.
        lengths: (n,) int64, valid feature frames.
        labels: (n,) int64, or where clips have several (n, n_classes) uint8 of 0 and 1.
        event_start: (n,) int64 samples, -1 unknown.
        resident: see above.
        kept: (n,) bool, which rows an epoch of `shuffled` may take: all, or those of a fraction of the clips.
        n_clips: that an epoch of `shuffled` has: of a clip with views it takes one, at random.
    """

    def __init__(
        self,
        cache: Cache,
        name: str,
        drop_first: bool,
        pool: int,
        views: bool,
        frame_weights: FrameWeights,
        fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        rows = cache.split_rows(name)
        if len(rows) == 0:
            raise TkdError(f"{cache.path}: no {name} clips. Training needs train, validation and test.")
        if int(rows[-1]) - int(rows[0]) + 1 != len(rows):
            raise TkdError(f"{cache.path}: not in split order; tkd cache validate lists every fault.")
        self.cache, self.name, self.pool, self.resident = cache, name, pool, True
        self._frame_weights = frame_weights
        self._pieces = pieces_of(cache.layout, range(int(rows[0]), int(rows[-1]) + 1))
        of_rollout = frame_weights.array(cache) == "rollout"
        self._readout = cache.metadata["teacher"].get("readout", "") if drop_first and of_rollout else ""
        self.clip_id = self._column("clip_id")
        self.lengths, self._weight_lengths, self.event_start, self._event_stop = (
            torch.from_numpy(self._column(column)).long()
            for column in ("n_feature_frames", "n_frames", "event_start", "event_stop")
        )
        if cache.task == "single_label":
            self.labels = torch.from_numpy(self._column("label")).long()
        else:
            self.labels = torch.from_numpy(self._column("labels"))
            if not self.labels.any():
                raise TkdError(f"{cache.path}: no {name} clip has a label. Training needs some in every split.")
        view = self._column("view")
        self._clip_of = clips_of(self.clip_id, view)
        self._clean = None if views or self._clip_of is None else torch.from_numpy(view == 0)
        self.n_clips = len(self) if self._clip_of is None else int(self._clip_of.max()) + 1
        self.kept = torch.ones(len(self), dtype=torch.bool) if fraction == 1 else self._part(fraction, seed)
        self._whole: dict[str, np.ndarray] | None = None
        self._present: set[Piece] = set()  # of the whole

    def __len__(self) -> int:
        return len(self.clip_id)

    def shuffled(self, batch_size: int, seeds: Iterable[int]) -> Iterator[Clips]:
        """Yields the batches of one epoch for each seed, one epoch after the other; an epoch's last may be smaller.

        The next epoch is read ahead at the end of one. Close the iterator (`contextlib.closing`) to stop that.

        Raises:
            CacheError: a partition is missing, damaged or altered.
        """
        pools = (pool for seed in seeds for pool in shuffled(self._pieces, seed, self.pool, self._taken(seed)))
        return self._batches(pools, self.pool, batch_size)

    def batches(self, batch_size: int) -> Iterator[Clips]:
        """Yields consecutive batches; the last may be smaller.

        Raises:
            CacheError: a partition is missing, damaged or altered.
        """
        return self._batches(in_order(self._pieces), 1, batch_size)

    def take(self, rows: Sequence[int] | Tensor) -> Clips:
        """Returns the clips of the given rows, in that order; reads the partitions they lie in.

        Raises:
            CacheError: a partition is missing, damaged or altered.
        """
        clips, piece = [], None
        for row in map(int, rows):
            if piece is None or not piece.first <= row < piece.first + piece.n:
                piece = next(piece for piece in reversed(self._pieces) if piece.first <= row)
                buffer = self._buffer(piece.n)
                self._read(piece, buffer, 0)
            clips.append(self._clips(buffer, torch.tensor([row - piece.first]), torch.tensor([row])))
        return Clips.concatenate(clips)

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """Yields its features, weights or logits as they stand in the cache, piece by piece, (n, ...) float16.

        Raises:
            CacheError: a partition is missing, damaged or altered.
        """
        for piece in self._pieces:
            buffer = {name: np.empty((piece.n, *self._shapes()[name]), np.float16)}
            self._read(piece, buffer, 0)
            yield buffer[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns that of all its features, weights or logits."""
        return len(self), *self._shapes()[name]

    @property
    def files(self) -> dict[str, str]:
        """The files of `decoded_once` that hold its features, weights and logits."""
        weights = "rollout"
        if self._frame_weights.array(self.cache) != weights:
            weights = hashlib.sha256(repr(self._frame_weights).encode()).hexdigest()[:16]
        return {name: f"{self.name}-{weights if name == 'weights' else name}.npy" for name in self._shapes()}

    def map(self, folder: Path) -> None:
        """Takes its features, weights and logits from those files; they are verified, and shared with who maps them."""
        # "c", because torch warns of what cannot be written; what is not written stays shared.
        self._whole = {name: np.load(folder / file, mmap_mode="c") for name, file in self.files.items()}
        self._present, self.resident = set(self._pieces), True

    @property
    def n_bytes(self) -> int:
        """The memory of all its features, weights and logits."""
        return len(self) * self.clip_bytes

    def stream_bytes(self, pool: int) -> int:
        """Returns the memory of the buffers it is read with where it is not resident, `pool` partitions in each."""
        return self._n_buffers(pool) * largest_pool(self._pieces, pool) * self.clip_bytes

    @property
    def clip_bytes(self) -> int:
        """The memory of a clip's features, weights and logits."""
        return sum(2 * math.prod(shape) for shape in self._shapes().values())

    @property
    def read_bytes(self) -> int:
        """The memory of a clip while it is read: where maps are chosen from, all of them are decoded."""
        layout, array = self.cache.layout, self._frame_weights.array(self.cache)
        return (
            self.clip_bytes
            + 4
            * {
                "rollout": 0,
                "layer_weights": layout.n_layers * layout.n_frames,
                "head_weights": layout.n_layers * layout.n_heads * layout.n_frames,
            }[array]
        )

    def _batches(self, pools: Iterable[Pool], size: int, batch_size: int) -> Iterator[Clips]:
        """Yields batches; the rest of a pool begins a batch that the next pool fills, but an epoch ends with its own.

        Each is as long as its longest clip, not as the cache's: one long recording does not slow all others.

        Args:
            pools: What to read.
            size: Partitions in each, at most.
            batch_size: Clips in a batch.
        """
        parts, missing = [], batch_size
        with closing(read_ahead(pools, self._buffers(size), self._fill)) as filled:
            for pool, buffer in filled:
                rows, start = pool.rows, 0
                positions = rows if self.resident else pool.order
                while start < len(rows):
                    stop = min(start + missing, len(rows))
                    parts.append(self._clips(buffer, positions[start:stop], rows[start:stop]))
                    start, missing = stop, missing - (stop - start)
                    if missing == 0:
                        batch, parts, missing = Clips.concatenate(parts), [], batch_size
                        yield batch.trimmed()
                if pool.ends_epoch and parts:
                    batch, parts, missing = Clips.concatenate(parts), [], batch_size
                    yield batch.trimmed()

    def _taken(self, seed: int) -> Tensor | None:
        taken = one_view(self._clip_of, seed) if self._clean is None else self._clean
        if self.kept.all():
            return taken
        return self.kept if taken is None else taken & self.kept

    def _part(self, fraction: float, seed: int) -> Tensor:
        """Returns which rows belong to a part of the clips, (n,) bool; a smaller part lies within a larger one."""
        drawn = torch.randperm(self.n_clips, generator=torch.Generator().manual_seed(seed))
        self.n_clips = max(1, round(fraction * self.n_clips))
        chosen = drawn < self.n_clips
        return chosen if self._clip_of is None else chosen[self._clip_of]

    def _n_buffers(self, pool: int) -> int:
        return min(_BUFFERS, n_pools(self._pieces, pool))

    def _buffers(self, pool: int) -> list[dict[str, np.ndarray]]:
        if not self.resident:
            return [self._buffer(largest_pool(self._pieces, pool)) for _ in range(self._n_buffers(pool))]
        if self._whole is None:
            self._whole = self._buffer(len(self))
        return [self._whole] * _BUFFERS

    def _buffer(self, n: int) -> dict[str, np.ndarray]:
        # numpy's: a tensor made while a student is scored, in inference mode, could not be filled by the thread
        return {name: np.empty((n, *shape), np.float16) for name, shape in self._shapes().items()}

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The large arrays, all float16, and what they hold of a clip."""
        layout = self.cache.layout
        return {
            "features": (layout.n_features, layout.n_feature_frames),
            "weights": (self._frame_weights.n_maps(self.cache), layout.n_frames),
            "logits": (layout.n_classes,),
        }

    def _fill(self, pool: Pool, buffer: dict[str, np.ndarray], stop: threading.Event) -> None:
        at = 0
        for piece in pool.pieces:
            if stop.is_set():
                return
            if not self.resident:
                self._read(piece, buffer, at)
            elif piece not in self._present:
                self._read(piece, buffer, piece.first)
                self._present.add(piece)
            at += piece.n

    def _read(self, piece: Piece, buffer: dict[str, np.ndarray], at: int) -> None:
        for name, values in buffer.items():
            if name == "weights":
                stored = self._frame_weights.read(self.cache, piece.partition)
            else:
                stored = self.cache.read(name, [piece.partition])
            values[at : at + piece.n] = stored[piece.start : piece.start + piece.n]

    def _column(self, name: str) -> np.ndarray:
        values = self.cache.read(name, [piece.partition for piece in self._pieces])
        first = self._pieces[0].start
        return values[first : first + sum(piece.n for piece in self._pieces)]

    def _clips(self, buffer: dict[str, np.ndarray], positions: Tensor, rows: Tensor) -> Clips:
        # index_select copies whole rows: 3.6 times as fast as tensor[positions]
        features, weights, logits = (torch.from_numpy(values).index_select(0, positions) for values in buffer.values())
        if self._frame_weights.kind != "learned":
            weights = weights[:, 0]
        return Clips(
            self.clip_id[rows.numpy()],
            features,
            self.lengths[rows],
            self.labels[rows],
            without_readout(weights.float(), self._readout),
            self._weight_lengths[rows],
            self.event_start[rows],
            self._event_stop[rows],
            logits.float(),
        )
