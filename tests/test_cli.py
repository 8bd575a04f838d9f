"""The command line: help everywhere, clear one-line errors, exit codes, and a README that shows what there is."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from report_runs import make_cache, make_run

from cache_schema import open_cache
from pipeline.cli.main import tkd
from pipeline.data.audio import render_clip, to_waveform
from pipeline.distill.config import TrainConfig
from pipeline.distill.data import load_splits
from pipeline.distill.run import read_run
from pipeline.distill.train import train
from pipeline.errors import TkdError
from pipeline.predict import Predictor

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def run(*arguments):
    return CliRunner().invoke(tkd, [str(argument) for argument in arguments])


def commands(group=tkd, path=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.fixture(scope="module")
def tiny_run(tiny_cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    train(open_cache(tiny_cache), TrainConfig(student="tc_resnet", epochs=1), out)
    return out


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_command_has_help_with_an_example_and_stands_in_the_readme(path):
    shown = run(*path, "--help")
    assert shown.exit_code == 0
    assert re.search(r"Examples?:\n", shown.output)
    assert f"tkd {' '.join(path)}" in README


@pytest.mark.parametrize(
    ("arguments", "run"),
    [("", "mini-crnn"), ("DATASET=nscv2 LENGTH=8", "nscv2-8s-crnn"), ("TEACHER=t/x", "mini-x-crnn")],
)
def test_make_train_names_a_run_after_its_cache(arguments, run):
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # not under make test
    command = ["make", "-n", "-o", "setup", "train", "BFLOAT16=", *arguments.split()]
    said = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1].endswith(f" --out runs/{run}-kd0.25-seed0")


def test_every_make_target_is_listed_and_every_one_the_readme_shows_exists():
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert targets == set(re.findall(r"^  make ([a-z-]+)", listed, re.M))
    assert set(re.findall(r"^make ([a-z-]+)", README, re.M)) <= targets


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "--cache", "x.zarr", "--student", "tc_resne"], "no such student: tc_resne. Did you mean tc_resnet?"),
        (
            ["data", "prepare", "mimi", "--out", "d"],
            "no such dataset: mimi. Did you mean mini? Known: ",
        ),
        (["data", "prepare", "folder", "--out", "d"], "folder needs --root DIR"),
        (
            ["cache", "build", "--data", "d", "--out", "c.zarr", "--keep", "head"],
            "no such choice: head. Did you mean heads?",
        ),
        (["train", "--student", "crnn"], "Missing option '--cache'"),
        (["train", "--cache", "x.zarr", "--kd-weight", "1.5"], "kd_weight 1.5 + logit_kd 0: expected less than 1"),
        (["train", "--cache", "x.zarr", "--seed", "-1"], "seed -1: expected 0 to"),
        (["train", "--cache", "x.zarr", "--resume", "--force"], "--resume goes on and --force starts over"),
        (["train", "--cache", "x.zarr", "--kd-weight", "much"], "'much' is not a valid float"),
        (["teacher", "train", "--data", "d", "--out", "t", "--crops", "1.25-8"], "is not seconds:epochs"),
    ],
)
def test_a_wrong_option_is_answered_with_the_usage_and_exit_code_2(arguments, expected):
    shown = run(*arguments)
    assert shown.exit_code == 2
    assert shown.output.startswith("Usage:")
    assert expected in " ".join(shown.output.split())


def test_failures_are_one_line_and_exit_code_1(tmp_path, tiny_cache, tiny_data, tiny_run):
    (tmp_path / "notes.txt").write_text("not a cache")
    newer = tmp_path / "newer.zarr"
    newer.mkdir()
    attributes = json.loads((tiny_cache / "zarr.json").read_text())
    attributes["attributes"]["tkd_cache"]["format_version"] = 7
    (newer / "zarr.json").write_text(json.dumps(attributes))
    typo = tiny_cache.with_name("tinny.zarr")
    failures = {
        "tiny.zarr": ["train", "--cache", typo],
        "notes.txt": ["train", "--cache", tmp_path / "notes.txt"],
        "version 7": ["train", "--cache", newer],
        "of something else": ["cache", "build", "--data", tiny_data.root, "--out", tiny_cache, "--keep", "rollout"],
        "no such dataset folder": ["cache", "build", "--data", tmp_path / "nothing", "--out", tmp_path / "c.zarr"],
        "ends in .zarr": ["cache", "build", "--data", tiny_data.root, "--out", tmp_path / "cache"],
        "no such teacher": ["cache", "build", "--data", tiny_data.root, "--teacher", "t", "--out", tmp_path / "c.zarr"],
        "a complete run": ["train", "--cache", tiny_cache, "--out", tiny_run],
        "no run here": ["evaluate", tmp_path],
        f"a folder of runs, expected one of them: {tiny_run.name}": ["evaluate", tiny_run.parent],
        f"Did you mean {tiny_run.name}?": ["evaluate", f"{tiny_run}x"],
        "no complete runs": ["report", tmp_path],
        "Not a directory": ["report", tiny_run, "--out", tmp_path / "notes.txt" / "report"],
    }
    for expected, arguments in failures.items():
        shown = run(*arguments)
        assert shown.exit_code == 1, (arguments, shown.output)
        lines = shown.output.strip().splitlines()
        assert len(lines) == 1, shown.output
        assert lines[0].startswith("Error: ")
        assert expected in lines[0]
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["newer.zarr", "notes.txt"]


def test_a_missing_extra_is_named_with_the_command_that_installs_it(tmp_path, tiny_run):
    program = "import sys; sys.modules['matplotlib'] = None; sys.modules['pyarrow'] = None; "
    program += "from pipeline.cli.main import tkd; tkd()"
    command = [sys.executable, "-c", program]
    built = subprocess.run(
        [*command, "cache", "build", "--data", "d", "--out", "c.zarr"], capture_output=True, text=True
    )
    assert built.returncode == 1
    assert built.stderr.strip().endswith("Install it with: pip install -e '.[teacher]' (in tkd's folder)")
    reported = subprocess.run(
        [*command, "report", str(tiny_run), "--out", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert reported.stdout.startswith("| model")
    assert reported.stdout.strip().endswith("Install it with: pip install -e '.[report]' (in tkd's folder)")


def test_a_full_disk_is_one_line(tiny_cache, tmp_path):
    """The student is trained into a file system of 200 kB."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    try:
        shown = run("train", "--cache", tiny_cache, "--student", "tc_resnet", "--epochs", "1", "--out", small / "run")
        assert shown.exit_code == 1, shown.output
        assert "The disk is full" in shown.output.strip().splitlines()[-1]
        assert not (small / "run" / "metrics.json").exists()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_name_too_long_is_one_line(tmp_path):
    shown = run("data", "prepare", "mini", "--out", tmp_path / (256 * "x"))
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert shown.stderr.startswith("Error: File name too long (") and shown.stderr.count("\n") == 1


