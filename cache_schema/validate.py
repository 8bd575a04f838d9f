"""Finding every fault of a finished cache, with its place."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from cache_schema.checks import Context, metadata_faults, name_faults, value_faults
from cache_schema.digest import array_digest
from cache_schema.errors import CacheError
from cache_schema.reader import digest_faults
from cache_schema.schema import ArraySpec, Layout, required_arrays
from cache_schema.store import (
    DIGESTS_ATTRIBUTE,
    array_names,
    numpy_dtype,
    open_array,
    open_group,
    progress,
    read_layout,
    read_stored,
    require_path,
)


@dataclass(frozen=True)
class Problem:
    """One fault.

    Attributes:
        place: the array or attribute, and where there is one the partition.
        text: what was found and what must be.
    """

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


def validate_cache(path: str | os.PathLike) -> list[Problem]:
    """Every problem of the cache; an empty list says that all of FORMAT.md holds and every byte is verified.

    Raises:
        CacheError: nothing is there, or nothing that could be looked into (another format version, no cache).
    """
    path = Path(path)
    require_path(path)
    group, metadata = open_group(path)
    layout = read_layout(path, metadata)
    specs = required_arrays(layout)
    faults = metadata_faults(metadata, layout)
    if metadata.get("complete") is not True:
        faults.append(f"tkd_cache.complete: {progress(path, layout)}.")
    faults += name_faults(array_names(path) | specs.keys(), specs)  # only those of no layout: the missing come next
    faults += digest_faults(group, metadata, layout)
    sound = []
    for name, spec in specs.items():
        try:
            array = open_array(group, name)
        except CacheError:
            continue  # listed by digest_faults
        faults += _form_faults(array, spec, layout)
        if array.dtype == numpy_dtype(spec) and array.shape == spec.grid(layout).shape:
            sound.append(name)
    faults += _content_faults(group, metadata, layout, sound)
    return [Problem(*fault.split(": ", 1)) for fault in faults]


def _form_faults(array: zarr.Array, spec: ArraySpec, layout: Layout) -> Iterator[str]:
    """What is wrong with how the array is described and laid out."""
    grid = spec.grid(layout)
    codecs = [codec.to_dict()["name"] for codec in array.compressors]
    pairs: list[tuple[str, Any, Any]] = [
        ("dtype", array.dtype, numpy_dtype(spec)),
        ("dims", array.metadata.dimension_names, spec.dims),
        ("shape", array.shape, grid.shape),
        ("chunks", array.chunks, grid.chunks),
        ("shards", array.shards, grid.shards),
        ("last codec", codecs[-1:], ["crc32c"]),
        *((f"attribute {key!r}", array.attrs.get(key), value) for key, value in spec.attributes.items()),
    ]
    for what, found, expected in pairs:
        if found != expected:
            yield f"{spec.name}: {what} is {found}, must be {expected}."


def _content_faults(group: zarr.Group, metadata: dict[str, Any], layout: Layout, names: Iterable[str]) -> Iterator[str]:
    """What is wrong with the values of the arrays, read partition by partition."""
    specs, rows = required_arrays(layout), {}
    for name in names:
        if specs[name].written == "creation":
            try:
                rows[name] = read_stored(group, name)
            except CacheError as error:
                yield f"{name}: {error}."
    whole = Context(layout, metadata, rows)
    for name, values in rows.items():
        yield from value_faults(name, values, whole)
    for index in range(layout.n_partitions):
        part = layout.partition_rows(index)
        known = {name: values[part] for name, values in rows.items()}
        for name, values in known.items():
            yield from _digest_fault(group, layout, name, values, index)
        for name in names:
            if specs[name].written != "partition":
                continue
            try:
                values = read_stored(group, name, part)
            except CacheError as error:
                yield f"{name}, {layout.place(index)}: {error}."
                continue
            yield from _digest_fault(group, layout, name, values, index)
            yield from value_faults(name, values, Context(layout, metadata, known, part.start))


def _digest_fault(group: zarr.Group, layout: Layout, name: str, values: np.ndarray, index: int) -> Iterator[str]:
    attributes = group[name].attrs
    digests = attributes.get(DIGESTS_ATTRIBUTE, ())
    if index < len(digests) and array_digest(name, values, attributes.get("coding")) != digests[index]:
        yield f"{name}, {layout.place(index)}: missing or altered (wrong digest)."
