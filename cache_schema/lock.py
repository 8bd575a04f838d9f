"""One writer at a time, and who it is."""

import fcntl
import os
import shlex
import socket
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from cache_schema.errors import Busy, CacheError

_POLL_SECONDS = 0.1


@contextmanager
def only_one(out: Path, wait_seconds: float = 0) -> Iterator[None]:
    """Holds the lock `.<name>.lock`, beside `out`, while the block runs; see `hold`.

    Raises:
        Busy: another process is writing `out`.
        CacheError: nothing can be written there.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(out, error) from error
    if not out.name:  # "/"
        raise CacheError(f"{out}: has no name. Give another --out.")
    with hold(out.with_name(f".{out.name}.lock"), out, wait_seconds):
        yield


@contextmanager
def hold(lock: Path, what: Path | str, wait_seconds: float = 0) -> Iterator[None]:
    """Holds the file `lock` while the block runs; it says who does.

    The operating system drops the lock of a process that dies, on a shared file system, too (NFS, or Lustre mounted
    with `flock`).

    Args:
        lock: The file, made if need be; it stays, because removing it would let two others lock one name twice.
        what: What is written, for messages.
        wait_seconds: How long to wait for another holder.

    Raises:
        Busy: another process holds it.
        CacheError: it cannot be written.
    """
    try:
        file = lock.open("a+", encoding="utf-8")
    except OSError as error:
        raise _unwritable(what, error) from error
    with file:
        _acquire(file, what, wait_seconds)
        file.truncate(0)
        file.write(_myself())
        file.flush()
        os.fsync(file.fileno())  # so that other machines read it
        try:
            yield
        finally:
            file.truncate(0)


def require_free(lock: Path, what: Path | str) -> None:
    """Returns if no process holds the file `lock`; raises as `hold`."""
    try:
        with lock.open("a+", encoding="utf-8") as file:
            _acquire(file, what, wait_seconds=0)
    except OSError as error:
        raise _unwritable(what, error) from error


def _acquire(file: IO[str], what: Path | str, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                file.seek(0)
                holder = file.read() or "another tkd"
                raise Busy(f"{what}: being written by {holder}. Wait for it, or give another --out.") from error
        except OSError as error:
            raise _unwritable(what, error) from error
        time.sleep(_POLL_SECONDS)


def _myself() -> str:
    """Returns this process in words."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return f"pid {os.getpid()} on {socket.gethostname()} since {since} ({textwrap.shorten(command, 200)})"


def _unwritable(what: Path | str, error: OSError) -> CacheError:
    return CacheError(f"{what}: cannot be written ({error.strerror}). Give another --out.")
