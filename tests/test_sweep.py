"""Sweeps: real processes, killed; each cell the run that it is alone, and one copy of the cache for all of them."""

import errno
import fcntl
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields, replace
from pathlib import Path

import cache_builder
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import planted_cache
from test_distill_data import assert_equal
from test_teacher_training import command
from test_training import equal_weights
from waiting import until

from cache_schema import CacheError, open_cache
from pipeline.distill.config import TrainConfig
from pipeline.distill.data import decoded, load_splits
from pipeline.distill.data.decoded import decoded_once
from pipeline.distill.naming import run_name
from pipeline.distill.run import is_complete
from pipeline.distill.train import train
from pipeline.errors import TkdError
from pipeline.sweep.cells import Cell, Cells
from pipeline.sweep.config import SweepConfig, Workers
from pipeline.sweep.overview import Overview
from pipeline.sweep.run import sweep
from pipeline.sweep.summary import summary
from pipeline.sweep.worker import Job, train_cell

COMMON = TrainConfig(epochs=8, batch_size=16)


def started(cache: Path, out: Path, *more: object) -> subprocess.Popen:
    given = ("sweep", "--cache", cache, "--students", "tc_resnet8", "--seeds", 2, "--kd-weights", "0,0.25", *more)
    given = (*given, "--epochs", COMMON.epochs, "--batch-size", COMMON.batch_size, "--threads", 1, "--out", out)
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli.main", *map(str, given)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def epochs(run: Path) -> int:
    """How many a run has finished."""
    with suppress(OSError, ValueError):
        return len(json.loads((run / "history.json").read_text()))
    return 0


