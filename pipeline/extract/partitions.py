"""A cache written in partitions: begun, filled and finalised, by one job or by several at once.

Each step can be killed and run again. Locks keep two from writing one thing: `.<name>.lock` is held by a job that does
the whole, and by a job that does a share while it begins and finalises; a share and a partition have locks of their
own among the working store's records.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache_schema import (
    Busy,
    CacheError,
    begun,
    clear_leftovers,
    create_cache,
    finalise,
    hold_every_share,
    hold_partition,
    hold_share,
    open_cache,
    pending_partitions,
)
from cache_schema.lock import only_one
from pipeline.errors import TkdError
from pipeline.extract.config import Share
from pipeline.extract.plan import PROVENANCE, Outline, other_than
from pipeline.lock import in_turn
from pipeline.progress import Progress, say

WAIT_SECONDS = 3600  # for other jobs to begin, one after the other: of millions of clips each takes a minute


@dataclass(frozen=True)
class Built:
    """How far a cache is."""

    cache_id: str | None  # None: partitions are still missing
    n_done: int
    n_partitions: int
    already: bool = False  # it was complete before


def write_cache(
    out: Path,
    outline: Outline,
    write: Callable[[list[int], Progress], object],
    doing: str,
    share: Share | None = None,
    force: bool = False,
) -> Built:
    """Writes the cache `out`, or a share of it, and returns how far it is; run again, it goes on where it stopped.

    Args:
        out: Where the finished cache is to be.
        outline: What it is begun with.
        write: Claims, computes and writes the partitions it is given, and advances the progress by their clips.
        doing: What that is, for the progress.
        share: Which partitions; None for all of them. The job that finds none missing in the end finalises.
        force: Replace a finished cache, and throw away an unfinished one begun with something else.

    Raises:
        TkdError: `out` holds another cache, or another job is writing the same.
        CacheError: an unfinished cache of something else is there, or what is there is damaged.
    """
    n_partitions = outline.layout.n_partitions
    if share is None:
        with only_one(out):
            if cache_id := begin(out, outline, force):
                return Built(cache_id, n_partitions, n_partitions, already=True)
            fill(out, outline, range(n_partitions), write, doing)
            return Built(finalise(out), n_partitions, n_partitions)
    with ExitStack() as job:
        with _when_others_have_begun(out):
            if cache_id := begin(out, outline, force):
                return Built(cache_id, n_partitions, n_partitions, already=True)
            job.enter_context(hold_share(out, share.index, share.n_shares))
        fill(out, outline, share.partitions(n_partitions), write, doing)
    return _finalise_if_whole(out, n_partitions)


@contextmanager
def _when_others_have_begun(out: Path) -> Iterator[None]:
    """Holds `only_one(out)`; jobs that start together begin one after the other."""
    with ExitStack() as held:
        try:
            held.enter_context(only_one(out))
        except Busy as error:
            say(f"{error} Waiting: it may be another share that begins.")
            held.enter_context(only_one(out, WAIT_SECONDS))
        yield


def begin(out: Path, outline: Outline, force: bool) -> str | None:
    """Makes or continues the working store; returns the cache_id if the same cache is there and complete, not forced.

    The caller holds `only_one(out)`.

    Raises:
        TkdError: `out` holds another cache, or with `force` other jobs are writing its working store.
        CacheError: an unfinished cache of something else is there, or what is there is damaged.
    """
    if out.exists() and not force:
        cache = open_cache(out)
        found = other_than(cache.metadata, outline)
        found = found or [
            f"other {name}" for name, row in outline.rows.items() if not np.array_equal(cache.read(name), row)
        ]
        if found:
            raise TkdError(
                f"{out}: a complete cache of something else: {'; '.join(found)}. "
                "--force rebuilds it, or choose another --out."
            )
        clear_leftovers(out, cache.metadata["cache_id"])
        return cache.metadata["cache_id"]
    with ExitStack() as idle:
        if force and other_than(begun(out) or {}, outline, (*PROVENANCE, "software")):  # it will be thrown away
            idle.enter_context(hold_every_share(out))
        create_cache(out, outline.layout, outline.rows, outline.metadata, force)
    return None


def fill(
    out: Path,
    outline: Outline,
    indices: Iterable[int],
    write: Callable[[list[int], Progress], object],
    doing: str,
) -> None:
    """Writes those of the partitions that are missing."""
    rows = {index: outline.layout.partition_rows(index) for index in indices}
    n_clips = {index: part.stop - part.start for index, part in rows.items()}
    missing = set(_missing(out)).intersection(n_clips)
    with Progress(doing, sum(n_clips.values()), "clips") as progress:
        progress.advance(sum(n_clips[index] for index in n_clips if index not in missing))
        write(sorted(missing), progress)


@contextmanager
def claim(out: Path, outline: Outline, index: int, wait_seconds: float = 0) -> Iterator[bool]:
    """Holds a partition of the unfinished cache while the block runs; yields whether it is still to be written.

    Raises:
        TkdError: the cache was begun with something else.
        CacheError: another process holds the partition, for longer than `wait_seconds`, or it cannot be written.
    """
    with hold_partition(out, index, wait_seconds):
        missing = index in _missing(out)
        if missing and (found := other_than(begun(out) or {}, outline)):
            raise TkdError(f"{out}: begun with something else: {'; '.join(found)}. Give every job the same settings.")
        yield missing


def _finalise_if_whole(out: Path, n_partitions: int) -> Built:
    missing = len(_missing(out))
    if missing:
        return Built(None, n_partitions - missing, n_partitions)
    with in_turn(out):  # of the jobs that end together one finalises, which for a large .h5 takes minutes
        cache_id = open_cache(out).metadata["cache_id"] if begun(out) is None else finalise(out)
    return Built(cache_id, n_partitions, n_partitions)


def _missing(out: Path) -> list[int]:
    """Returns the partitions to be written: none once another job has made the cache complete."""
    try:
        return pending_partitions(out)
    except CacheError:
        if begun(out) is not None:
            raise
        return []
