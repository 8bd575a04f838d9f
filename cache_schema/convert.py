"""Copying a cache into another container, whole or without what its receiver must or need not have."""

import dataclasses
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cache_schema.errors import CacheError
from cache_schema.format.coding import encode_weights
from cache_schema.format.digest import array_digest, cache_id, partition_digest
from cache_schema.format.schema import KEEPS, ArraySpec, Layout, required_arrays
from cache_schema.lock import only_one
from cache_schema.reader import Cache, open_cache
from cache_schema.stores import SUFFIXES, open_store
from cache_schema.stores.base import ATTRIBUTE, DIGESTS_ATTRIBUTE, STRING
from cache_schema.stores.hdf5_store import create_array, set_attribute, width_of, write_values
from cache_schema.stores.working import discard, replace
from cache_schema.stores.zarr_store import create_folder, file_names, flush


def convert_cache(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    keep: str | None = None,
    with_features: bool = True,
    force: bool = False,
    on_partition: Callable[[int], object] = lambda _: None,
) -> str:
    """Copies a cache and returns the copy's cache_id: the same, if nothing is left out.

    Every partition is verified as it is read. The copy has another name until it is whole; one that was cut off begins
    anew.

    Args:
        source: a finished cache, path or URL.
        destination: a name in .zarr, .h5 or .zip.
        keep: attention to keep beside the rollout, no more than the source holds: "rollout", "layers" or "heads"; None
            for all of it.
        with_features: False makes a detached cache.
        force: whether a cache of that name is replaced.
        on_partition: called with the number of clips after every partition.

    Raises:
        CacheError: the source is damaged or does not hold what is to be kept, or the destination is there already.
    """
    destination = require_destination(destination)
    cache = open_cache(source)
    with only_one(destination):
        if destination.exists():
            if not force:
                raise CacheError(f"{destination}: already there; --force replaces it, or give another name.")
            if str(destination.resolve()) == cache.location:
                raise CacheError(f"{destination}: is the source itself. Give another name.")
            open_store(destination).metadata  # noqa: B018  only a cache may be replaced by one
        return convert_locked(cache, destination, keep, with_features, on_partition)


def require_destination(destination: str | os.PathLike) -> Path:
    """The path of a copy.

    Raises:
        CacheError: it is a URL, or its name does not end as that of a cache.
    """
    text = os.fspath(destination)
    if re.match(r"[a-z][a-z0-9+]+:/", text):  # a Path has lost one of the two slashes
        raise CacheError(f"{text}: a URL; tkd cache push copies a cache there. Give a path.")
    path = Path(destination)
    if path.suffix not in SUFFIXES:
        raise CacheError(f"{path}: the name of a cache ends in {', '.join(SUFFIXES)}. Give such a name.")
    return path


def convert_locked(
    cache: Cache,
    destination: Path,
    keep: str | None = None,
    with_features: bool = True,
    on_partition: Callable[[int], object] = lambda _: None,
) -> str:
    """Copies a cache as `convert_cache` does; the caller holds the lock of the destination, which may be replaced."""
    layout = _reduced(cache, keep, with_features)
    with new_cache(destination) as draft:
        if destination.suffix == ".h5":
            with _Hdf5Draft(draft, layout) as writer:
                return _copy(cache, layout, writer, on_partition)
        if destination.suffix == ".zarr":
            return _copy(cache, layout, _ZarrDraft(draft, layout), on_partition)
        with _draft(draft) as folder:
            identity = _copy(cache, layout, _ZarrDraft(folder, layout), on_partition)
            write_zip(folder, layout, draft)
        return identity


