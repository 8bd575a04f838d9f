"""What a partition costs beside its work: `python -m pipeline.bench.scheduler` prints it.

No-op partitions go through the code that hands real ones to the workers; and a begun cache of as many partitions, all
but one of them recorded as written, is asked what a worker asks for each.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from cache_schema import Layout, create_cache, pending_partitions
from pipeline.bench.compare import peak_memory
from pipeline.extract.cluster import TASKS_PER_WORKER, run_tasks
from pipeline.extract.features import LogMelConfig
from pipeline.extract.partitions import claim
from pipeline.extract.plan import Outline
from pipeline.workers import connected


def no_work(index: int) -> int:
    """A partition without work."""
    return index


def begun_cache(out: Path, n_partitions: int) -> Outline:
    """Begins a cache of one clip a partition, and records all partitions but the last as written."""
    layout = Layout(n_partitions, 99, 99, 40, 12, 24, 16, "single_label", partition_size=1)
    rows = {
        "clip_id": np.array([f"{i:08d}" for i in range(n_partitions)], np.dtypes.StringDType()),
        "split": np.zeros(n_partitions, np.uint8),
        "label": np.zeros(n_partitions, np.int32),
        "n_frames": np.full(n_partitions, 99, np.int32),
        "n_feature_frames": np.full(n_partitions, 99, np.int32),
        "event_start": np.full(n_partitions, -1),
        "event_stop": np.full(n_partitions, -1),
        "view": np.zeros(n_partitions, np.uint8),
    }
    clock = {"hop_length": 320, "frame_offset": 199.5, "sample_rate": 16000}
    labels = [f"label {i}" for i in range(12)]
    metadata = {
        "teacher": {"name": "none", "sha256": "0" * 64, "n_layers": 24, "n_heads": 16, "score": {}, **clock},
        "dataset": {
            "name": "none",
            "manifest_sha256": "0" * 64,
            "task": "single_label",
            "labels": labels,
            "licence": "none",
            "recipe": {},
        },
        "features": LogMelConfig().metadata(),
        "pooling": {},
        "software": {},
    }
    folder = create_cache(out, layout, rows, metadata)
    for index in range(n_partitions - 1):
        (folder / "partitions" / f"{index:05d}.json").touch()
    return Outline(layout, rows, metadata)


def milliseconds(call: Callable[[], object], times: int) -> float:
    """Returns what a call takes on average."""
    started = time.perf_counter()
    for _ in range(times):
        call()
    return 1e3 * (time.perf_counter() - started) / times


@click.command()
@click.option("--partitions", "n_partitions", type=click.IntRange(min=1), default=100_000, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True)
def main(n_partitions: int, workers: int) -> None:
    """Prints milliseconds a partition: of the scheduler, and of the cache's own records."""
    with connected(workers, None, TASKS_PER_WORKER) as client:
        run_tasks(client, no_work, range(100), lambda index, future: future.result())  # the workers' imports
        started = time.perf_counter()
        run_tasks(client, no_work, range(n_partitions), lambda index, future: future.result())
        seconds = time.perf_counter() - started
    print(
        f"{n_partitions} tasks without work on {workers} workers, {os.cpu_count()} cores: {seconds:.0f} s, "
        f"{1e3 * seconds / n_partitions:.2f} ms each; scheduler and client took {peak_memory() / 1e6:.0f} MB at most"
    )
    with tempfile.TemporaryDirectory() as folder:
        for n in (n_partitions // 100, n_partitions // 10, n_partitions):
            if n == 0:
                continue
            out = Path(folder) / f"{n}.zarr"
            started = time.perf_counter()
            outline = begun_cache(out, n)
            begin = time.perf_counter() - started

            def claimed(out: Path = out, outline: Outline = outline, last: int = n - 1) -> None:
                with claim(out, outline, last):
                    pass

            print(
                f"a cache of {n} partitions: begun and recorded in {begin:.1f} s; a list of those missing takes "
                f"{milliseconds(lambda out=out: pending_partitions(out), 3):.1f} ms, a claim "
                f"{milliseconds(claimed, 3):.1f} ms"
            )


if __name__ == "__main__":
    main()
