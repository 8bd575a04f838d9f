"""One writer at a time, in the words of this package's errors."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cache_schema import CacheError
from cache_schema.lock import only_one as only_one_writer
from pipeline.errors import TkdError


@contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Holds the lock `.<name>.lock`, beside `out`, while the block runs.

    Raises:
        TkdError: another process is writing `out`, which is named, or nothing can be written there.
    """
    with ExitStack() as held:
        try:
            held.enter_context(only_one_writer(out))
        except CacheError as error:
            raise TkdError(str(error)) from error
        yield
