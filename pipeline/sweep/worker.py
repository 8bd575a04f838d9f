"""One cell of a sweep, in a process that trains one at a time: what it reads, and what it answers."""

import atexit
import functools
import sys
import threading
import traceback
from contextlib import ExitStack, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cache_schema import Cache, CacheError, open_cache
from pipeline.allocation import keep_freed_memory
from pipeline.distill.config import TrainConfig
from pipeline.distill.data.decoded import decoded_once
from pipeline.distill.data.memory import default_memory
from pipeline.distill.train import train
from pipeline.errors import TkdError
from pipeline.lock import Busy, in_turn

_ONE_AT_A_TIME = threading.Lock()
_SAME_PATHS = " (Workers must see cache and runs under the same paths.)"


@dataclass(frozen=True)
class Job:
    """What all cells have in common."""

    cache: str  # path or URL, as the workers see it, too
    cache_id: str  # a worker that has outlived another cache of that name does not take this one for it
    frame_weights: tuple[str, ...]  # of all cells
    decoded: Path | None  # see `decoded_once`; on workers of other machines each of these has its own
    elsewhere: bool  # the workers are a scheduler's
    memory: int | None  # bytes the cache may take in a worker, elsewhere: on a machine; None: half of what is available
    threads: int | None  # for torch; None: as the worker was started


def train_cell(job: Job, config: TrainConfig, out: Path, n_beside: int = 1) -> tuple[dict[str, Any] | None, str | None]:
    """Trains a cell and returns its metrics, or None and why it failed; what it says goes to the file `out`.log.

    Args:
        job: What all cells have in common.
        config: The cell.
        out: Its run.
        n_beside: Workers of one machine, which share its memory; with those of this process the job has shared already.
    """
    log = out.with_name(f"{out.name}.log")
    with _ONE_AT_A_TIME, ExitStack() as held:
        try:
            held.enter_context(redirect_stderr(held.enter_context(log.open("a", 1, encoding="utf-8"))))
        except OSError as error:
            return None, f"{log}: cannot be written ({error.strerror}).{_SAME_PATHS if job.elsewhere else ''}"
        use_threads(job.threads)
        with suppress(ImportError, ValueError):
            _use_device()
        try:
            cache, decoded = _opened(job)
            memory = job.memory
            if job.elsewhere and decoded is None:
                memory = (memory or default_memory()) // n_beside
            return train_when_free(cache, config, out, memory, decoded), None
        except Exception as error:
            return None, reason(error, f" (more in {log})")


def train_when_free(
    cache: Cache, config: TrainConfig, out: Path, memory: int | None, decoded: Path | None
) -> dict[str, Any]:
    """Trains or goes on with a run and returns its metrics; waits for another process that is at the same run."""
    keep_freed_memory()
    while True:
        try:
            return train(cache, config, out, resume=True, memory=memory, decoded=decoded)
        except Busy:
            with in_turn(out):
                pass  # then it is done, or was interrupted


def reason(error: Exception, where: str = "") -> str:
    """Returns why a cell failed in one line; of what was not foreseen the traceback is written to standard error."""
    if isinstance(error, TkdError | CacheError):
        return str(error)
    traceback.print_exception(error, file=sys.stderr)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}{': ' if lines else ''}{lines[0] if lines else ''}{where}"


def use_threads(threads: int | None) -> None:
    """Lets torch use so many threads in this one's operations."""
    if threads is not None:
        torch.set_num_threads(threads)
        with suppress(RuntimeError):  # later than at the first operation it cannot be set
            torch.set_num_interop_threads(threads)


def _use_device() -> None:
    """Takes one of the machine's GPUs, by the number of the worker among those that were started with it."""
    from distributed import get_worker

    name = get_worker().name
    if torch.accelerator.is_available() and isinstance(name, int):
        torch.accelerator.set_device_index(name % torch.accelerator.device_count())


@functools.lru_cache(maxsize=1)
def _opened(job: Job) -> tuple[Cache, Path | None]:
    """Returns the cache, and the folder where it is decoded; once for all cells of a job."""
    try:
        cache = open_cache(job.cache)
    except CacheError as error:
        if not job.elsewhere:
            raise
        raise TkdError(f"{error}{_SAME_PATHS}") from error
    if cache.metadata["cache_id"] != job.cache_id:
        raise TkdError(f"{job.cache}: became another cache since the sweep began. Begin it again with another --out.")
    if not job.elsewhere:
        return cache, job.decoded
    _LEAVING.close()
    return cache, _LEAVING.enter_context(decoded_once(cache, job.frame_weights, job.memory))


_LEAVING = ExitStack()  # holds what this process shares with others of its machine, for as long as it lives
atexit.register(_LEAVING.close)
