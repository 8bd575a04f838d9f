"""A cache decoded once on a machine, for all processes that train from it: files in memory, which each of them maps."""

import errno
import fcntl
import hashlib
import math
import os
import random
import shutil
import stat
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from cache_schema import Cache
from pipeline.distill.data.load import load_splits
from pipeline.distill.data.memory import default_memory
from pipeline.distill.data.splits import Split
from pipeline.progress import say

_MEMORY = Path("/dev/shm")  # Linux's folder for files that are in memory


@contextmanager
def decoded_once(cache: Cache, frame_weights: Collection[str], memory: int | None = None) -> Iterator[Path | None]:
    """A folder with what training reads of a cache, decoded: the `decoded` of `load_splits`, in any process.

    All of it was verified when it was read. Who comes first decodes while others wait, and who leaves last removes it.
    What a killed process has left is found again by the cache_id, or removed by the next one that comes for another.

    Args:
        cache: A finished cache with features.
        frame_weights: All that the training clips are to be taught with.
        memory: Bytes it may take; None for half of what is available.

    Yields:
        The folder; None where it would take more than it may or there is no room: each process reads for itself then.

    Raises:
        TkdError, CacheError: as `load_splits`, and as reading a split.
    """
    wanted: dict[str, tuple[Split, str]] = {}
    for chosen in frame_weights:
        for split in load_splits(cache, memory=memory, frame_weights=chosen).values():
            wanted |= {file: (split, name) for name, file in split.files.items()}
    names = "\n".join([cache.metadata["cache_id"], *sorted(wanted)])
    name = hashlib.sha256(names.encode()).hexdigest()[:24]
    needed = sum(2 * math.prod(split.shape(array)) for split, array in wanted.values())
    allowed = default_memory() if memory is None else memory
    for place in _places():
        _clear(place, name)
        with _held(place / name, wanted, needed, allowed) as folder:
            if folder is not None:
                yield folder
                return
    say(
        f"{cache.path}: decoded it takes {needed / 1e6:,.1f} MB, and there is no room for that in the "
        f"{allowed / 1e6:,.1f} MB of memory it may take (--memory) or on the disk: each process reads it for itself."
    )
    yield None


@contextmanager
def _held(folder: Path, wanted: dict[str, tuple[Split, str]], needed: int, allowed: int) -> Iterator[Path | None]:
    """Holds the folder, made if need be; None if it is not there and cannot be made."""
    with _lock_of(folder).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # after one that decodes
        while not folder.is_dir():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # to wait for it would be to wait until who decodes meanwhile leaves
                time.sleep(random.uniform(0.01, 0.1))
                fcntl.flock(lock, fcntl.LOCK_SH)
                continue
            if not folder.is_dir() and not (needed <= allowed and _write(folder, wanted, needed)):
                yield None
                return
            fcntl.flock(lock, fcntl.LOCK_SH)  # between the two the last one may leave
        try:
            yield folder
        finally:
            with suppress(BlockingIOError):  # others use it
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)


def _write(folder: Path, wanted: dict[str, tuple[Split, str]], needed: int) -> bool:
    """Writes the files, whole or not at all; returns whether there was room."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    if needed > shutil.disk_usage(folder.parent).free:
        return False
    partial.mkdir()
    try:
        for file, (split, name) in wanted.items():
            with (partial / file).open("wb") as written:  # written, not mapped: where the room ends, that kills
                header = {"descr": "<f2", "fortran_order": False, "shape": split.shape(name)}
                np.lib.format.write_array_header_1_0(written, header)
                for values in split.pieces(name):
                    # Not `tofile`, which does not say that a disk is full.
                    written.write(memoryview(np.ascontiguousarray(values, "<f2")).cast("B"))
                written.flush()
                os.fsync(written.fileno())  # so that what is found again after a crash is whole
        partial.rename(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return False
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _places() -> Iterator[Path]:
    """Folders of this user alone, in memory first."""
    for parent in (_MEMORY, Path(tempfile.gettempdir())):
        place = parent / f"tkd-{os.getuid()}"
        with suppress(OSError):
            place.mkdir(mode=0o700, exist_ok=True)
            found = place.lstat()
            # Anybody may make a folder of that name there, and put other data into it.
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
                yield place


def _clear(place: Path, name: str) -> None:
    """Removes what killed processes have left, all but the folder of that name."""
    for lock in place.glob("*.lock"):
        folder = lock.with_suffix("")
        if folder.name != name:
            with lock.open("a") as held, suppress(BlockingIOError):
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with suppress(OSError):
                    _remove(folder)


def _remove(folder: Path) -> None:
    """Removes a folder and what is half written or half removed of it; a half of one is never taken for the whole."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with suppress(FileNotFoundError):
        folder.rename(partial)
    shutil.rmtree(partial, ignore_errors=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")
