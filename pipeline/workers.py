"""Processes of dask.distributed: this machine's, which end with the work, or those of a scheduler."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import dask
from distributed import Client, LocalCluster, WorkerPlugin
from distributed.comm import get_address_host_port

from pipeline.errors import TkdError


@contextmanager
def connected(workers: int, scheduler: str | None, n_tasks: int, n_threads: int | None = None) -> Iterator[Client]:
    """A client of the workers, which end with the block if they are this machine's.

    Args:
        workers: Processes of this machine to start, if there is no scheduler.
        scheduler: Its address, as in tcp://node1:8786.
        n_tasks: How many each of this machine's has at a time.
        n_threads: Of each of this machine's, for torch; None: as many as dask gives, one.

    Raises:
        TkdError: there is no such scheduler.
    """
    if scheduler is not None:
        try:
            get_address_host_port(scheduler)  # a Client of what is no address takes a minute to be deleted
            client = Client(scheduler, set_as_default=False)
        except (OSError, ValueError) as error:
            raise TkdError(
                f"{scheduler}: no scheduler answers ({error}). Give the address that dask scheduler says it "
                "listens at, as in tcp://node1:8786."
            ) from error
        with client:
            yield client
        return
    settings = {
        "distributed.scheduler.allowed-failures": 3,
        "distributed.comm.timeouts.connect": "60s",
        # See `keep_freed_memory`. Dask would have each freed tensor returned to the system, and glibc returns what a
        # thread other than the first has freed, unless there is but one arena.
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
        "distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX": 1,
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=n_tasks,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,  # dask would pause or kill a worker, and has nothing that it could move elsewhere
            silence_logs=logging.CRITICAL,  # what fails arrives with its task; the rest is noise of closing
            env=None if n_threads is None else {"OMP_NUM_THREADS": n_threads},  # torch reads it when it is imported
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(_LeavesInterrupts())
        yield client


class _LeavesInterrupts(WorkerPlugin):
    """Ctrl-C reaches every process of a terminal: it is the coordinator's, which then ends the workers."""

    def setup(self, worker) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
