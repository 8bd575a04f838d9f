"""Writing a cache: create it, write its partitions in any order and from any process, finalise it.

The working store `<path>.partial` takes the final name only when it is whole. Every step can be killed and run again.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cache_schema.convert import new_cache, write_hdf5
from cache_schema.errors import CacheError
from cache_schema.format.checks import Context, value_faults
from cache_schema.format.differences import differences
from cache_schema.format.digest import array_digest, cache_id, canonical_json, partition_digest
from cache_schema.format.schema import Layout, required_arrays
from cache_schema.incoming import complete_metadata, stored_partition, stored_rows
from cache_schema.reader import open_cache
from cache_schema.stores import open_store
from cache_schema.stores.base import ATTRIBUTE, DIGESTS_ATTRIBUTE, STRING
from cache_schema.stores.working import (
    RECORDS,
    discard,
    read_stored,
    record_of,
    recorded_digests,
    replace,
    working_path,
    write_whole,
    written_partitions,
)
from cache_schema.stores.zarr_store import ZarrStore, create_folder, flush, write_shard

REPLACE_MARK = "replace"  # in the folder of records: the finished cache of this name may be replaced


def create_cache(
    path: str | os.PathLike,
    layout: Layout,
    rows: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    force: bool = False,
) -> Path:
    """The working store of a cache, new or continued.

    Args:
        path: where the finished cache is to be.
        layout: its sizes.
        rows: the arrays known before the teacher runs, (clip,) or (clip, class); see the table in FORMAT.md.
        metadata: JSON with teacher, dataset, features, pooling and software; times do not belong here, because equal
            inputs make equal caches and only equal metadata continue an unfinished one.
        force: a finished cache of this name is replaced, once the new one is whole; an unfinished one that was begun
            with something else is thrown away. One begun with the same is continued, forced or not.

    Raises:
        CacheError: rows or metadata are not what the format needs (every fault is listed), the cache is already there,
            or an unfinished one was begun with something else.
    """
    path = Path(path)
    if path.suffix not in (".zarr", ".h5"):
        raise CacheError(f"{path}: the name of a cache ends in .zarr or .h5. Give such an --out.")
    folder = working_path(path)
    metadata = complete_metadata(path, layout, metadata)
    rows = stored_rows(path, layout, rows, metadata)
    if path.exists():
        if not force:
            raise CacheError(f"{path}: already there and complete; --force rebuilds it, or choose another --out.")
        open_store(path)  # only a cache may be replaced by one
    if folder.exists():
        differing = _differences_to_begun(folder, metadata, rows)
        if differing and not force:
            raise CacheError(
                f"{folder}: an unfinished cache begun with something else: {'; '.join(differing)}. "
                "--force starts afresh, or choose another --out."
            )
        if differing:
            discard(folder, path)
    if not folder.exists():
        _begin(path, layout, metadata, rows)
    (folder / RECORDS).mkdir(exist_ok=True)  # a finalise may have been cut off that had removed it
    if force:
        (folder / RECORDS / REPLACE_MARK).touch()
    return folder


def _begin(path: Path, layout: Layout, metadata: dict[str, Any], rows: Mapping[str, np.ndarray]) -> None:
    """Makes the working store under a third name first, so that it exists only with all its arrays and rows."""
    draft = Path(f"{path}.begin")
    discard(draft, path)
    group = create_folder(draft, layout, metadata)
    for name, values in rows.items():
        group[name][:] = values
    (draft / RECORDS).mkdir()
    flush(draft)
    draft.rename(working_path(path))


def _differences_to_begun(folder: Path, metadata: dict[str, Any], rows: Mapping[str, np.ndarray]) -> list[str]:
    """What an unfinished cache was begun with that is not so now."""
    try:
        store = ZarrStore(folder)
        # a finalise may have been cut off before the rename
        begun = {**store.metadata, "cache_id": None, "complete": False}
        differing = [f"{path} was {there!r}, is {here!r}" for path, there, here in differences(begun, metadata)]
        if not differing:
            differing = [f"other {name}" for name in rows if not np.array_equal(read_stored(store, name), rows[name])]
    except CacheError as error:
        return [f"it is damaged: {error}"]
    return differing


def _open_working(path: str | os.PathLike, mode: str = "r") -> ZarrStore:
    folder = working_path(path)
    if not folder.exists():
        raise CacheError(f"{path}: no unfinished cache; begin one with create_cache (tkd cache build).")
    return ZarrStore(folder, mode)


def pending_partitions(path: str | os.PathLike) -> list[int]:
    """The partitions of the unfinished cache that are still to be written, in order.

    Raises:
        CacheError: there is no unfinished cache.
    """
    store = _open_working(path)
    if store.metadata.get("complete") is True:  # finalise was cut off between the last attribute and the rename
        return []
    return sorted(set(range(store.layout().n_partitions)) - written_partitions(store.folder))


def write_partition(path: str | os.PathLike, index: int, arrays: Mapping[str, np.ndarray], coded: bool = False) -> None:
    """Writes one partition; it counts only when the call returns.

    Different partitions may be written at once by any number of processes, one partition by one at a time.

    Args:
        path: where the finished cache is to be.
        index: the partition.
        arrays: every per-partition array of the layout, (clips of the partition, ...) padded to the layout's lengths.
            Weights, logits and features are floating; `layer_weights` and `head_weights` are coded here.
        coded: these two are given as codes already, as `Cache.read(..., decode=False)` returns them.

    Raises:
        CacheError: names, shapes, dtypes or values are not what the format needs (then nothing is written), or the
            store returns something else than was written.
    """
    store = _open_working(path, "r+")
    layout = store.layout()
    rows = layout.partition_rows(index)
    if store.metadata.get("complete") is True:
        raise CacheError(f"{path}: every partition is written; call finalise.")
    stored = stored_partition(path, store, layout, index, arrays, coded)
    record = record_of(store.folder, index)
    record.unlink(missing_ok=True)
    digests = {}
    for name, values in stored.items():
        shard = write_shard(store, name, rows, index, values)
        coding = store.form(name).attributes.get("coding")
        digests[name] = array_digest(name, read_stored(store, name, rows, f", {layout.place(index)}"), coding)
        if digests[name] != array_digest(name, values, coding):
            raise CacheError(f"{path}: {name}, {layout.place(index)} did not read back as written. Check the disk.")
        flush(shard)
    write_whole(record, canonical_json(digests))


def finalise(path: str | os.PathLike) -> str:
    """Makes the cache complete, gives it its final name and returns its cache_id.

    Raises:
        CacheError: partitions are missing (all are listed), or a finished cache of this name appeared meanwhile.
    """
    path = Path(path)
    store = _open_working(path, "r+")
    folder, layout = store.folder, store.layout()
    missing = pending_partitions(path)
    if missing:
        raise CacheError(
            f"{path}: {len(missing)} of {layout.n_partitions} partitions are missing: "
            f"{', '.join(map(str, missing))}. Run the same tkd cache build again: it writes only these."
        )
    if path.exists() and not (folder / RECORDS / REPLACE_MARK).exists():
        raise CacheError(f"{path}: already there and complete; --force replaces it.")
    if store.metadata.get("complete") is not True:
        _seal(store, layout)
    # From here on the working store is whole, whatever becomes of this process.
    if path.suffix == ".h5":
        with new_cache(path) as draft:
            write_hdf5(open_cache(folder), draft)
        discard(folder, path)
    else:
        shutil.rmtree(folder / RECORDS, ignore_errors=True)
        replace(folder, path)
    return store.metadata["cache_id"]


def _seal(store: ZarrStore, layout: Layout) -> None:
    """Writes the digests, and last of all the attribute that says complete."""
    folder, group = store.folder, store.group
    digests = [recorded_digests(store, index) for index in range(layout.n_partitions)]
    rows = {name: read_stored(store, name) for name in required_arrays(layout, "creation")}
    for name, values in rows.items():
        # A file that vanished since reads as the fill value, which must not be sealed.
        if faults := value_faults(name, values, Context(layout, store.metadata, rows)):
            raise CacheError(f"{folder}: {faults[0]} Start afresh with tkd cache build --force.")
        for index, partition in enumerate(digests):
            partition[name] = array_digest(name, values[layout.partition_rows(index)])
    for name in digests[0]:
        group[name].attrs[DIGESTS_ATTRIBUTE] = [partition[name] for partition in digests]
    partition_digests = [partition_digest(partition) for partition in digests]
    group["partition_digest"][:] = np.array(partition_digests, STRING)
    for leftover in folder.rglob("*.partial"):  # zarr's own temporary files, of writers that were killed
        leftover.unlink()
    flush(folder)
    identity = cache_id(partition_digests, store.metadata)
    group.attrs[ATTRIBUTE] = {**store.metadata, "cache_id": identity, "complete": True}
    flush(folder / "zarr.json")