@contextmanager
def killed_in_the_end(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def trainer(run: Path) -> int:
    """The process that is at a run."""
    return int(re.match(r"pid (\d+) on", run.with_name(f".{run.name}.lock").read_text())[1])


def test_after_the_death_of_a_worker_and_of_the_sweep_each_cell_has_the_bits_it_has_alone(tiny_cache, tmp_path):
    cache, out = open_cache(tiny_cache), tmp_path / "runs"
    grid = SweepConfig(kd_weights=(0.0, 0.25), seeds=(0, 1))
    runs = {config: out / run_name(config) for config in grid.cells(["tc_resnet8"], COMMON)}
    with decoded_once(cache, ["rollout"]) as folder:
        assert (folder / "train-features.npy").stat().st_size > 48 * 40 * 99 * 2
    one, other = list(runs.values())[:2]
    with killed_in_the_end(started(tiny_cache, out, "--workers", 1)) as process:
        until(lambda: epochs(one) >= 2, process)
        assert folder.is_dir()
        os.kill(trainer(one), signal.SIGKILL)
        refused = command("sweep", "--cache", str(tiny_cache), "--out", str(out))
        assert refused.exit_code == 1 and f"{out}: being written by pid {process.pid} " in refused.stderr
        until(lambda: epochs(other) >= 2, process)
        worker = trainer(other)
    assert worker != process.pid and gone(worker)
    complete = {run: (run / "metrics.json").stat().st_mtime_ns for run in runs.values() if is_complete(run)}
    assert one in complete and len(complete) < len(runs)

    output, error = started(tiny_cache, out, "--workers", 1).communicate()
    assert "4 of 4 done" in error and f"4 cells, {len(complete)} of them done already" in error, error
    assert re.search(r"^\| tc_resnet8 +\| 0\.\d{4} ± 0\.\d{4} +\| 0\.\d{4} ± 0\.\d{4} +\|$", output, re.MULTILINE)
    assert not folder.exists()
    for run in (one, other):  # whose trainers were killed
        log = run.with_name(f"{run.name}.log").read_text()
        assert log.count("epoch 1 of 8") == log.count("epoch 8 of 8") == 1, log
    assert all((run / "metrics.json").stat().st_mtime_ns == when for run, when in complete.items()), "trained again"
    for config, run in runs.items():
        train(cache, config, tmp_path / "alone" / run.name)
        assert equal_weights(tmp_path / "alone" / run.name, run), run.name


def gone(pid: int) -> bool:
    """Whether a process ends within seconds."""
    for _ in range(100):
        with suppress(FileNotFoundError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.1)
                continue
        return True
    return False


def test_a_cell_that_fails_is_reported_and_the_others_are_trained(tmp_path):
    """Features of 20 bands, which the MFCC of TC-ResNet have no use for."""
    cache, out = small_cache(tmp_path, n_features=20), tmp_path / "runs"
    given = ["sweep", "--cache", cache, "--students", "tc_resnet,lstm_p", "--kd-weights", "0,0.5", "--seeds", "1"]
    given += ["--frame-weights", "rollout,uniform", "--epochs", 1, "--augment", "none", "--workers", 0, "--out", out]
    for trained in (True, False):
        result = command(*given)
        assert result.exit_code == 1 and "Traceback" not in result.stderr
        assert "Error: 3 of 6 cells failed; run the same again to try them again." in result.stderr
        reason = f"{cache}: its features do not suit tc_resnet: "
        for shown in ("kd0", "kd0.5", "kd0.5-uniform"):
            name = f"{shown}-epochs1-noaugment-seed0"
            assert f"{out / 'tc_resnet'}-{name}: {reason}" in result.stderr
            assert is_complete(out / f"lstm_p-{name}")
        assert re.search(
            r"^\| tc_resnet +\| +\| +\| +\|\n\| lstm_p +(\| 0\.\d{4} +){3}\|$", result.stdout, re.MULTILINE
        )
        assert ("training lstm_p-kd0-epochs1-noaugment-seed0" in result.stderr) == trained
    assert len([run for run in out.iterdir() if run.is_dir()]) == 3


def test_a_worker_that_cannot_write_beside_the_runs_says_so_and_goes_on(tmp_path):
    job = Job("cache.zarr", "0" * 64, ("rollout",), None, True, None, None)
    metrics, failure = train_cell(job, COMMON, tmp_path / "not there" / "run")
    assert metrics is None
    assert failure.endswith(
        "cannot be written (No such file or directory). " + "(Workers must see cache and runs under the same paths.)"
    )


def test_a_damaged_cell_is_named_with_the_way_out_that_a_sweep_has(tmp_path):
    cache = planted_cache(tmp_path / "c.zarr")
    config = replace(COMMON, student="tc_resnet8", epochs=1, augment=())
    (done,) = sweep(cache, [config], tmp_path / "runs", Workers(0))
    (done.path / "metrics.json").write_text("{")
    (damaged,) = sweep(cache, [config], tmp_path / "runs", Workers(0))
    assert re.fullmatch(r"damaged run .* In a sweep: remove it, and run the same again\.", damaged.failure)
    shutil.rmtree(damaged.path)
    (again,) = sweep(cache, [config], tmp_path / "runs", Workers(0))
    assert again.metrics["test"] == done.metrics["test"]


def test_a_folder_of_another_cache_or_of_something_else_is_refused_before_anything_is_trained(tiny_cache, tmp_path):
    cache, config = open_cache(small_cache(tmp_path)), TrainConfig(student="tc_resnet", epochs=1, augment=())
    sweep(cache, [config], tmp_path / "runs", Workers(0))
    both = [replace(config, seed=1), config]
    with pytest.raises(
        TkdError, match=r"tc_resnet-kd0.25-epochs1-noaugment-seed0: begun with other settings \(cache_id was"
    ):
        sweep(open_cache(tiny_cache), both, tmp_path / "runs", Workers(0))
    assert not (tmp_path / "runs" / run_name(both[0])).exists()
    (tmp_path / "mine" / run_name(config)).mkdir(parents=True)
    (tmp_path / "mine" / run_name(config) / "thesis.tex").write_text("mine")
    with pytest.raises(TkdError, match="exists and is not a run"):
        sweep(cache, both, tmp_path / "mine", Workers(0))
    with pytest.raises(TkdError, match=r"a file, expected a folder\. Give another --out"):
        sweep(cache, both, tmp_path / "mine" / run_name(config) / "thesis.tex", Workers(0))


@pytest.mark.parametrize(
    ("more", "code", "expected"),
    [
        (("--workers", "2", "--scheduler", "tcp://127.0.0.1:1"), 2, "workers of this machine or a scheduler"),
        (("--workers", "-1"), 2, "-1 is not in the range"),
        (("--scheduler", "nowhere"), 1, "nowhere: no scheduler answers"),
        (("--students", "crnn,tcresnet"), 2, "no such student: tcresnet. Did you mean tc_resnet?"),
        (("--students", ","), 2, "no such student"),
        (("--seeds", "0"), 2, "seeds: expected one at least"),
        (("--seeds", ""), 2, "seeds: expected one at least"),
        (("--augment", "gian"), 2, "augmentation gian: not known. Did you mean gain?"),
        (("--kd-weights", "0,0.6", "--logit-kd", "0.5"), 2, "kd_weight 0.6 + logit_kd 0.5"),
        (("--kd-weights", "0,0.1", "--logit-kd", "0.8", "--scheduler", "x"), 1, "x: no scheduler answers"),
        (("--seeds", "1234"), 2, "1234 seeds are more than 100. For seed 1234 alone give 1234,"),
        (("--seeds", "a"), 2, "neither a number of seeds"),
        (("--kd-weights", "0,1.5"), 2, "kd_weight 1.5"),
        (("--kd-weights", "much"), 2, "'much' is not"),
        (("--epochs", "0"), 2, "epochs 0"),
    ],
)
def test_what_cannot_be_is_one_line(tiny_cache, tmp_path, more, code, expected):
    result = command("sweep", "--cache", tiny_cache, "--out", tmp_path / "runs", *more)
    assert result.exit_code == code and expected in " ".join(result.stderr.split()), result.stderr


def test_the_grid_has_whole_seeds_first_and_no_kd_once():
    grid = SweepConfig(kd_weights=(0.0, 0.5), frame_weights=("rollout", "uniform"), seeds=(3, 1))
    cells = grid.cells(["crnn", "lstm_p"], TrainConfig(epochs=7))
    per_student = [(0.0, "rollout"), (0.5, "rollout"), (0.5, "uniform")]
    expected = [(s, name, *pair) for s in (3, 1) for name in ("crnn", "lstm_p") for pair in per_student]
    assert [(cell.seed, cell.student, cell.kd_weight, cell.frame_weights) for cell in cells] == expected
    assert {cell.epochs for cell in cells} == {7}
    alone = SweepConfig(kd_weights=(0.0,), frame_weights=("uniform",), seeds=(0,)).cells(["crnn"], TrainConfig())
    assert alone == [TrainConfig(kd_weight=0.0)], "the same cell, whatever the controls"


def planted(tmp_path) -> list[Cell]:
    """Two students, two seeds: crnn done in 100 s and 200 s, of att_rnn one failed, one waits."""
    grid = SweepConfig(kd_weights=(0.25,), seeds=(0, 1)).cells(["crnn", "att_rnn"], TrainConfig(epochs=12))
    cells = {(config.student, config.seed): Cell(config, tmp_path / run_name(config)) for config in grid}
    for seed, score in ((0, 0.5), (1, 0.6)):
        cells["crnn", seed].end({"metric": "accuracy", "test": score, "seconds": 100.0 * (seed + 1)}, None)
    cells["att_rnn", 0].end(None, "because")
    return list(cells.values())


def test_the_overview_shows_every_cell_and_how_long_the_rest_takes(tmp_path):
    cells = planted(tmp_path)
    grid = Overview(Cells(cells)).lines()
    assert grid[0].split() == ["0.25"]
    assert [line.split() for line in grid[1:3]] == [["crnn", "##", "0.550"], ["att_rnn", "!."]]
    assert grid[-1] == "3 of 4 done, 1 failed, about 2 min left".replace("3 of", "2 of")  # as long as a crnn
    last = Cells(cells).next()
    last.begin()
    last.path.mkdir()
    (last.path / "history.json").write_text(json.dumps([{"epoch": 1, "validation": 0.25}] * 6))
    assert Overview(Cells(cells)).lines()[-2] == f"{last.name}: epoch 7 of 12, 0 s, validation 0.2500"
    assert Cells(cells).next() is None


def test_of_a_seed_the_student_that_takes_longest_comes_first(tmp_path):
    grid = SweepConfig(kd_weights=(0.0, 0.5), seeds=(0, 1)).cells(["crnn", "att_rnn", "kwt_1"], TrainConfig())
    cells, seconds, order = Cells([Cell(c, tmp_path / run_name(c)) for c in grid]), {"crnn": 5.0, "att_rnn": 9.0}, []
    while (cell := cells.next()) is not None:
        order.append((cell.config.seed, cell.config.student))
        cell.end({"seconds": seconds.get(cell.config.student, 1.0)}, None)
    assert [seed for seed, _ in order] == [0] * 6 + [1] * 6
    assert [student for _, student in order[6:]] == ["att_rnn"] * 2 + ["crnn"] * 2 + ["kwt_1"] * 2


def test_the_table_is_mean_and_spread_over_the_seeds(tmp_path):
    rows = summary(planted(tmp_path)).splitlines()
    assert rows[0].split() == ["|", "test", "accuracy", "|", "0.25", "|"]
    assert rows[2].split() == ["|", "crnn", "|", "0.5500", "±", "0.0707", "|"]  # 0.1 / sqrt 2
    assert rows[3].split() == ["|", "att_rnn", "|", "|"]


KNOWN = {
    "crnn-kd0.25-seed0": {},
    "tc_resnet-kd0-seed3": {"student": "tc_resnet", "kd_weight": 0, "seed": 3},
    "crnn-kd0.25-uniform-seed0": {"frame_weights": "uniform"},
    "crnn-kd0.1-logitkd0.5-noviews-seed0": {"kd_weight": 0.1, "logit_kd": 0.5, "views": False},
    "crnn-kd0.25-heads3.0+3.2-lr1e-05-bfloat16-seed0": {
        "frame_weights": "heads:3.0,3.2",
        "learning_rate": 1e-5,
        "bfloat16": True,
    },
}


def test_runs_are_named_by_what_differs_from_the_defaults():
    for name, differing in KNOWN.items():
        assert run_name(TrainConfig(**differing)) == name
    many = ",".join(f"{layer}.{head}" for layer in range(24) for head in range(16))
    names = {run_name(TrainConfig(frame_weights=f"heads:{many}{more}")) for more in ("", ",0.0", ",0.1")}
    assert len(names) == 3 and max(map(len, names)) < 200


NUMBERS = st.floats(1e-9, 0.49) | st.sampled_from([0.1, 0.25, 0.3, 0.30000000000000004])
VALUES = {
    "student": st.sampled_from(["crnn", "lstm_p", "my-own", "my", "crnn-kd0.25", "é", "a/b"]),
    "kd_weight": NUMBERS | st.just(0.0),
    "logit_kd": NUMBERS | st.just(0.0),
    "frame_weights": st.sampled_from(["rollout", "uniform", "layers:1", "layers:11", "layers:1,1", "heads:1.1"]),
    "epochs": st.integers(1, 30),
    "learning_rate": NUMBERS,
    "weight_decay": NUMBERS,
    "ema": NUMBERS,
    "augment": st.lists(st.sampled_from(["shift", "gain", "shift+gain"]), max_size=3).map(tuple),
    "bfloat16": st.booleans(),
    "views": st.booleans(),
    "patience": st.none() | st.integers(1, 30),
    "seed": st.integers(0, 2**32 - 1),
}
CONFIGS = st.fixed_dictionaries({}, optional=VALUES).map(lambda given: TrainConfig(**given))


@settings(max_examples=300, deadline=None)
@given(one=CONFIGS, other=CONFIGS)
def test_two_settings_never_have_one_name_and_it_is_fit_for_a_file(one, other):
    assert (run_name(one) == run_name(other)) == (one == other)
    assert re.fullmatch(r"[A-Za-z0-9._+%-]+", run_name(one))


def test_every_setting_is_in_the_name():
    words = {"student": "kwt_1", "combination": "additive", "kd_schedule": "rise", "frame_weights": "event"}
    words |= {"first_frame": "keep", "attention": "own", "alignment": "linear", "optimizer": "sgd"}
    others = {**words, "class_weights": "balanced", "augment": ("shift",), "patience": 3}
    names = set()
    for field in fields(TrainConfig):
        number = (lambda value: not value) if isinstance(field.default, bool) else (lambda value: value / 2 + 0.25)
        value = others[field.name] if field.name in others else type(field.default)(number(field.default))
        value = 1 if field.name == "seed" else value
        names.add(run_name(replace(TrainConfig(), **{field.name: value})))
    assert len(names) == len(fields(TrainConfig)) and run_name(TrainConfig()) not in names


def small_cache(folder: Path, **change) -> Path:
    """48 clips of random content."""
    layout = cache_builder.sizes(
        **{"n_clips": 48, "n_features": 40, "n_feature_frames": 33, "partition_size": 16, "keep": "heads", **change}
    )
    described = cache_builder.metadata(layout)
    described["features"] |= {"frame_offset": 319.5, "n_mels": layout.n_features}
    described["teacher"]["readout"] = "first_token"
    return cache_builder.build(folder / "small.zarr", layout, described)[0]


@pytest.fixture
def places(tmp_path, monkeypatch) -> Path:
    """Where the test's own decoded caches lie."""
    (tmp_path / "memory").mkdir()
    monkeypatch.setattr(decoded, "_MEMORY", tmp_path / "memory")
    return tmp_path / "memory" / f"tkd-{os.getuid()}"


def held(places: Path) -> list[str]:
    return [path.name for path in places.iterdir() if path.is_dir()]


CHOICES_OF_WEIGHTS = ("rollout", "uniform", "layers:1", "heads:0.1,1.2", "learned")


def test_what_is_decoded_once_is_what_each_would_have_read_and_nobody_keeps_it(tmp_path, places):
    cache = open_cache(small_cache(tmp_path))
    with decoded_once(cache, CHOICES_OF_WEIGHTS) as folder, decoded_once(cache, CHOICES_OF_WEIGHTS) as same:
        assert folder == same and folder.parent == places
        for chosen in CHOICES_OF_WEIGHTS:
            read = load_splits(cache, frame_weights=chosen)
            mapped = load_splits(open_cache(cache.path), frame_weights=chosen, decoded=folder, memory=1)
            for name, split in read.items():
                for one, other in zip(split.shuffled(7, (5,)), mapped[name].shuffled(7, (5,)), strict=True):
                    assert_equal(one, other)
        with decoded_once(cache, ["rollout"]) as less:
            assert less != folder and len(held(places)) == 2
    assert held(places) == []


def test_a_removal_that_is_interrupted_leaves_nothing_that_is_taken_for_the_whole(tmp_path, places, monkeypatch):
    cache, remove = open_cache(small_cache(tmp_path)), shutil.rmtree

    def interrupted(folder, *how, **more):
        if Path(folder).is_dir():
            next(Path(folder).glob("*.npy")).unlink()
            raise KeyboardInterrupt
        remove(folder, *how, **more)

    with pytest.raises(KeyboardInterrupt), decoded_once(cache, ["rollout"]):
        monkeypatch.setattr(shutil, "rmtree", interrupted)
    monkeypatch.setattr(shutil, "rmtree", remove)
    with decoded_once(cache, ["rollout"]) as folder:
        mapped = load_splits(cache, decoded=folder)["train"]
        for one, other in zip(mapped.batches(16), load_splits(cache)["train"].batches(16), strict=True):
            assert_equal(one, other)
    assert held(places) == []


def test_workers_of_a_scheduler_share_the_memory_of_their_machine(tmp_path, places, monkeypatch):
    """Where a decoded cache does not fit, each reads it for itself."""
    cache, taken = open_cache(small_cache(tmp_path)), []

    def taking(cache, config, out, memory, decoded):
        taken.append((memory, decoded))

    monkeypatch.setattr("pipeline.sweep.worker.train_when_free", taking)
    monkeypatch.setattr("pipeline.sweep.worker.decoded_once", lambda *_: nullcontext(None))
    job = Job(cache.location, cache.metadata["cache_id"], ("rollout",), None, True, 300_000, None)
    assert train_cell(job, COMMON, tmp_path / "run", 3) == (None, None)
    assert taken == [(100_000, None)]


def test_what_a_killed_process_left_is_found_again_or_removed(tmp_path, places):
    cache = open_cache(small_cache(tmp_path))
    done = subprocess.run([sys.executable, "-c", KILLED, cache.path, places.parent], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (left,) = held(places)
    features = (places / left / "train-features.npy").stat()
    with decoded_once(cache, ["rollout"]) as folder:
        assert folder.name == left
        assert (folder / "train-features.npy").stat().st_mtime_ns == features.st_mtime_ns
    assert held(places) == []
    for name in (left, f"{left}.partial"):
        (places / name).mkdir()
    with decoded_once(cache, ["layers:0"]) as folder:
        assert held(places) == [folder.name]


KILLED = """
import os, sys
from pathlib import Path
from cache_schema import open_cache
from pipeline.distill.data import decoded

decoded._MEMORY = Path(sys.argv[2])
with decoded.decoded_once(open_cache(sys.argv[1]), ["rollout"]):
    os.kill(os.getpid(), 9)
"""


def test_where_there_is_no_room_nothing_is_decoded_and_a_damaged_cache_never_is(tmp_path, places, capsys):
    path = small_cache(tmp_path, partition_size=4, n_clips=120)
    with decoded_once(open_cache(path), ["rollout"], memory=300_000) as folder:  # enough to read it piece by piece
        assert folder is None and held(places) == []
    assert (
        "decoded it takes 0.3 MB, and there is no room for that in the 0.3 MB of memory it may take (--memory)"
        in capsys.readouterr().err
    )
    chunk = next(file for file in (path / "features" / "c").rglob("*") if file.is_file())
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(CacheError, match="features"), decoded_once(open_cache(path), ["rollout"]):
        pass
    assert held(places) == []


def test_who_comes_at_once_with_others_waits_for_who_decodes_and_not_for_its_end(tmp_path, places):
    """Others look whether it is there; when they have gone, one of two decodes, and both have it at the same time."""
    path = small_cache(tmp_path)
    with decoded_once(open_cache(path), ["rollout"]) as folder:
        lock = decoded._lock_of(folder)
    both = threading.Barrier(2, timeout=20)

    def use():
        with decoded_once(open_cache(path), ["rollout"]) as found:
            both.wait()
            return found

    with ThreadPoolExecutor(2) as pool:
        with lock.open("a") as looking:
            fcntl.flock(looking, fcntl.LOCK_SH)
            users = [pool.submit(use) for _ in range(2)]
            time.sleep(0.5)
        assert [user.result() for user in users] == [folder, folder]
    assert held(places) == []


class Full(io.FileIO):
    """A file on a disk with room for 10 kB."""

    def write(self, data) -> int:
        if self.tell() + len(data) > 10_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_a_disk_that_fills_while_it_is_decoded_is_no_room(tmp_path, places, monkeypatch):
    cache, path_open = open_cache(small_cache(tmp_path, partition_size=4)), Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda self, *how, **more: Full(self, "w") if self.suffix == ".npy" else path_open(self, *how, **more),
    )
    with decoded_once(cache, ["rollout"]) as folder:
        assert folder is None and held(places) == []


def test_a_folder_that_others_may_write_is_not_taken(tmp_path, places):
    places.mkdir()
    places.chmod(0o777)
    with decoded_once(open_cache(small_cache(tmp_path)), ["rollout"]) as folder:
        assert folder is None or places not in folder.parents


MEASURE = """
import sys
from pathlib import Path
from cache_schema import open_cache
from pipeline.distill.data import load_splits

def own():  # memory of this process that no other can have, bytes
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

cache = open_cache(sys.argv[1])
for decoded in (Path(sys.argv[2]), None):
    before, splits = own(), load_splits(cache, decoded=decoded)
    for split in splits.values():
        for batch in split.batches(16):
            pass
    print(own() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what memory a process has for itself")
def test_a_worker_holds_no_copy_of_the_cache(tmp_path, places):
    cache = open_cache(small_cache(tmp_path, n_clips=512, n_feature_frames=1000, partition_size=256))
    with decoded_once(cache, ["rollout"]) as folder:
        done = subprocess.run([sys.executable, "-c", MEASURE, cache.path, folder], capture_output=True, text=True)
    mapped, read = map(int, done.stdout.split())
    assert read > 40e6, "512 clips of 80 kB"
    assert mapped < 10e6
