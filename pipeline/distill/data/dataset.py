"""A cache for loops of one's own."""

import os
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from cache_schema import Cache, open_cache, require_same
from pipeline.distill.data.order import POOL, clips_of, one_view, pieces_of, shuffled

_SMALL = ("clip_id", "label", "labels", "n_feature_frames", "n_frames", "event_start", "event_stop")
_LARGE = ("features", "rollout", "logits")


class CacheDataset(Dataset):
    """A split of a cache, map style: clip i is a dict of the cache's arrays, verified, and its `clip_id`.

    `tkd train` does not use it: for samples this small, workers cost more than they bring. It is for loops of your own:

        dataset = CacheDataset(open_cache("kws.zarr"), "train")
        loader = DataLoader(dataset, batch_size=64, sampler=dataset.order(seed=epoch), num_workers=2)
        for batch in loader:
            batch["features"].float(), batch["n_feature_frames"], batch["label"].long(), batch["rollout"].float()

    Workers may be forked or spawned: each process opens the cache for itself. Partitions are read whole, and each
    process keeps the `n_partitions` used last; `order` stays within so many at a time, where `shuffle=True` on a cache
    larger than them would read a partition for nearly every clip.

    Args:
        cache: A finished cache.
        split: train, validation or test.
        n_partitions: Partitions kept in memory by each process, and shuffled together by `order`.

    Raises:
        CacheError: (of a clip, too) the cache is damaged, or was replaced by another.
    """

    def __init__(self, cache: Cache, split: str, n_partitions: int = POOL) -> None:
        rows = cache.split_rows(split)
        self.location, self.n_partitions = cache.location, n_partitions
        self._identity = cache.metadata["cache_id"]
        self._first, self._n, self._layout = int(rows[0]) if len(rows) else 0, len(rows), cache.layout
        self._clip_of = clips_of(*(cache.read(name)[rows] for name in ("clip_id", "view")))
        self._forget()

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Returns the clips of a batch; torch's loader asks for all of them at once."""
        samples: dict[int, dict[str, Any]] = {}
        for index in sorted(set(map(int, indices))):  # partition by partition
            if not -self._n <= index < self._n:
                raise IndexError(f"clip {index} of {self._n}")
            partition, row = divmod(self._first + index % self._n, self._layout.partition_size)
            large, small = self._partition(partition), self._columns
            sample = {name: torch.tensor(values[row]) for name, values in large.items()}
            row += partition * self._layout.partition_size
            sample |= {name: torch.tensor(values[row]) for name, values in small.items() if name != "clip_id"}
            samples[index] = {"clip_id": str(small["clip_id"][row]), **sample}
        return [samples[int(index)] for index in indices]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_cache": None, "_columns": {}, "_kept": OrderedDict()}  # a spawned worker reads anew

    def order(self, seed: int) -> list[int]:
        """Returns the indices of an epoch in the order in which `tkd train` would go through them, as a sampler.

        All of them; where clips have views, one view of each.
        """
        pieces = pieces_of(self._layout, range(self._first, self._first + self._n))
        taken = one_view(self._clip_of, seed)
        return torch.cat([pool.rows for pool in shuffled(pieces, seed, self.n_partitions, taken)]).tolist()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._cache: Cache | None = None
        self._columns: dict[str, np.ndarray] = {}
        self._kept: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()

    def _partition(self, index: int) -> dict[str, np.ndarray]:
        """Returns the large arrays of a partition."""
        if self._pid != os.getpid():  # forked: files and threads of the parent are not ours
            self._forget()
        if self._cache is None:
            self._cache = open_cache(self.location)
            require_same(self._cache, self._identity)
            self._columns = {name: self._cache.read(name) for name in _SMALL if name in self._cache.specs}
        if index not in self._kept:
            self._kept[index] = {name: self._cache.read(name, [index]) for name in _LARGE if name in self._cache.specs}
            if len(self._kept) > self.n_partitions:
                self._kept.popitem(last=False)
        self._kept.move_to_end(index)
        return self._kept[index]
