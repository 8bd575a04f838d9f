"""The locks of the jobs that write one cache together: among the records of its working store, one each.

Who begins or finalises the cache holds `only_one(out)` as well.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from cache_schema.lock import hold, require_free
from cache_schema.stores.working import RECORDS, working_path


def hold_share(out: Path, index: int, n_shares: int) -> AbstractContextManager[None]:
    """Holds share `index` of `n_shares` of the unfinished cache `out` while the block runs; raises as `hold`."""
    return hold(_locks(out) / f"{index}-of-{n_shares}.lock", f"{out}, share {index}/{n_shares}")


def hold_partition(out: Path, index: int, wait_seconds: float = 0) -> AbstractContextManager[None]:
    """Holds a partition of the unfinished cache `out` while the block runs; raises as `hold`."""
    return hold(_locks(out) / f"{index:05d}.lock", f"{out}, partition {index}", wait_seconds)


@contextmanager
def hold_every_share(out: Path) -> Iterator[None]:
    """Holds all shares of the unfinished cache `out` that were ever begun while the block runs.

    Partitions must be free as it begins. They are asked one after the other: a process may not have as many files open
    as a large cache has partitions.

    Raises:
        CacheError: a job is writing a share or a partition, and is named.
    """
    with ExitStack() as held:
        locks = set(_locks(out).glob("*.lock"))
        shares = set(_locks(out).glob("*-of-*.lock"))
        for lock in sorted(shares):
            held.enter_context(hold(lock, out))
        for lock in sorted(locks - shares):
            require_free(lock, out)
        yield


def _locks(out: Path) -> Path:
    return working_path(out) / RECORDS
