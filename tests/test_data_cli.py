"""`tkd data prepare`: what a newcomer types, and what is said when it cannot be done."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from click.testing import CliRunner
from test_data_folder import record
from waiting import until

from pipeline.cli.main import tkd
from pipeline.data.manifest import read_manifest

SMALL = ("--words", "hey lamp", "--clips", "2", "2", "2")


def run(*arguments):
    return CliRunner().invoke(tkd, ["data", "prepare", *map(str, arguments)])


def failed(result) -> str:
    """The one line of a failed run."""
    assert result.exit_code == 1 and result.stdout == "" and isinstance(result.exception, SystemExit)
    (line,) = [line for line in result.stderr.splitlines() if not re.search(r"^left out: | \d+ s$", line)]
    return line


def test_synth_twice_is_once(tmp_path):
    out = tmp_path / "lamp"
    first = run("synth", *SMALL, "--length", "3", "--out", out)
    assert first.exit_code == 0, first.output
    assert first.stdout == f"{out}: synth, 3 labels, 4 train, 4 validation, 4 test clips\n"
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = run("synth", *SMALL, "--length", "3", "--out", out)
    assert (again.exit_code, again.stdout, again.stderr) == (0, first.stdout, "")
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    refused = run("synth", *SMALL, "--length", "4", "--out", out)
    assert failed(refused).startswith(f"Error: {out}: holds a dataset of another recipe. Prepare again with --force")
    (out / "dataset.json").write_text("{")
    assert "damaged dataset description" in failed(run("synth", *SMALL, "--length", "3", "--out", out))


def test_own_recordings(tmp_path):
    for label in ("lamp", "lights"):
        for index in range(3):
            record(tmp_path / "own" / label / f"{index}.wav")
    (tmp_path / "own" / "lamp" / "bad.wav").write_bytes(b"")
    arguments = ("folder", "--root", tmp_path / "own", "--out", tmp_path / "d")
    assert failed(run(*arguments, "--strict")).endswith("1 of 7 recordings cannot be used (listed above).")
    assert not (tmp_path / "d").exists()
    result = run(*arguments, "--length", "1")
    assert result.stdout == f"{tmp_path / 'd'}: own, 2 labels, 2 train, 2 validation, 2 test clips\n"
    assert "left out: " in result.stderr and "lamp/bad.wav: cannot be read as audio" in result.stderr
    assert {clip.n_samples for clip in read_manifest(tmp_path / "d").clips} == {16000}
    assert failed(run(*arguments, "--length", "1", "--strict")).endswith("prepare again with --force.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("minni",), "no such dataset: minni. Did you mean mini? Known: "),
        (("mini", "--length", "0"), "length 0.0 s: spoken words take up to 1.9 s. Use 2 to"),
        (("mini", "--seed", "0"), "--seed does not go with mini, which takes --length"),
        (
            ("synth", "--root", "x"),
            "--root does not go with synth, which takes --words, --clips, --length, --snr, --noise-kinds, --seed",
        ),
        (("synth", "--strict"), "--strict does not go with synth"),
        (("folder", "--root", "x", "--words", ""), "--words does not go with folder"),
        (("folder",), "folder needs --root DIR: where the recordings are, one folder per label."),
        (("folder", "--root", "x", "--length", "nan"), "length nan s: use 0.04 (one frame) to 600 s."),
        (("folder", "--root", "x", "--length", "-1"), "length -1.0 s: use 0.04"),
        (("synth", "--words", ""), "an empty word. Separate words with single commas."),
        (("synth", "--words", "a,,b"), "an empty word"),
        (("synth", "--length", "inf"), "length inf s"),
        (("synth", "--length", "long"), "'long' is not a valid float"),
        (("synth", "--clips", "-1", "9", "9"), "10 words need 12 to 1000000 in each split"),
        (("synth", "--clips", "9" * 30, "99", "99"), "10 words need 12 to 1000000 in each split"),
        (("synth", "--clips", "9", "9", "nine"), "'nine' is not a valid integer"),
        (("synth", "--snr", "5", "nan"), "SNR 5.0 to nan dB: give the lower one first"),
        (("synth", "--seed", "-1"), "seed -1 is negative"),
    ],
)
def test_a_wrong_option_exits_2_with_the_usage(tmp_path, arguments, message):
    result = run(*arguments, "--out", tmp_path / "d")
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: ") and message in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("folder", "--root", "nowhere"), "Error: nowhere: no such folder. Give --root a folder with one folder of"),
        (("synth", "--words", "...", "--clips", "2", "2", "2"), "Error: espeak-ng says nothing for '...' (voice "),
    ],
)
def test_a_failed_run_exits_1_with_one_line(tmp_path, arguments, message):
    assert failed(run(*arguments, "--out", tmp_path / "d")).startswith(message)
    assert not (tmp_path / "d").exists()


def test_force_spares_a_folder_that_is_no_dataset(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "exists and is not a dataset" in failed(run("mini", "--out", tmp_path, "--force"))
    assert (tmp_path / "thesis.txt").exists()


def test_a_full_disk_is_one_line_and_leaves_nothing_that_looks_complete(tmp_path):
    """On a real small disk, where the tests may mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk takes root")
    try:
        command = [str(Path(sys.executable).with_name("tkd")), "data", "prepare", "synth", *SMALL, "--out", "d"]
        full = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert full.returncode == 1 and full.stdout == "" and "Traceback" not in full.stderr
        assert "The disk is full" in full.stderr.splitlines()[-1]
        assert [path.name for path in tmp_path.glob("[!.]*")] == ["d.partial"]
        assert not (tmp_path / "d.partial" / "dataset.json").exists()
        for path in (tmp_path / "d.partial").rglob("*.flac"):
            assert soundfile.info(path).frames == len(soundfile.read(path)[0]) > 0
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_two_at_once_the_second_gives_way(tmp_path):
    """The first preparation finishes undisturbed; the second says why it did not start."""
    out = tmp_path / "lamp"
    command = [sys.executable, "-m", "pipeline.cli.main", "data", "prepare", "synth", *SMALL, "--out", str(out)]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        until((tmp_path / "lamp.partial").exists, first)
        first.send_signal(signal.SIGSTOP)
        second = subprocess.run(command, capture_output=True, text=True)
        assert second.returncode == 1
        assert f"lamp: being written by pid {first.pid} on " in second.stderr
        assert second.stderr.endswith(f" --out {out}). Wait for it, or give another --out.\n")
        first.send_signal(signal.SIGCONT)
        first.communicate()
    finally:
        first.kill()
    assert first.returncode == 0
    assert run("synth", *SMALL, "--out", tmp_path / "alone").exit_code == 0
    ours, alone = (read_manifest(folder) for folder in (out, tmp_path / "alone"))
    assert ours.sha256() == alone.sha256()
