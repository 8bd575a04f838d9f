"""A cache at a glance."""

import os
from pathlib import Path
from typing import Any

from cache_schema.checks import metadata_faults
from cache_schema.errors import CacheError
from cache_schema.schema import SPLITS, required_arrays
from cache_schema.store import (
    open_group,
    read_layout,
    read_stored,
    require_path,
    working_path,
    written_partitions,
)


def describe_cache(path: str | os.PathLike) -> dict[str, Any]:
    """What a cache holds, by whom, from what, how large; JSON throughout. An unfinished one is described as it stands.

    Returns:
        The `tkd_cache` attribute with `path`, `n_partitions`, `partitions_done`, `splits` (clips of each),
        `seconds` of audio, `bytes` on disk, `files`, and `arrays`: per array its `dims`, `shape`, `dtype`, `bytes`
        and `bytes_per_second` of audio.

    Raises:
        CacheError: there is nothing, finished or not, or nothing that could be looked into.
    """
    path = Path(path)
    folder = path if path.exists() or not working_path(path).exists() else working_path(path)
    require_path(folder)
    group, metadata = open_group(folder)
    layout = read_layout(folder, metadata)
    done = layout.n_partitions if metadata.get("complete") is True else len(written_partitions(folder))
    try:
        for fault in metadata_faults(metadata, layout):
            raise CacheError(fault.rstrip("."))
        teacher = metadata["teacher"]
        seconds = float(read_stored(group, "n_frames").sum()) * teacher["hop_length"] / teacher["sample_rate"]
        splits = read_stored(group, "split")
    except CacheError as error:
        raise CacheError(f"{folder}: {error}. List every fault with tkd cache validate.") from error
    arrays = {}
    for name, spec in required_arrays(layout).items():
        n_bytes = _bytes(folder / name)
        arrays[name] = {
            "dims": list(spec.dims),
            "shape": list(spec.grid(layout).shape),
            "dtype": spec.dtype,
            "bytes": n_bytes,
            "bytes_per_second": round(n_bytes / seconds, 2),
        }
    return {
        "path": str(folder),
        **metadata,
        "n_partitions": layout.n_partitions,
        "partitions_done": done,
        "splits": {split: int((splits == value).sum()) for value, split in enumerate(SPLITS)},
        "seconds": seconds,
        "bytes": _bytes(folder),
        "files": sum(entry.is_file() for entry in folder.rglob("*")),
        "arrays": arrays,
    }


def _bytes(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())
