"""Stage one: the teacher runs over every clip, and what it says goes into a cache."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np

from cache_schema import write_partition
from pipeline.data.manifest import Manifest
from pipeline.extract.config import BuildConfig, ClusterConfig, Share
from pipeline.extract.overlap import Usage, behind
from pipeline.extract.partitions import Built, claim, write_cache
from pipeline.extract.plan import Plan, plan_build
from pipeline.extract.targets import Batch, empty_arrays, hear, put_away, render_ahead
from pipeline.progress import Progress, say

_BATCHES_BEHIND = 8  # heard, and still to be put away or written, at most
_DOING = "running the teacher"


def build_cache(
    manifest: Manifest,
    teacher_name: str,
    out: Path,
    config: BuildConfig,
    force: bool = False,
    share: Share | None = None,
    cluster: ClusterConfig | None = None,
) -> Built:
    """Runs the teacher over every clip of the manifest, or a share of them, and writes the cache `out`.

    Nothing is run where the same cache is there and complete. With `cluster` workers of dask.distributed run the
    teacher; else this process does.

    Raises:
        TkdError: teacher and dataset do not fit, a clip cannot be read or is too short, `out` holds another cache,
            another job is writing the same, or the workers failed.
        CacheError: an unfinished cache of something else is there, or what is there is damaged.
    """
    plan = plan_build(manifest, teacher_name, config)
    if cluster is None:
        write = partial(build_partitions, plan, out)
    else:
        from pipeline.extract.cluster import Job, build_on_cluster  # dask is imported where it is asked for

        write = partial(build_on_cluster, cluster, Job.of(plan, teacher_name, out), plan.outline.layout)

    def write_and_report(indices: list[int], progress: Progress) -> None:
        usage = write(indices, progress)
        if usage.audio:
            say(f"{_DOING}: {usage}")

    return write_cache(out, plan.outline, write_and_report, _DOING, share, force)


def build_partitions(
    plan: Plan, out: Path, indices: Iterable[int], progress: Progress | None = None, wait_seconds: float = 0
) -> Usage:
    """Computes and writes partitions of the unfinished cache, those that are whole excepted; returns the time it took.

    Any process may call it, for any partitions, at any time after `begin`; with a plan of its own, made from the same.
    While the teacher runs, the next clips are rendered, and what it said is written: of one partition at most, so that
    two are in memory. Several threads of a process may call it: while one runs the teacher, others render and write.

    Args:
        plan: What to build.
        out: Where the finished cache is to be.
        indices: The partitions, each once.
        progress: Advanced by clips.
        wait_seconds: How long to wait for another process that is writing one of them.

    Raises:
        TkdError: the cache was begun with another plan, or a clip cannot be read.
        CacheError: another process is writing a partition.
    """
    layout, usage = plan.outline.layout, Usage()
    parts = ((index, plan.manifest.clips[layout.partition_rows(index)]) for index in indices)
    held: dict[int, ExitStack] = {}  # locks of the partitions at hand

    def claimed(batches: Iterator[Batch]) -> Iterator[Batch]:
        for index, batches_of_it in groupby(batches, lambda batch: batch.part):
            held[index] = ExitStack()
            if held[index].enter_context(claim(out, plan.outline, index, wait_seconds)):
                yield from batches_of_it
            else:
                held.pop(index).close()
                for batch in batches_of_it:
                    _advance(progress, batch.rows)

    with (
        usage.timed("wall"),
        _released(held),
        behind(_BATCHES_BEHIND, usage) as later,
        closing(render_ahead(plan, parts, usage)) as rendered,
        closing(hear(plan, claimed(rendered), usage)) as heard,
    ):
        n_heard = 0  # of the partition's clips
        for batch, pooled in heard:
            rows = layout.partition_rows(batch.part)
            if n_heard == 0:
                arrays, kept = empty_arrays(layout, rows.stop - rows.start, stored=True), []
            kept.append(later(put_away, arrays, layout, batch, pooled))
            _advance(progress, batch.rows)
            n_heard += len(batch.rows)
            if n_heard == rows.stop - rows.start:
                later(_write, held.pop(batch.part), out, batch.part, arrays, kept)
                n_heard = 0
    return usage


@contextmanager
def _released(held: dict[int, ExitStack]) -> Iterator[None]:
    """Gives back what is still held when the block ends, however it does."""
    try:
        yield
    finally:
        for locks in held.values():
            locks.close()


def _write(held: ExitStack, out: Path, index: int, arrays: dict[str, np.ndarray], kept: list[Future]) -> None:
    with held:
        for put in kept:
            put.result()  # done by now; raises if it failed
        write_partition(out, index, arrays, coded=True)


def _advance(progress: Progress | None, rows: list[int]) -> None:
    if progress is not None:
        progress.advance(len(rows))
