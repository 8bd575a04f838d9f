"""One writer after another."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cache_schema import Busy
from cache_schema.lock import only_one
from pipeline.progress import say


@contextmanager
def in_turn(out: Path) -> Iterator[None]:
    """Holds the lock as `only_one`, after whoever holds it: for what the next one finds done and need not do again.

    Raises:
        CacheError: nothing can be written there.
    """
    with ExitStack() as held:
        try:
            held.enter_context(only_one(out))
        except Busy:
            say(f"{out}: waiting for another process that is at it")
            held.enter_context(only_one(out, wait_seconds=math.inf))
        yield
