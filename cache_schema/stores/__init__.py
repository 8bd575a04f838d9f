"""The containers of a cache: which one lies at a location, and how it is read."""

import difflib
import os
from collections.abc import Callable
from pathlib import Path

from cache_schema.errors import CacheError
from cache_schema.stores.base import Store
from cache_schema.stores.hdf5_store import SIGNATURE as HDF5_SIGNATURE
from cache_schema.stores.hdf5_store import Hdf5Store
from cache_schema.stores.remote import open_remote
from cache_schema.stores.working import progress, working_path
from cache_schema.stores.zarr_store import ZarrStore
from cache_schema.stores.zip_store import SIGNATURE as ZIP_SIGNATURE
from cache_schema.stores.zip_store import ZipStore

SUFFIXES = (".zarr", ".h5", ".zip")


def is_url(location: str | os.PathLike) -> bool:
    """Whether a location is a URL, rather than a path."""
    return "://" in os.fspath(location)


def open_store(
    location: str | os.PathLike, on_fetch: Callable[[int], object] | None = None, unfinished: bool = False
) -> Store:
    """The cache at a path or URL, whatever its container; at a path by its content, not by its name.

    Args:
        location: path or URL.
        on_fetch: called with the bytes of every piece that arrives from a URL.
        unfinished: where there is none yet, open the store it grows in.

    Raises:
        CacheError: nothing is there, or no cache.
    """
    if is_url(location):
        return open_remote(os.fspath(location), on_fetch)
    path = Path(location)
    if unfinished and not path.exists() and working_path(path).exists():
        path = working_path(path)
    require_path(path)
    if path.is_dir():
        if not (path / "zarr.json").exists():
            raise CacheError(f"{path}: no cache, or a damaged one (there is no zarr.json).{_instead(path)}")
        return ZarrStore(path)
    with path.open("rb") as file:
        start = file.read(len(HDF5_SIGNATURE))
    if start == HDF5_SIGNATURE:
        return Hdf5Store(path)
    if start.startswith(ZIP_SIGNATURE):
        return ZipStore(path)
    raise CacheError(f"{path}: a file, but no cache: neither HDF5 nor a .zip. Fetch it again, or give another.")


def _instead(path: Path) -> str:
    """What a folder without a cache is taken for, and what to do then."""
    if (path / "dataset.json").exists():
        return f" It holds a prepared data set: build its cache with tkd cache build --data {path}."
    if (path / "metrics.json").exists() or (path / "checkpoint").is_dir():
        return " It looks like a run of tkd train: its config.json names its cache."
    return ""


def require_path(path: Path) -> None:
    """Returns if something is at the path.

    Raises:
        CacheError: nothing is; the message names an unfinished cache, or what is there instead.
    """
    if path.exists():
        return
    if working_path(path).exists():
        raise CacheError(f"{path}: not finished yet, {progress(working_path(path))}.")
    if not path.parent.is_dir():
        raise CacheError(f"{path}: not found; there is no folder {path.parent}.")
    names = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix in SUFFIXES)
    near = difflib.get_close_matches(path.name, names, cutoff=0.4) or names[:3]
    hint = f"Did you mean {' or '.join(near)}?" if near else "There is no cache; make one with tkd cache build."
    raise CacheError(f"{path}: not found in {path.parent.resolve()}. {hint}")
