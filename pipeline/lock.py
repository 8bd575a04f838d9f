"""One writer at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import TkdError


@contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Holds the lock `.<name>.lock`, beside `out`, while the block runs.

    The operating system drops the lock of a process that dies.

    Raises:
        TkdError: another process is writing `out`, or nothing can be written there.
    """
    lock = FileLock(out.with_name(f".{out.name}.lock"), timeout=0)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise TkdError(f"{out}: another tkd is writing it. Wait for that one, or give another --out.") from error
    except OSError as error:
        raise TkdError(f"{out}: cannot be written ({error.strerror}). Give another --out.") from error
    try:
        yield
    finally:
        lock.release()  # the empty file stays: removing it would let two others lock one name twice
