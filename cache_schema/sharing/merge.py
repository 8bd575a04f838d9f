"""Putting the parts of a cache together that were built on several machines."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cache_schema.errors import CacheError
from cache_schema.format.digest import array_digest
from cache_schema.format.schema import STATE_KEYS, UNIDENTIFYING_KEYS, required_arrays
from cache_schema.jobs import hold_every_share, hold_partition
from cache_schema.lock import only_one
from cache_schema.reader import cache_of
from cache_schema.stores.working import begun, read_stored, recorded_digests, working_path, written_partitions
from cache_schema.stores.zarr_store import ZarrStore
from cache_schema.writer import create_cache, finalise, pending_partitions, write_partition


def merge_caches(
    parts: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    force: bool = False,
    on_partition: Callable[[int], object] = lambda _: None,
) -> str:
    """Puts unfinished caches together and returns the cache_id of the whole: that of one built in one go.

    What is already in an unfinished `out` is kept; what cannot be had yet is listed, and merging again goes on.

    Args:
        parts: the unfinished caches, by the names they were to have or those of their working stores; begun on the same
            data set with the same teacher and settings.
        out: the whole; it may be one of the parts.
        force: whether a finished cache of that name is replaced.
        on_partition: called with the number of clips after every partition.

    Raises:
        CacheError: a part is none or damaged, two differ in what they were begun with, partitions are missing, or a job
            is writing `out`.
    """
    out = Path(out)
    stores = [_open_part(Path(part)) for part in parts]
    first = stores[0]
    layout = first.layout()
    metadata = {key: value for key, value in first.metadata.items() if key not in STATE_KEYS}
    rows = {name: read_stored(first, name) for name in required_arrays(layout, "creation")}
    for store in stores[1:]:
        _require_same(first, store)
    with only_one(out), hold_every_share(out):
        there = begun(out)
        if there and not _differing(first.metadata, there):
            metadata["software"] = there["software"]  # of the part it was begun with, whichever comes first now
        create_cache(out, layout, rows, metadata, force)
        holders = {index: store for store in reversed(stores) for index in _whole(store)}
        for index in pending_partitions(out):
            if index in holders:
                with hold_partition(out, index):
                    write_partition(out, index, _read_verified(holders[index], index), coded=True)
                on_partition(layout.partition_rows(index).stop - layout.partition_rows(index).start)
        missing = pending_partitions(out)
        if missing:
            raise CacheError(
                f"{out}: {len(missing)} of {layout.n_partitions} partitions are in none of the parts: "
                f"{', '.join(map(str, missing))}. Build them with tkd cache build --partition, and merge again."
            )
        return finalise(out)


def _open_part(path: Path) -> ZarrStore:
    folder = path if path.suffix == ".partial" else working_path(path)
    if not folder.is_dir():
        state = "a finished cache" if path.exists() and path.suffix != ".partial" else "no unfinished cache there"
        raise CacheError(f"{path}: {state}. Merge takes what tkd cache build --partition i/n left unfinished.")
    store = ZarrStore(folder)
    if store.metadata.get("complete") is True:  # its finalise was cut off before the rename
        cache_of(store)
    return store


def _whole(store: ZarrStore) -> set[int]:
    """The partitions a part has."""
    if store.metadata.get("complete") is True:
        return set(range(store.layout().n_partitions))
    return written_partitions(store.folder)


def _differing(ours: dict, theirs: dict) -> list[str]:
    """The sections of `tkd_cache` that make two unfinished caches different ones."""
    return [key for key in ours if key not in UNIDENTIFYING_KEYS and ours[key] != theirs.get(key)]


def _require_same(first: ZarrStore, other: ZarrStore) -> None:
    """Returns if two parts were begun with the same.

    Raises:
        CacheError: they were not; what differs is named.
    """
    differing = _differing(first.metadata, other.metadata) or [
        name
        for name in required_arrays(first.layout(), "creation")
        if not np.array_equal(read_stored(first, name), read_stored(other, name))
    ]
    if differing:
        raise CacheError(
            f"{other.location}: begun with another {', '.join(differing)} than {first.location}. "
            "tkd cache diff shows how."
        )


def _read_verified(store: ZarrStore, index: int) -> dict[str, np.ndarray]:
    """A partition's stored arrays, verified against the digests in its record."""
    layout, digests = store.layout(), recorded_digests(store, index)
    stored = {}
    for name, spec in required_arrays(layout, "partition").items():
        stored[name] = read_stored(store, name, layout.partition_rows(index), f", {layout.place(index)}")
        if array_digest(name, stored[name], spec.coding) != digests[name]:
            raise CacheError(
                f"{store.location}: {name}, {layout.place(index)}: altered (wrong digest). Copy that part again."
            )
    return stored
