"""From a folder of recordings to a student, with the commands of the README, on recordings no event is known of."""

import json

import numpy as np
import soundfile
from click.testing import CliRunner

from pipeline.cli.main import tkd


def run(*arguments) -> str:
    shown = CliRunner().invoke(tkd, [str(argument) for argument in arguments])
    assert shown.exit_code == 0, shown.output
    return shown.stdout


def test_own_recordings_become_a_student(tmp_path):
    """Tones of two pitches at three rates, mono and stereo, of 0.4 to 0.8 s, labelled in German."""
    rng = np.random.default_rng(0)
    for label, pitch in (("hoch", 1800), ("tiefer Ton", 300)):
        folder = tmp_path / "Aufnahmen" / label
        folder.mkdir(parents=True)
        for index in range(15):
            rate = (8000, 16000, 44100)[index % 3]
            time = np.arange(int(rng.uniform(0.4, 0.8) * rate)) / rate
            tone = 0.3 * np.sin(2 * np.pi * pitch * time) + 0.01 * rng.standard_normal(len(time))
            soundfile.write(folder / f"Übung {index}.wav", np.stack([tone] * (1 + index % 2), axis=1), rate)
    (tmp_path / "Aufnahmen" / "hoch" / "leer.wav").write_bytes(b"")
    data, teacher, cache, out = (tmp_path / name for name in ("data", "teacher", "töne.zarr", "run"))

    run("data", "prepare", "folder", "--root", tmp_path / "Aufnahmen", "--out", data)
    run("teacher", "train", "--data", data, "--epochs", "1", "--out", teacher)
    run("cache", "build", "--data", data, "--teacher", teacher, "--out", cache)
    run("train", "--cache", cache, "--student", "tc_resnet", "--epochs", "2", "--batch-size", "8", "--out", out)

    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["dataset"] == "Aufnahmen"
    assert metrics["attention_in_event"] is None
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert config["labels"] == ["hoch", "tiefer Ton"]
    assert json.loads(run("evaluate", out, "--json"))["value"] == metrics["test"]
    assert "unknown" in run("report", out)
    assert (out / "attention.png").exists()
    assert str(tmp_path) not in (cache / "zarr.json").read_text(encoding="utf-8")
