"""The folder in which a cache grows until it is whole."""

import os
import shutil
import threading
from pathlib import Path

from cache_schema.stores.zarr_store import ZarrStore

RECORDS = "partitions"  # its folder of records: one small file per partition that is whole


def working_path(path: str | os.PathLike) -> Path:
    """The folder a cache lives in until it is whole: the final name never shows unfinished work."""
    return Path(f"{os.fspath(path)}.partial")


def written_partitions(folder: Path) -> set[int]:
    """The partitions of a working store that are whole."""
    return {int(record.stem) for record in (folder / RECORDS).glob("*.json")}


def progress(folder: Path) -> str:
    """How far the working store is, and how to go on, for messages."""
    layout = ZarrStore(folder).layout()
    return (
        f"{len(written_partitions(folder))} of {layout.n_partitions} partitions are done; "
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


def replace(new: Path, path: Path) -> None:
    """Gives a whole cache its name; what had it is removed only then."""
    if path.exists():
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
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)
