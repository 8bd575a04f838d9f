"""Stage one on workers of dask.distributed: a task is one partition, written by the worker that computes it.

Nothing but numbers and names travels: workers read recordings and teacher, and write the cache, on the file system that
they share with the process that builds. dask gives the task of a lost worker to another one. A partition's lock is held
by the process that writes it: it is free when that one is dead, and until then the other waits.
"""

import functools
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from distributed import Client, Future, KilledWorker, as_completed, get_worker

from cache_schema import CacheError, Layout, begun
from pipeline.data.manifest import read_manifest
from pipeline.errors import TkdError
from pipeline.extract.build import build_partitions
from pipeline.extract.config import BuildConfig, ClusterConfig
from pipeline.extract.overlap import Usage
from pipeline.extract.plan import Plan, plan_build
from pipeline.progress import Progress, say
from pipeline.workers import connected

TASKS_PER_WORKER = 2  # at a time: one runs the teacher, the other renders its first clips or writes
LOST_SECONDS = 600  # for a worker that is taken for lost, and still holds its partition
_REFRESH_SECONDS = 1.0  # between questions for how many workers there are
_THREADS = torch.get_num_threads()  # before threads that render set it to 1
_PREPARING = threading.Lock()


@dataclass(frozen=True)
class Job:
    """What a worker makes its own plan of."""

    data: str  # folders, as the worker sees them, too
    teacher: str
    out: str
    config: BuildConfig
    digests: tuple[str, str]  # of manifest and teacher: a worker that has outlived others of that name reads anew
    threads: int | None = None  # forward passes at once on a CPU, a thread each; None: as the worker was started

    @classmethod
    def of(cls, plan: Plan, teacher_name: str, out: Path) -> "Job":
        """Returns the job of a plan that was made with that teacher."""
        teacher = teacher_name if teacher_name == "bundled" else str(Path(teacher_name).resolve())
        described = plan.outline.metadata
        digests = described["dataset"]["manifest_sha256"], described["teacher"]["sha256"]
        return cls(str(plan.manifest.root.resolve()), teacher, str(out.resolve()), plan.config, digests)


def build_on_cluster(
    cluster: ClusterConfig, job: Job, layout: Layout, indices: list[int], progress: Progress | None = None
) -> Usage:
    """Has workers compute and write partitions of the unfinished cache; returns the time it took.

    After the first partition that fails no other is begun; those that are, are finished.

    Raises:
        TkdError: a partition failed, which is named, or there is no such scheduler.
    """
    usage = Usage()
    if not indices:
        return usage
    with connected(cluster.workers, cluster.scheduler, TASKS_PER_WORKER) as client:
        say(f"{client.scheduler.address}: dashboard at {client.dashboard_link}")
        if cluster.workers:
            job = replace(job, threads=max(1, _THREADS // cluster.workers))
        elif not client.nthreads():
            say(f"{cluster.scheduler}: has no workers yet; waiting for them")
        with usage.timed("wall"):
            _run_partitions(client, functools.partial(_build, job), indices, _collector(job, layout, usage, progress))
        usage.n_workers = max(1, len(client.nthreads()))
    return usage


def run_tasks(
    client: Client, task: Callable[[int], object], indices: Iterable[int], done: Callable[[int, Future], None]
) -> None:
    """Runs `task(index)` on workers for all indices, and `done(index, future)` here as each ends.

    The scheduler is given a few tasks more than its workers can begin, not all at once. When `done` raises, no other
    task is begun; once those that are have ended, the first such error is raised.
    """
    waiting, running, failure = iter(indices), {}, None
    name, ended, asked, room = f"partition-{uuid.uuid4().hex[:8]}", as_completed(loop=client.loop), 0.0, 0
    while True:
        if time.monotonic() - asked > _REFRESH_SECONDS:
            asked, room = time.monotonic(), 2 * max(TASKS_PER_WORKER, sum(client.nthreads().values()))
        for index in waiting if failure is None else ():
            future = client.submit(task, index, key=f"{name}-{index}")
            running[future] = index
            ended.add(future)
            if len(running) >= room:
                break
        if not running:
            break
        future = next(ended)
        try:
            done(running.pop(future), future)
        except Exception as error:
            failure = failure or error
    if failure is not None:
        raise failure


def _run_partitions(
    client: Client, task: Callable[[int], Usage], indices: list[int], done: Callable[[int, Future], None]
) -> None:
    """Runs the tasks; those whose workers died again and again are run alone: one of them may be at fault."""
    missing = dict.fromkeys(indices)
    while missing:
        suspects: list[int] = []

        def unless_killed(index: int, future: Future, suspects: list[int] = suspects) -> None:
            if future.status == "error" and isinstance(future.exception(), KilledWorker):
                suspects.append(index)
                raise _StopAndLook
            done(index, future)
            missing.pop(index)

        with suppress(_StopAndLook):
            run_tasks(client, task, list(missing), unless_killed)
        for index in suspects:
            run_tasks(client, task, [index], done)
            missing.pop(index)


class _StopAndLook(Exception):
    """A partition's workers died again and again, while they were at others, too."""


def _collector(job: Job, layout: Layout, usage: Usage, progress: Progress | None) -> Callable[[int, Future], None]:
    """Returns what takes the results of partitions."""

    def done(index: int, future: Future) -> None:
        place = f"{job.out}: {layout.place(index)}"
        try:
            usage.add(future.result())
        except (TkdError, CacheError) as error:
            raise TkdError(f"{place}: {error}") from error
        except KilledWorker as error:
            raise TkdError(
                f"{place}: every worker that began it died, the last one {error.last_worker.address}. If they had too "
                "little memory, give fewer --workers or a smaller --batch-size or --partition-size; run the same again."
            ) from error
        except CancelledError as error:
            raise TkdError(f"{place}: the scheduler is gone. Run the same again: it writes what is missing.") from error
        rows = layout.partition_rows(index)
        if progress is not None:
            progress.advance(rows.stop - rows.start)

    return done


def _build(job: Job, index: int) -> Usage:
    """The task."""
    worker = get_worker()
    with _PREPARING:
        try:
            plan = _plan(job)
        except TkdError as error:
            raise TkdError(f"worker {worker.name} on {socket.gethostname()}: {error}") from error
    torch.set_num_threads(job.threads or _THREADS)
    if torch.accelerator.is_available() and isinstance(worker.name, int):
        torch.accelerator.set_device_index(worker.name % torch.accelerator.device_count())
    return build_partitions(plan, Path(job.out), (index,), wait_seconds=LOST_SECONDS)


@functools.lru_cache(maxsize=1)
def _plan(job: Job) -> Plan:
    """Returns this process's plan: the teacher is loaded once."""
    if begun(job.out) is None and not Path(job.out).exists():
        raise TkdError(f"{job.out}: not there. Workers must see data, teacher and cache under the same paths.")
    try:
        return plan_build(read_manifest(job.data), job.teacher, job.config)
    except TkdError as error:
        raise TkdError(f"{error} (Workers must see data, teacher and cache under the same paths.)") from error
