"""The folder in which a cache grows until it is whole."""

import json
import os
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np

from cache_schema.errors import CacheError
from cache_schema.format.schema import required_arrays
from cache_schema.stores.base import DIGESTS_ATTRIBUTE
from cache_schema.stores.zarr_store import ZarrStore

RECORDS = "partitions"  # its folder of records: one small file per partition that is whole


def working_path(path: str | os.PathLike) -> Path:
    """The folder a cache lives in until it is whole: the final name never shows unfinished work."""
    return Path(f"{os.fspath(path)}.partial")


def begun(path: str | os.PathLike) -> dict[str, Any] | None:
    """The `tkd_cache` attribute of the unfinished cache; None where there is none, empty where it is damaged."""
    try:
        return ZarrStore(working_path(path)).metadata
    except CacheError:
        return {} if working_path(path).exists() else None


def written_partitions(folder: Path) -> set[int]:
    """The partitions of a working store that are whole."""
    records = (folder / RECORDS).glob("*.json")
    return {int(record.stem) for record in records if re.fullmatch(r"[0-9]{5,}", record.stem)}


def record_of(folder: Path, index: int) -> Path:
    """The file that says that a partition of a working store is whole."""
    return folder / RECORDS / f"{index:05d}.json"


def recorded_digests(store: ZarrStore, index: int) -> dict[str, str]:
    """The digests of the arrays written with a partition that is whole, by name.

    Raises:
        CacheError: the record is damaged.
    """
    names = required_arrays(store.layout(), "partition")
    if store.metadata.get("complete") is True:  # the records may be gone
        return {name: store.form(name).attributes[DIGESTS_ATTRIBUTE][index] for name in names}
    record = record_of(store.folder, index)
    try:
        digests = json.loads(record.read_bytes())
        if digests.keys() != names.keys() or not all(isinstance(digest, str) for digest in digests.values()):
            raise ValueError(f"must hold a digest of each of {', '.join(names)}")
    except (OSError, ValueError, AttributeError) as error:
        raise CacheError(
            f"{record}: damaged ({error}). Remove it and run the same tkd cache build again, which writes that "
            "partition anew."
        ) from error
    return digests


def read_stored(store: ZarrStore, name: str, rows: slice = slice(None), place: str = "") -> np.ndarray:
    """Stored values of a working store; `place` says of which rows, for messages.

    Raises:
        CacheError: they cannot be read; the message names store and array.
    """
    try:
        return store.read(name, rows)
    except CacheError as error:
        raise CacheError(
            f"{store.location}: {name}{place}: {error}. Copy that part again, or start afresh with "
            "tkd cache build --force."
        ) from error


def progress(location: str | os.PathLike) -> str:
    """How far an unfinished cache is, and how to go on, for messages."""
    folder = Path(location)
    if folder.suffix != ".partial" or not folder.is_dir():
        return "not all of it is there; ask whoever made it for the whole, or fetch it again"
    store = ZarrStore(folder)
    n_partitions = store.layout().n_partitions
    if store.metadata.get("complete") is True:  # finalise was cut off before it gave the name
        return f"all {n_partitions} partitions are done; running the same tkd cache build again finishes it"
    return (
        f"{len(written_partitions(folder))} of {n_partitions} partitions are done; "
        "running the same tkd cache build again continues where it stopped"
    )


def discard(entry: Path, path: Path) -> None:
    """Removes a folder or file that belongs to the cache `path`, and what an earlier interrupted removal left.

    It is renamed first, so that a removal that is interrupted leaves nothing that could be taken for a cache.
    """
    bin_path = Path(f"{path}.discarded")
    _remove(bin_path)
    if entry.exists():
        entry.rename(bin_path)
        _remove(bin_path)


def clear_leftovers(path: Path, cache_id: str) -> None:
    """Removes what a writer left that was killed once the cache of this id was whole and in its place."""
    discard(Path(f"{path}.begin"), path)
    if (begun(path) or {}).get("cache_id") == cache_id:
        discard(working_path(path), path)


def replace(new: Path, path: Path) -> None:
    """Gives a whole cache its name; what had it is removed only then. A link of that name is replaced, not followed."""
    if os.path.lexists(path):
        bin_path = Path(f"{path}.discarded")
        _remove(bin_path)
        path.rename(bin_path)
    new.rename(path)
    _remove(Path(f"{path}.discarded"))


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that is there whole or not at all, also after a power cut, and whoever else writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.writing")
    try:
        with temporary.open("wb") as file:  # not by tempfile, whose files are for their owner alone
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)
