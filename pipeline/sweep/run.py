"""A sweep, top to bottom: every cell of the grid trained once, as many at a time as there are workers."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from cache_schema import Cache
from pipeline.distill.config import TrainConfig
from pipeline.distill.data.decoded import decoded_once
from pipeline.distill.data.memory import default_memory
from pipeline.errors import TkdError
from pipeline.lock import only_one
from pipeline.progress import say
from pipeline.sweep.cells import Cell, Cells
from pipeline.sweep.config import Workers
from pipeline.sweep.overview import Overview
from pipeline.sweep.worker import Job, reason, train_cell, train_when_free, use_threads

_REFRESH_SECONDS = 1.0


def sweep(
    cache: Cache, configs: Sequence[TrainConfig], out: Path, workers: Workers, memory: int | None = None
) -> list[Cell]:
    """Trains what is not complete yet of the given runs in the folder `out`, and returns the cells, done or failed.

    A cell that fails is noted, and the others are trained. Interrupted anywhere, the same call goes on from there.

    Args:
        cache: A finished cache; its splits are decoded once, for all workers of a machine.
        configs: The settings of each cell, in their order.
        out: Each run is a folder in it.
        workers: Who trains.
        memory: Bytes the decoded cache may take on a machine; None for half of what is available.

    Raises:
        TkdError: something else is where a run is to be, another sweep is at `out`, the cache cannot be trained on, or
            there is no such scheduler.
        CacheError: the cache is damaged.
    """
    out = out.resolve()
    if out.exists() and not out.is_dir():
        raise TkdError(f"{out}: a file, expected a folder. Give another --out.")
    with only_one(out):
        out.mkdir(exist_ok=True)
        cells = Cells.of(configs, out, cache)
        n_waiting = len(cells.by_state("waiting"))
        if not n_waiting:
            return cells.all
        n_workers = _n_workers(workers, n_waiting)
        taught = tuple(dict.fromkeys(cell.config.frame_weights for cell in cells.by_state("waiting")))
        location, cache_id = cache.location, cache.metadata["cache_id"]
        if workers.scheduler is not None:
            job = Job(location, cache_id, taught, None, True, memory, workers.threads)
            _on_workers(cells, job, workers.scheduler, n_workers)
            return cells.all
        with decoded_once(cache, taught, memory) as decoded:
            share = None if decoded else (memory or default_memory()) // max(1, n_workers)
            if n_workers == 0:
                _here(cells, cache, share, decoded, workers.threads)
            else:
                threads = workers.threads or max(1, torch.get_num_threads() // n_workers)
                job = Job(location, cache_id, taught, decoded, False, share, threads)
                _on_workers(cells, job, None, n_workers)
        return cells.all


def _n_workers(workers: Workers, n_cells: int) -> int:
    """Returns how many processes of this machine are worth starting."""
    if workers.workers is not None:
        return min(workers.workers, n_cells)
    if torch.accelerator.is_available():
        return min(torch.accelerator.device_count(), n_cells)
    return min(torch.get_num_threads(), n_cells)


def _here(cells: Cells, cache: Cache, memory: int | None, decoded: Path | None, threads: int | None) -> None:
    """Trains one cell after the other in this process."""
    use_threads(threads)
    with Overview(cells, live=False) as overview:
        while (cell := cells.next()) is not None:
            cell.begin()
            try:
                cell.end(train_when_free(cache, cell.config, cell.path, memory, decoded), None)
            except Exception as error:
                cell.end(None, reason(error))
            overview.ended(cell)


def _on_workers(cells: Cells, job: Job, scheduler: str | None, n_workers: int) -> None:
    """Trains cells on workers, one on each at a time."""
    from distributed import CancelledError  # dask is imported where it is asked for
    from distributed.comm import CommClosedError

    from pipeline.workers import connected

    with connected(n_workers, scheduler, 1, job.threads) as client, client.as_current():  # wait() knows no other one
        say(f"{client.scheduler.address}: dashboard at {client.dashboard_link}")
        if not client.nthreads():
            say(f"{client.scheduler.address}: has no workers yet; waiting for them")
        try:
            with Overview(cells) as overview:
                _hand_out(cells, job, client, overview)
        except (CancelledError, CommClosedError) as error:
            raise TkdError(
                f"{client.scheduler.address}: the scheduler is gone. Run the same again: it goes on from there."
            ) from error


def _hand_out(cells: Cells, job: Job, client, overview: Overview) -> None:
    from distributed import Future, wait

    running: dict[Future, Cell] = {}
    while True:
        overview.n_workers = len(client.nthreads())
        while len(running) < overview.n_workers and (cell := cells.next()) is not None:
            cell.begin()
            # Pure, the same cell of an earlier sweep, with the failure it had, would be found again.
            beside = max(Counter(address.rpartition(":")[0] for address in client.nthreads()).values(), default=1)
            running[client.submit(train_cell, job, cell.config, cell.path, beside, pure=False)] = cell
        if running:
            with suppress(TimeoutError):
                wait(list(running), timeout=_REFRESH_SECONDS, return_when="FIRST_COMPLETED")
        elif cells.by_state("waiting"):
            time.sleep(_REFRESH_SECONDS)  # no worker
        else:
            return
        for future in [future for future in running if future.done()]:
            cell = running.pop(future)
            cell.end(*_answer(future))
            overview.ended(cell)
        overview.refresh()


def _answer(future) -> tuple[dict | None, str | None]:
    """Returns what a worker answered, or what became of those that should have."""
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        return None, (
            f"every worker that began it died, the last one {error.last_worker.address}. If they had too little "
            "memory, give fewer --workers; run the same again: it goes on from the last whole epoch."
        )