def test_a_clip_too_short_for_the_student_is_named(tmp_path):
    trained = make_run(tmp_path / "run", make_cache(tmp_path / "long.zarr"), 0.5, student="crnn")
    make_cache(tmp_path / "short.zarr", n_frames=5)
    shown = run("evaluate", trained, "--cache", tmp_path / "short.zarr")
    assert shown.exit_code == 1
    assert "short.zarr: 40 test clips have fewer than the 7 feature frames of crnn, clip <8> the first." in shown.output


def test_the_name_of_a_data_set_leads_no_run_out_of_runs(tmp_path, monkeypatch):
    make_cache(tmp_path / "c.zarr", dataset="../../elsewhere")
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    shown = run("train", "--cache", tmp_path / "c.zarr", "--student", "tc_resnet8", "--epochs", 1, "--augment", "none")
    assert shown.exit_code == 0, shown.output
    assert [path.parent.parent.name for path in tmp_path.rglob("metrics.json")] == ["runs"]


def test_a_run_is_scored_again_and_reported(tiny_run, tmp_path):
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    scored = run("evaluate", tiny_run, "--json")
    assert json.loads(scored.stdout)["value"] == metrics["test"]
    reported = run("report", tiny_run, "--out", tmp_path)
    assert reported.exit_code == 0, reported.output
    assert f"{metrics['test']:.4f}" in reported.stdout
    assert ("trained: never" in reported.stdout) is not metrics["teacher"]["imported"]
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "table.md").read_text().startswith("| model")


def test_a_recording_is_heard_as_its_clip_was(tiny_data, tiny_cache, tiny_run, tmp_path):
    """The file says the same as the cached features, to the rounding of float16; a bad one does not stop the others."""
    cache, clip = open_cache(tiny_cache), tiny_data.split("test")[3]
    run_ = read_run(tiny_run)
    batch = load_splits(cache, names=("test",))["test"].take([3])
    assert batch.clip_id[0] == clip.clip_id
    expected = run_.student(batch.features.float(), batch.lengths).logits.softmax(1)[0].tolist()
    soundfile.write(tmp_path / "été 1.wav", render_clip(tiny_data.audio_root, clip), 16000)
    soundfile.write(tmp_path / "short.wav", np.ones(100, np.int16), 16000)
    files = (tmp_path / "été 1.wav", tmp_path / "short.wav", tmp_path / "none.wav")
    said = run("predict", tiny_run, *files, "--json")
    assert said.exit_code == 1 and "2 of 3 files could not be heard." in said.stderr
    assert "short.wav: 100 samples, expected at least" in said.stderr and "none.wav: " in said.stderr
    (heard,) = json.loads(said.stdout).values()
    assert list(heard) == cache.labels and list(heard.values()) == pytest.approx(expected, abs=2e-2)
    # In floats, with what 16 bits do not hold: clips do not have it either.
    quiet = to_waveform(render_clip(tiny_data.audio_root, clip)) + np.float32(1e-5) * np.random.default_rng(0).random(
        32000
    )
    soundfile.write(tmp_path / "quiet.wav", quiet, 16000, subtype="FLOAT")
    (same,) = json.loads(run("predict", tiny_run, tmp_path / "quiet.wav", "--json").stdout).values()
    assert same == heard
    shown = run("predict", tiny_run, files[0])
    assert shown.exit_code == 0 and shown.stdout.startswith(f"{files[0]}: {max(heard, key=heard.get)} 0.")
    features = run_.config["features"] | {"sample_rate": 8000}
    with pytest.raises(TkdError, match="features at 8000 Hz; tkd reads recordings at 16000 Hz"):
        Predictor(replace(run_, config=run_.config | {"features": features}))