@contextmanager
def new_cache(path: Path) -> Iterator[Path]:
    """Gives a name to write to, and renames it to `path`, in place of what is there, when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _draft(path) as draft:
        yield draft
        flush(draft)
        replace(draft, path)


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """Gives the name `<path>.begin`; whatever lies there before or after the block is removed."""
    draft = Path(f"{path}.begin")
    discard(draft, draft)
    try:
        yield draft
    finally:
        discard(draft, draft)


def write_hdf5(cache: Cache, file: Path) -> None:
    """Writes the cache as an HDF5 file at `file`."""
    with _Hdf5Draft(file, cache.layout) as writer:
        _copy(cache, cache.layout, writer, lambda _: None)


def _reduced(cache: Cache, keep: str | None, with_features: bool) -> Layout:
    """The layout of a copy that leaves something out."""
    kept = cache.layout.keep
    if keep is not None and KEEPS.index(keep) > KEEPS.index(kept):
        raise CacheError(f"{cache.path}: it keeps {kept}; {keep} cannot be made of that. Build it with --keep {keep}.")
    return dataclasses.replace(
        cache.layout, keep=keep or kept, with_features=with_features and cache.layout.with_features
    )


def _copy(
    cache: Cache, layout: Layout, writer: "_ZarrDraft | _Hdf5Draft", on_partition: Callable[[int], object]
) -> str:
    """Writes the draft of a copy and returns its cache_id."""
    specs = required_arrays(layout)
    rows = {name: cache.read(name) for name, spec in specs.items() if spec.written == "creation"}
    metadata = {**cache.metadata, "layout": vars(layout)}
    for name, values in rows.items():
        writer.write(name, slice(None), values)
    digests: dict[str, list[str]] = {name: [] for name in specs if name != "partition_digest"}
    for index in range(layout.n_partitions):
        part = layout.partition_rows(index)
        for name in digests:
            values = rows[name][part] if name in rows else _stored(cache, specs[name], index)
            digests[name].append(array_digest(name, values, specs[name].coding))
            if name not in rows:
                writer.write(name, part, values)
        on_partition(part.stop - part.start)
    partitions = [partition_digest({name: digests[name][i] for name in digests}) for i in range(layout.n_partitions)]
    writer.write("partition_digest", slice(None), np.array(partitions, STRING))
    metadata["cache_id"] = cache_id(partitions, metadata)
    if layout == cache.layout and metadata["cache_id"] != cache.metadata["cache_id"]:
        raise CacheError(f"{cache.path}: its copy came out with another cache_id. Check the disk, and copy it again.")
    writer.finish(digests, metadata)
    return metadata["cache_id"]


def _stored(cache: Cache, spec: ArraySpec, index: int) -> np.ndarray:
    """Stored values of a partition; of layer weights that are only there as their heads, made from these."""
    if spec.name in cache.specs:
        return cache.read(spec.name, [index], decode=False)
    weights = cache.read("head_weights", [index]).mean(axis=2)
    valid = weights > 0  # no valid weight decodes to 0
    return encode_weights(weights, valid, spec.coding)


def write_zip(folder: Path, layout: Layout, file: Path) -> None:
    """Packs a finished cache's folder: stored, sorted, without dates, so that equal caches make equal files."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in file_names(layout):
            entry = zipfile.ZipInfo(name)  # its date is 1980, and its mode is a plain file's
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, (folder / name).read_bytes())


class _ZarrDraft:
    def __init__(self, folder: Path, layout: Layout) -> None:
        self.group = create_folder(folder, layout, {})

    def write(self, name: str, rows: slice, values: np.ndarray) -> None:
        self.group[name][rows] = values

    def finish(self, digests: Mapping[str, list[str]], metadata: Mapping[str, Any]) -> None:
        for name, found in digests.items():
            self.group[name].attrs[DIGESTS_ATTRIBUTE] = found
        self.group.attrs[ATTRIBUTE] = dict(metadata)


class _Hdf5Draft:
    def __init__(self, path: Path, layout: Layout) -> None:
        # latest: attributes may be larger than 64 kB, as the digests of many partitions are
        self.file, self.layout = h5py.File(path, "w", libver="latest"), layout

    def write(self, name: str, rows: slice, values: np.ndarray) -> None:
        if name not in self.file:
            create_array(self.file, required_arrays(self.layout)[name], self.layout, width_of(values))
        write_values(self.file, name, rows, values)

    def finish(self, digests: Mapping[str, list[str]], metadata: Mapping[str, Any]) -> None:
        for name, found in digests.items():
            set_attribute(self.file[name], DIGESTS_ATTRIBUTE, found)
        set_attribute(self.file, ATTRIBUTE, metadata)

    def __enter__(self) -> "_Hdf5Draft":
        return self

    def __exit__(self, *_error) -> None:
        self.file.close()
