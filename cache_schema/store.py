"""A cache on disk as a Zarr v3 group: its folders, its codecs, opening it and reading stored values."""

import difflib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from cache_schema.errors import CacheError
from cache_schema.schema import FORMAT_VERSION, ArraySpec, Layout, required_arrays

ATTRIBUTE = "tkd_cache"
DIGESTS_ATTRIBUTE = "partition_sha256"
RECORDS = "partitions"  # folder of the working store: one small file per partition that is whole
STRING = np.dtypes.StringDType()


def working_path(path: str | os.PathLike) -> Path:
    """The folder a cache lives in until it is whole: the final name never shows unfinished work."""
    return Path(f"{os.fspath(path)}.partial")


def numpy_dtype(spec: ArraySpec) -> np.dtype:
    """The dtype stored values have in memory."""
    return STRING if spec.dtype == "string" else np.dtype(spec.dtype)


def create_group(folder: Path, layout: Layout, metadata: Mapping[str, Any]) -> zarr.Group:
    """A new group with every array of the layout, all of them still empty."""
    group = zarr.create_group(folder, zarr_format=3, attributes={ATTRIBUTE: dict(metadata)})
    # Byte shuffle made float16 features 27 % smaller than zstd alone; strings have no fixed width to shuffle.
    squeeze_numbers, squeeze_strings = BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"), ZstdCodec(level=3)
    for name, spec in required_arrays(layout).items():
        grid = spec.grid(layout)
        group.create_array(
            name,
            shape=grid.shape,
            chunks=grid.chunks,
            shards=grid.shards,
            dtype=str if spec.dtype == "string" else spec.dtype,
            fill_value=spec.fill,
            # crc32c last: without it zstd and blosc return wrong values from a flipped bit without a word
            compressors=[squeeze_strings if spec.dtype == "string" else squeeze_numbers, Crc32cCodec()],
            dimension_names=spec.dims,
            attributes={"description": spec.description, **spec.attributes},
        )
    return group


def open_group(folder: Path, mode: str = "r") -> tuple[zarr.Group, dict[str, Any]]:
    """The group and its `tkd_cache` attribute.

    Raises:
        CacheError: the path is not a cache, or one of another format version.
    """
    if folder.is_file():
        raise CacheError(f"{folder}: a file; a cache is a folder, made by tkd cache build.")
    try:
        group = zarr.open_group(folder, mode=mode, zarr_format=3)
    except (ValueError, OSError) as error:
        raise CacheError(f"{folder}: a folder, but no cache (no Zarr v3 group: {error}).") from error
    metadata = group.attrs.get(ATTRIBUTE)
    if not isinstance(metadata, dict) or "format_version" not in metadata:
        raise CacheError(f"{folder}: a Zarr group, but no cache (it has no attribute {ATTRIBUTE!r}).")
    if metadata["format_version"] != FORMAT_VERSION:
        raise CacheError(
            f"{folder}: format version {metadata['format_version']}, this tkd reads version {FORMAT_VERSION}. "
            f"Update tkd, or ask whoever made the cache for one of version {FORMAT_VERSION}."
        )
    return group, metadata


def read_layout(folder: Path, metadata: Mapping[str, Any]) -> Layout:
    """The layout a `tkd_cache` attribute states.

    Raises:
        CacheError: it states none.
    """
    try:
        return Layout(**metadata["layout"])
    except (KeyError, TypeError, CacheError) as error:
        raise CacheError(
            f"{folder}: {ATTRIBUTE}.layout is damaged ({error}). Fetch or build the cache again."
        ) from error


def array_names(folder: Path) -> set[str]:
    """The names of the arrays that lie in the folder, readable or not."""
    return {entry.parent.name for entry in folder.glob("*/zarr.json")}


def open_array(group: zarr.Group, name: str) -> zarr.Array:
    """The named array, its values not yet looked at.

    Raises:
        CacheError: it is missing, or its metadata are damaged.
    """
    try:
        array = group[name]
    except KeyError as error:
        raise CacheError("missing") from error
    except (ValueError, TypeError, OSError) as error:
        raise CacheError(f"its metadata are damaged ({error})") from error
    if not isinstance(array, zarr.Array):
        raise CacheError("not an array")
    return array


def read_stored(group: zarr.Group, name: str, rows: slice = slice(None)) -> np.ndarray:
    """Stored values of the rows, (clip, ...), not decoded, not checked against a digest.

    Raises:
        CacheError: the array is missing, or its metadata, a checksum or a file's length are wrong.
    """
    array = open_array(group, name)
    try:
        return np.asarray(array[rows])
    except MemoryError:
        raise
    except Exception as error:  # every codec has its own way of failing on damaged bytes
        raise CacheError(f"cannot be read ({error})") from error


def written_partitions(folder: Path) -> set[int]:
    """The partitions of a working store that are whole."""
    return {int(record.stem) for record in (folder / RECORDS).glob("*.json")}


def progress(folder: Path, layout: Layout) -> str:
    """How far an unfinished cache is, and how to go on, for messages."""
    done = len(written_partitions(folder))
    return (
        f"{done} of {layout.n_partitions} partitions are done; "
        "running the same tkd cache build again continues where it stopped"
    )


def require_path(path: Path) -> None:
    """Returns if something is at the path.

    Raises:
        CacheError: nothing is; the message names an unfinished cache, or what is there instead.
    """
    if path.exists():
        return
    folder = working_path(path)
    if folder.exists():
        layout = read_layout(folder, open_group(folder)[1])
        raise CacheError(f"{path}: not finished yet, {progress(folder, layout)}.")
    if not path.parent.is_dir():
        raise CacheError(f"{path}: not found; there is no folder {path.parent}.")
    names = sorted(entry.name for entry in path.parent.glob("*.zarr"))
    near = difflib.get_close_matches(path.name, names, cutoff=0.4) or names[:3]
    hint = f"Did you mean {' or '.join(near)}?" if near else "There is no .zarr; make one with tkd cache build."
    raise CacheError(f"{path}: not found in {path.parent.resolve()}. {hint}")


def flush(path: Path) -> None:
    """Returns when the file, or everything in the folder, has reached the disk."""
    for entry in (path, *path.rglob("*")):
        descriptor = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def discard(folder: Path, path: Path) -> None:
    """Removes a folder that belongs to the cache `path`, and what an earlier interrupted removal left.

    It is renamed first, so that a removal that is interrupted leaves nothing that could be taken for a cache.
    """
    bin_path = Path(f"{path}.discarded")
    shutil.rmtree(bin_path, ignore_errors=True)
    if folder.exists():
        folder.rename(bin_path)
        shutil.rmtree(bin_path)
