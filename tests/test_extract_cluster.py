"""Stage one on workers of dask.distributed: real processes, killed, and the cache of one process byte for byte."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from distributed import Client, LocalCluster
from test_extract_build import LABELS, files_of, recorded
from test_extract_interruption import whole_partitions, written
from test_teacher_model import tiny_folder
from test_teacher_training import command

from cache_schema import pending_partitions
from pipeline.bench.scheduler import no_work
from pipeline.data.manifest import Manifest, write_manifest
from pipeline.errors import TkdError
from pipeline.extract.build import build_cache
from pipeline.extract.cluster import Job, _plan, run_tasks
from pipeline.extract.config import BuildConfig, Share
from pipeline.extract.plan import plan_build

SIZE, N_PARTITIONS = 8, 24
CONFIG = BuildConfig(partition_size=SIZE)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Manifest:
    return recorded(tmp_path_factory.mktemp("cluster") / "data", [4000 + 7 * i for i in range(SIZE * N_PARTITIONS)])


@pytest.fixture(scope="module")
def teacher(data) -> str:
    return str(tiny_folder(data.root.parent / "t", LABELS))


@pytest.fixture(scope="module")
def whole(data, teacher):
    """The cache built in this process."""
    out = data.root.parent / "whole.zarr"
    build_cache(data, teacher, out, CONFIG)
    return out


@pytest.fixture(scope="module")
def scheduler():
    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None, silence_logs=50) as cluster:
        yield cluster.scheduler_address


def arguments(data, teacher, out, *more) -> list[str]:
    given = ("cache", "build", "--data", data.root, "--teacher", teacher, "--partition-size", SIZE, "--out", out, *more)
    return [str(argument) for argument in given]


def started(*given) -> subprocess.Popen:
    program = [sys.executable, "-m", "pipeline.cli.main", *given]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def writers(out, process: subprocess.Popen, n_more: int) -> set[int]:
    """Waits until `n_more` more partitions are whole; returns the processes that held partitions meanwhile."""
    before, found = len(whole_partitions(out)), set()
    while len(whole_partitions(out)) < before + n_more:
        assert process.poll() is None, process.stderr.read()
        for lock in out.with_name(f"{out.name}.partial").glob("partitions/0*.lock"):
            found |= {int(pid) for pid in re.findall(r"^pid (\d+) on", lock.read_text())}
        time.sleep(0.002)
    return found


def gone(pids: set[int]) -> bool:
    """Whether the processes end within seconds."""
    for _ in range(100):
        with suppress(ProcessLookupError):
            for pid in pids:
                os.kill(pid, 0)
            time.sleep(0.1)
            continue
        pids = {pid for pid in pids if os.path.exists(f"/proc/{pid}")}
        if not pids:
            return True
    return False


def test_after_ctrl_c_and_the_loss_of_a_worker_the_cache_is_that_of_one_process(data, teacher, whole, tmp_path):
    out = tmp_path / "c.zarr"
    with started(*arguments(data, teacher, out, "--workers", 1)) as process:
        workers = writers(out, process, 2)
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends Ctrl-C to every process in its foreground
        _, error = process.communicate()
    assert process.returncode == 1 and error.endswith("Aborted!\n") and "Traceback" not in error, error
    assert workers and process.pid not in workers and gone(workers)
    kept = whole_partitions(out)
    assert 2 <= len(kept) < N_PARTITIONS and not out.exists()
    with started(*arguments(data, teacher, out, "--workers", 2)) as process:
        workers = writers(out, process, 2)
        os.kill(max(workers), signal.SIGKILL)
        output, error = process.communicate()
    assert process.returncode == 0, error
    assert f"{out}: complete, cache_id " in output and "dashboard at http://127.0.0.1:" in error
    assert f"{N_PARTITIONS * SIZE} of {N_PARTITIONS * SIZE} clips" in error
    assert [index for index, times in kept.items() if written(out, index) != times] == [], "partitions were redone"
    assert files_of(out) == files_of(whole)


def test_a_scheduler_that_is_there_is_used_and_a_clip_that_cannot_be_read_is_named(
    data, teacher, whole, tmp_path, scheduler
):
    out, bad = tmp_path / "c.zarr", data.root / "bad.flac"
    sound = (data.root / "noise.flac").read_bytes()
    bad.write_bytes(sound)
    moved = {100: dataclasses.replace(data.clips[100], noise_file="bad.flac")}
    clips = [moved.get(row, clip) for row, clip in enumerate(data.clips)]
    other = tmp_path / "data"
    other.mkdir()
    write_manifest(other, dataclasses.replace(data.info, audio_root=str(data.root)), clips)
    other = dataclasses.replace(data, root=other)
    bad.write_bytes(sound[: len(sound) // 2])
    result = command(*arguments(other, teacher, out, "--scheduler", scheduler))
    place = re.escape(f"{out}: partition 12 (clips 96 to 103): {bad}: ")
    assert result.exit_code == 1 and re.search(f"^Error: {place}.*Replace or remove it", result.stderr, re.MULTILINE)
    assert "Traceback" not in result.stderr
    assert 12 in pending_partitions(out)
    bad.write_bytes(sound)
    result = command(*arguments(other, teacher, out, "--scheduler", scheduler))
    assert result.exit_code == 0, result.stderr
    shares = tmp_path / "shares.zarr"
    for index in range(2):
        command(*arguments(data, teacher, shares, "--scheduler", scheduler, "--partition", f"{index}/2"))
    assert files_of(shares) == files_of(whole)
    for shard in ("0", "23"):
        assert (out / "rollout/c" / shard / "0").read_bytes() == (whole / "rollout/c" / shard / "0").read_bytes()


def test_after_a_failure_what_was_begun_ends_and_nothing_else_begins(scheduler):
    ended = []

    def done(index, future):
        ended.append(future.result())
        if index == 5:
            raise TkdError("the fifth")

    with Client(scheduler, set_as_default=False) as client:
        with pytest.raises(TkdError, match="the fifth"):
            run_tasks(client, no_work, range(1000), done)
        assert 5 in ended and len(ended) < 20
        run_tasks(client, no_work, range(1000), lambda index, future: ended.append(future.result()))
    assert sorted(ended[-1000:]) == list(range(1000))


def test_a_worker_that_does_not_see_the_files_says_so(data, teacher, tmp_path):
    plan = plan_build(data, teacher, CONFIG)
    with pytest.raises(TkdError, match=r"nosuch.zarr: not there. Workers must see data, teacher and cache under the"):
        _plan(Job.of(plan, teacher, tmp_path / "nosuch.zarr"))
    build_cache(data, teacher, tmp_path / "c.zarr", CONFIG, share=Share(0, N_PARTITIONS))
    job = dataclasses.replace(Job.of(plan, teacher, tmp_path / "c.zarr"), data=str(tmp_path / "nosuch"))
    with pytest.raises(TkdError, match=r"nosuch: no such dataset folder.*Workers must see"):
        _plan(job)


@pytest.mark.parametrize(
    ("more", "code", "expected"),
    [
        (("--workers", "2", "--scheduler", "tcp://127.0.0.1:1"), 2, "workers of this machine or a scheduler"),
        (("--workers", "-1"), 2, "-1 is not in the range"),
        (("--scheduler", "nowhere"), 1, "nowhere: no scheduler answers"),
        (("--scheduler", ""), 1, "no scheduler answers"),  # a variable of the shell that is not set
        (("--scheduler", "http://localhost:80"), 1, "http://localhost:80: no scheduler answers"),
        (("--batch-size", "nan"), 2, "expected more than 0 seconds"),
    ],
)
def test_what_cannot_be_is_one_line(data, teacher, tmp_path, more, code, expected):
    result = command(*arguments(data, teacher, tmp_path / "c.zarr", *more))
    assert result.exit_code == code and expected in " ".join(result.stderr.split()), result.stderr
