"""A cache at a glance."""

import os
from pathlib import Path
from typing import Any

from cache_schema.errors import CacheError
from cache_schema.format.checks import metadata_faults
from cache_schema.format.schema import SPLITS, required_arrays
from cache_schema.stores import open_store
from cache_schema.stores.working import written_partitions


def describe_cache(path: str | os.PathLike) -> dict[str, Any]:
    """What a cache holds, by whom, from what, how large; JSON throughout. An unfinished one is described as it stands.

    Returns:
        The `tkd_cache` attribute with `path`, `n_partitions`, `partitions_done`, `splits` (clips of each), `views`
        (rows that are further renderings of training clips), `seconds` of audio, `bytes` on disk, `files`, and
        `arrays`: per array its `dims`, `shape`, `dtype`, `bytes` and `bytes_per_second` of audio.

    Raises:
        CacheError: there is nothing, finished or not, or nothing that could be looked into.
    """
    store = open_store(path, unfinished=True)
    path, layout, metadata = store.location, store.layout(), store.metadata
    done = layout.n_partitions if metadata.get("complete") is True else len(written_partitions(Path(path)))
    try:
        if faults := metadata_faults(metadata, layout):
            raise CacheError(faults[0].rstrip("."))
        sizes = store.sizes()
        if missing := [name for name in required_arrays(layout) if name not in sizes]:
            raise CacheError(f"{', '.join(missing)}: missing")
        teacher = metadata["teacher"]
        seconds = float(store.read("n_frames").sum()) * teacher["hop_length"] / teacher["sample_rate"]
        splits, views = store.read("split"), store.read("view")
    except CacheError as error:
        raise CacheError(f"{path}: {error}. List every fault with tkd cache validate.") from error
    arrays = {}
    for name, spec in required_arrays(layout).items():
        arrays[name] = {
            "dims": list(spec.dims),
            "shape": list(spec.grid(layout).shape),
            "dtype": spec.dtype,
            "bytes": sizes[name],
            "bytes_per_second": round(sizes[name] / seconds, 2),
        }
    return {
        "path": str(path),
        **metadata,
        "n_partitions": layout.n_partitions,
        "partitions_done": done,
        "splits": {split: int(((splits == value) & (views == 0)).sum()) for value, split in enumerate(SPLITS)},
        "views": int((views > 0).sum()),
        "seconds": seconds,
        "bytes": sum(sizes.values()),
        "files": store.n_files,
        "arrays": arrays,
    }