def test_a_run_taught_with_the_first_frame_is_scored_with_it(tiny_cache, tmp_path):
    given = ("--student", "tc_resnet", "--epochs", 1, "--first-frame", "keep")
    refused = run("train", "--cache", tiny_cache, *given, "--augment", "gain,shift,crop", "--out", tmp_path / "run")
    assert refused.exit_code == 1 and "--first-frame keep: shift, crop would move" in refused.stderr
    given += ("--augment", "none")
    given += ("--out", tmp_path / "run")
    assert run("train", "--cache", tiny_cache, *given).exit_code == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert json.loads(run("evaluate", tmp_path / "run", "--json").stdout)["attention"] == metrics["attention"]


def test_cache_info_and_validate_speak_of_the_cache(tiny_cache, tmp_path):
    described = json.loads(run("cache", "info", tiny_cache, "--json").stdout)
    assert described["complete"] is True
    shown = run("cache", "info", tiny_cache).stdout
    assert described["cache_id"] in shown
    assert all(name in shown for name in described["arrays"])
    assert run("cache", "validate", tiny_cache).stdout.endswith("no faults\n")
    assert run("cache", "validate", tiny_cache, "--json").stdout == "[]\n"
    damaged = shutil.copytree(tiny_cache, tmp_path / "c.zarr")
    (damaged / "view" / "c" / "0").write_bytes(b"")
    said = run("cache", "validate", damaged, "--json")
    assert said.exit_code == 1 and [fault["place"] for fault in json.loads(said.stdout)] == ["view"]


def test_a_cache_is_handed_around(tiny_cache, tmp_path):
    identity = open_cache(tiny_cache).metadata["cache_id"]
    for arguments in (
        ("convert", tiny_cache, tmp_path / "a.h5"),
        ("pack", tmp_path / "a.h5"),
        ("push", tmp_path / "a.zip", tmp_path / "team" / "b.zarr"),
        ("pull", tmp_path / "team" / "b.zarr", tmp_path / "c.zarr"),
    ):
        result = run("cache", *arguments)
        assert result.exit_code == 0, result.output
        assert f"{arguments[-1] if arguments[0] != 'pack' else tmp_path / 'a.zip'}: complete, cache_id {identity}" in (
            result.stdout
        )
    assert run("cache", "diff", tiny_cache, tmp_path / "c.zarr").stdout == "the same\n"
    assert run("cache", "convert", tiny_cache, tmp_path / "small.zarr", "--keep", "rollout").exit_code == 0
    result = run("cache", "diff", tiny_cache, tmp_path / "small.zarr", "--json")
    assert result.exit_code == 1
    assert {"place": "head_weights", "text": "in the first alone"} in json.loads(result.stdout)
    assert run("cache", "pack", tiny_cache, tmp_path / "x.h5").exit_code == 2
    assert run("cache", "pack", "https://example.org/x.zarr").exit_code == 2
    result = run("cache", "merge", tiny_cache, "--out", tmp_path / "whole.zarr")
    assert result.exit_code == 1 and "a finished cache. Merge takes what" in result.stderr


@pytest.mark.parametrize(("given", "expected"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_waiting_threads_sleep_unless_the_user_says_otherwise(given, expected):
    code = "import sys, pipeline.cli, os; assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'])"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment | given)
    assert done.stdout.strip() == expected, done.stderr


def test_an_interrupted_training_says_how_to_go_on(tiny_cache, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.distill.train.train", interrupted)
    shown = run("train", "--cache", tiny_cache, "--out", tmp_path / "run")
    assert shown.exit_code == 1
    assert f"{tmp_path / 'run'}: interrupted. To go on: the same command with --resume." in shown.stderr
