"""Whatever stops stage one, really and at any moment, running it again makes the same cache and redoes no partition."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_extract_build import LABELS, files_of, recorded
from test_teacher_model import tiny_folder
from waiting import until

import pipeline.extract.attach  # noqa: F401 - before the forks, which are to be quick
from cache_schema import validate_cache
from pipeline.cli.main import tkd

N_PARTITIONS, SIZE = 8, 8
ARRAYS = ("rollout", "head_weights", "logits", "features", "audio_sha256")  # written with their partition


def started(log: Path, *arguments) -> int:
    """Runs `tkd` in a forked process and returns its pid."""
    if pid := os.fork():
        return pid
    code = 70
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        tkd([str(argument) for argument in arguments], prog_name="tkd")
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        os._exit(code)


def ended(pid: int, kill_after: float | None = None) -> int:
    """Waits for a process, kills it if it runs for longer, and returns its exit code, -9 if it was killed."""
    deadline = time.monotonic() + (600 if kill_after is None else kill_after)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            deadline += 600
        time.sleep(0.001)


def written(folder: Path, index: int) -> dict[str, int]:
    """When each file of a partition was written."""
    shards = [shard for name in ARRAYS for shard in folder.glob(f"{name}/c/{index}")]
    files = [file for shard in shards for file in (shard, *shard.rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in files}


def whole_partitions(out: Path) -> dict[int, dict[str, int]]:
    folder = Path(f"{out}.partial")
    return {int(file.stem): written(folder, int(file.stem)) for file in folder.glob("partitions/*.json")}


def under_fire(root: Path, seed: int, n_trials: int, n_jobs: int, *arguments) -> None:
    """Kills `tkd` at random moments, runs it again until it is done, and prints what was seen of every trial."""
    torch.set_num_threads(1)
    rng, log = random.Random(seed), root / "log"
    shares = [("--partition", f"{job}/{n_jobs}") if n_jobs > 1 else () for job in range(n_jobs)]
    begun = time.monotonic()
    assert ended(started(log, *arguments, "--out", root / "whole.zarr")) == 0, log.read_text()
    seconds = time.monotonic() - begun
    for trial in range(n_trials):
        out, codes, looked = root / f"{trial}.zarr", [], []
        kept: dict[int, dict[str, int]] = {}
        for _ in range(2):
            jobs = [started(log, *arguments, "--out", out, *share) for share in shares]
            codes += [ended(pid, rng.uniform(0, seconds)) for pid in jobs]
            if out.exists():
                looked += validate_cache(out)
            kept |= whole_partitions(out)
        codes += [ended(started(log, *arguments, "--out", out, *share)) for share in shares]
        redone = [index for index, times in kept.items() if written(out, index) != times]
        print(json.dumps({"trial": trial, "codes": codes, "kept": len(kept), "redone": redone, "faults": len(looked)}))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    tiny_folder(root / "t", LABELS)
    return recorded(root / "data", [2400] * (N_PARTITIONS * SIZE)).root, root / "t"


def build_arguments(sources):
    data, teacher = sources
    return ("cache", "build", "--data", data, "--teacher", teacher, "--partition-size", SIZE)


@pytest.mark.parametrize(("kind", "n_trials", "n_jobs"), [("build", 4, 1), ("shares", 3, 2), ("attach", 2, 1)])
def test_killed_at_any_moment_it_goes_on_and_ends_with_the_same_bytes(sources, tmp_path, kind, n_trials, n_jobs):
    arguments = build_arguments(sources)
    if kind == "attach":
        detached = tmp_path / "detached"
        detached.mkdir()
        tkd([*map(str, arguments), "--no-features", "--out", str(detached / "d.zarr")], standalone_mode=False)
        arguments = ("cache", "attach", detached / "d.zarr", "--data", sources[0])
    given = ", ".join(repr(str(argument)) for argument in arguments)
    code = "import pathlib, test_extract_interruption as t; "
    code += f"t.under_fire(pathlib.Path({str(tmp_path)!r}), 5, {n_trials}, {n_jobs}, {given})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(reports) == n_trials
    assert any(-9 in report["codes"] for report in reports), "none was killed"
    for report in reports:
        assert report["redone"] == [] and report["faults"] == 0, report
        assert set(report["codes"]) <= {0, -9} and -9 not in report["codes"][-n_jobs:], (tmp_path / "log").read_text()
        assert files_of(tmp_path / f"{report['trial']}.zarr") == files_of(tmp_path / "whole.zarr"), report
    assert not [entry.name for entry in tmp_path.glob("[!.]*") if entry.suffix not in (".zarr", "")]


def test_ctrl_c_is_one_word_and_exit_code_1_and_loses_nothing(sources, tmp_path):
    out = tmp_path / "c.zarr"
    command = [sys.executable, "-m", "pipeline.cli.main", *map(str, build_arguments(sources)), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: whole_partitions(out), process)
    process.send_signal(signal.SIGINT)
    output, error = process.communicate()
    assert (process.returncode, output) == (1, "")
    assert error.endswith("\nAborted!\n") and "Traceback" not in error
    kept = whole_partitions(out)
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0 and validate_cache(out) == []
    assert all(written(out, index) == times for index, times in kept.items())


def test_a_full_disk_is_one_line_and_with_room_it_goes_on(sources, tmp_path):
    """On a file system of 200 kB, grown after it was full, in a mount namespace that ends with the process."""
    script = 'mount -t tmpfs -o size=200k tmpfs "$0" && cd "$0" && "$@"; echo "first: $?"; ls; '
    script += 'mount -o remount,size=64m "$0" && "$@"; echo "then: $?"'
    mounted = ["unshare", "-Urm", "sh", "-c", script, str(tmp_path)]
    if "first: 0" not in subprocess.run([*mounted, "true"], capture_output=True, text=True).stdout:
        pytest.skip("no mount namespaces here")
    command = [sys.executable, "-m", "pipeline.cli.main", *map(str, build_arguments(sources)), "--out", "c.zarr"]
    done = subprocess.run([*mounted, *command], capture_output=True, text=True)
    assert "first: 1\nc.zarr.partial\n" in done.stdout, done.stdout
    assert "Error: The disk is full" in done.stderr and "Traceback" not in done.stderr
    assert "c.zarr: complete, cache_id " in done.stdout and done.stdout.endswith("then: 0\n"), done.stderr
