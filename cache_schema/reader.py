"""Reading a finished cache: nothing comes back that is not verified against its digest."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache_schema.errors import CacheError
from cache_schema.format.coding import decode_weights
from cache_schema.format.digest import array_digest, cache_id, partition_digest
from cache_schema.format.schema import SPLITS, ArraySpec, Layout, required_arrays
from cache_schema.stores import open_store
from cache_schema.stores.base import DIGESTS_ATTRIBUTE, Form, Store, numpy_dtype
from cache_schema.stores.working import progress

WAY_OUT = "Fetch the cache again, or rebuild it with tkd cache build --force; tkd cache validate lists every fault."


@dataclass(frozen=True)
class Cache:
    """A finished cache; made by `open_cache`.

    Attributes:
        path: where it is: a path or a URL.
        metadata: the `tkd_cache` attribute: who made it, from what, how.
        layout: its sizes.
        specs: its arrays, by name.
        forms: how each array is stored.
        store: its container.
    """

    path: Path | str
    metadata: dict[str, Any]
    layout: Layout
    specs: dict[str, ArraySpec]
    forms: dict[str, Form]
    store: Store

    def __reduce__(self) -> tuple:
        return _reopened, (self.path, self.metadata["cache_id"])  # another process verifies it anew

    @property
    def location(self) -> str:
        """The absolute path, or the URL."""
        return self.path if isinstance(self.path, str) else str(self.path.resolve())

    @property
    def task(self) -> str:
        """`single_label` or `multi_label`."""
        return self.layout.task

    @property
    def labels(self) -> list[str]:
        """The name of each class."""
        return self.metadata["dataset"]["labels"]

    def split_rows(self, split: str) -> np.ndarray:
        """The row numbers of a split, (n,) int64, ascending; all views of its clips.

        Raises:
            CacheError: the split is unknown, or `split` is damaged.
        """
        if split not in SPLITS:
            raise CacheError(f"{self.path}: unknown split {split!r}; known: {', '.join(SPLITS)}.")
        return np.flatnonzero(self.read("split") == SPLITS.index(split))

    def read(self, name: str, partitions: Sequence[int] | None = None, decode: bool = True) -> np.ndarray:
        """The rows of the given partitions, (clip, ...), verified.

        Args:
            name: an array of the cache.
            partitions: which, in the order wanted; None for all rows.
            decode: coded weights as float32 of sum 1, exactly 0 beyond the valid frames; False leaves them as uint8
                codes, a quarter of the memory, for `decode` later. Other arrays come in their stored dtype.

        Raises:
            CacheError: no such array, or any of its bytes is missing, damaged or altered.
        """
        spec = self._spec(name)
        if spec.written == "finalise":
            return self._stored(name, slice(None), "")  # verified on opening: the cache_id is made of it
        indices = range(self.layout.n_partitions) if partitions is None else partitions
        ranges = [self.layout.partition_rows(index) for index in indices]
        shape = (sum(rows.stop - rows.start for rows in ranges), *spec.grid(self.layout).shape[1:])
        values = np.empty(shape, np.float32 if decode and spec.coding else numpy_dtype(spec))
        # Row arrays are one chunk, which must not be decompressed once per partition.
        whole = self._stored(name, slice(None), "") if spec.written == "creation" else None
        filled = 0
        for index, rows in zip(indices, ranges, strict=True):
            place = f", {self.layout.place(index)}"
            stored = self._stored(name, rows, place) if whole is None else whole[rows]
            if not self._verified(name, index, stored):
                if self.store.refresh(name, rows):
                    stored = self._stored(name, rows, place)
                if not self._verified(name, index, stored):
                    raise CacheError(f"{self.path}: {name}{place}: missing or altered (wrong digest). {WAY_OUT}")
            values[filled : filled + len(stored)] = self.decode(name, stored) if decode else stored
            filled += len(stored)
        return values

    def _verified(self, name: str, index: int, stored: np.ndarray) -> bool:
        attributes = self.forms[name].attributes
        return array_digest(name, stored, attributes.get("coding")) == attributes[DIGESTS_ATTRIBUTE][index]

    def decode(self, name: str, stored: np.ndarray) -> np.ndarray:
        """Values of stored rows of the named array, (clip, ...); the same object where nothing is coded.

        Raises:
            CacheError: no such array, or a coding this version does not know.
        """
        coding = self.forms[name].attributes["coding"] if self._spec(name).coding else None
        return stored if coding is None else decode_weights(stored, coding)

    def _spec(self, name: str) -> ArraySpec:
        if name not in self.specs:
            raise CacheError(f"{self.path}: no array {name!r}; it has {', '.join(self.specs)}.")
        return self.specs[name]

    def _stored(self, name: str, rows: slice, place: str) -> np.ndarray:
        try:
            try:
                return self.store.read(name, rows)
            except CacheError:
                if not self.store.refresh(name, rows):
                    raise
                return self.store.read(name, rows)  # a local copy was damaged
        except CacheError as error:
            raise CacheError(f"{self.path}: {name}{place}: {error}. {WAY_OUT}") from error


def _reopened(path: Path | str, identity: str) -> Cache:
    cache = open_cache(path)
    require_same(cache, identity)
    return cache


def require_same(cache: Cache, identity: str) -> None:
    """Raises CacheError unless the cache, opened again, is the one of this cache_id still."""
    if cache.metadata["cache_id"] != identity:
        raise CacheError(
            f"{cache.path}: another cache than a moment ago (cache_id {cache.metadata['cache_id'][:12]}, it was "
            f"{identity[:12]}). Begin again with this one, or put the other back."
        )


def open_cache(path: str | os.PathLike, on_fetch: Callable[[int], object] | None = None) -> Cache:
    """The finished cache at `path`, its provenance and digests verified against each other.

    Args:
        path: of a folder, an .h5 or a .zip, or the URL of one; what is read from a URL is kept in a local copy.
        on_fetch: called with the bytes of every piece that arrives from a URL.

    Raises:
        CacheError: nothing is there, it is something else, of another format version, unfinished or altered.
    """
    return cache_of(open_store(path, on_fetch))


def cache_of(store: Store) -> Cache:
    """The finished cache in a store; raises as `open_cache`."""
    where, layout = store.location, store.layout()
    if store.metadata.get("complete") is not True:
        raise CacheError(f"{where}: unfinished, {progress(where)}.")
    faults, forms = digest_faults(store, layout)
    if faults and store.refetch():  # a local copy was damaged
        return cache_of(store)
    if faults:
        raise CacheError(f"{where}: {faults[0]} {WAY_OUT}")
    return Cache(where, dict(store.metadata), layout, required_arrays(layout), forms, store)


def digest_faults(store: Store, layout: Layout) -> tuple[list[str], dict[str, Form]]:
    """What is wrong between the digests of a finished cache, and its arrays' forms; reads no more than is small.

    The cache_id covers the provenance and the partition digests, a partition digest covers the digests of its arrays,
    and those the content: so a reader of one array verifies that array alone, and yet up to the cache_id.
    """
    faults: list[str] = []
    forms: dict[str, Form] = {}
    for name in required_arrays(layout):
        try:
            forms[name] = store.form(name)
        except CacheError as error:
            faults.append(f"{name}: {error}.")
    digests = {name: list(form.attributes.get(DIGESTS_ATTRIBUTE, ())) for name, form in forms.items()}
    digests.pop("partition_digest", None)
    faults += [
        f"{name}: {len(found)} digests for {layout.n_partitions} partitions."
        for name, found in digests.items()
        if len(found) != layout.n_partitions
    ]
    if "partition_digest" not in forms:
        return faults, forms
    try:
        stored = [str(digest) for digest in store.read("partition_digest")]
    except CacheError as error:
        return [*faults, f"partition_digest: {error}."], forms
    if not faults and len(stored) != layout.n_partitions:
        faults.append(f"partition_digest: {len(stored)} digests for {layout.n_partitions} partitions.")
    if not faults:
        for index in range(layout.n_partitions):
            if partition_digest({name: digests[name][index] for name in digests}) != stored[index]:
                faults.append(f"partition_digest, {layout.place(index)}: not the digest of its arrays' digests.")
    if cache_id(stored, store.metadata) != store.metadata.get("cache_id"):
        faults.append("tkd_cache.cache_id: not the digest of the provenance and the partitions; one was altered.")
    return faults, forms
