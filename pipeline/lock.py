"""One writer at a time, in the words of this package's errors."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cache_schema
from cache_schema.lock import only_one as only_one_writer
from pipeline.errors import TkdError
from pipeline.progress import say


class Busy(TkdError):
    """Another process is writing it, and is named."""


@contextmanager
def only_one(out: Path, wait_seconds: float = 0) -> Iterator[None]:
    """Holds the lock `.<name>.lock`, beside `out`, while the block runs; waits for another holder if told to.

    Raises:
        Busy: another process is writing `out`.
        TkdError: nothing can be written there.
    """
    with ExitStack() as held:
        try:
            held.enter_context(only_one_writer(out, wait_seconds))
        except cache_schema.Busy as error:
            raise Busy(str(error)) from error
        except cache_schema.CacheError as error:
            raise TkdError(str(error)) from error
        yield


@contextmanager
def in_turn(out: Path) -> Iterator[None]:
    """Holds the lock as `only_one`, after whoever holds it: for what the next one finds done and need not do again.

    Raises:
        TkdError: nothing can be written there.
    """
    with ExitStack() as held:
        try:
            held.enter_context(only_one(out))
        except Busy:
            say(f"{out}: waiting for another process that is at it")
            held.enter_context(only_one(out, wait_seconds=math.inf))
        yield
