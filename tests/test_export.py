"""Exported models: the graph does what the student does, and says what is heard in recordings, and when."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import soundfile
import torch
from click.testing import CliRunner

from cache_schema import open_cache
from pipeline.cli.main import tkd
from pipeline.data.audio import render_clip, to_waveform
from pipeline.distill.config import TrainConfig
from pipeline.distill.run import read_run
from pipeline.distill.train import train
from pipeline.errors import TkdError
from pipeline.export.front_end import FrontEnd
from pipeline.export.graph import Heard, student_graph
from pipeline.export.model import Card, Detection, Model, read_model, session
from pipeline.extract.features import LogMel, LogMelConfig
from pipeline.predict import Predictor
from students import STUDENTS, build_student

# Every student but those that differ from one of these in size alone.
KINDS = sorted(set(STUDENTS) - {"tc_resnet14_1.5", "bc_resnet_2", "bc_resnet_3", "bc_resnet_6", "bc_resnet_8"})


def run(*arguments):
    return CliRunner().invoke(tkd, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def tiny_run(tiny_cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    train(open_cache(tiny_cache), TrainConfig(student="crnn", epochs=1), out)
    return out


@pytest.fixture(scope="module")
def exported(tiny_run):
    shown = run("export", tiny_run, "--format", "onnx")
    assert shown.exit_code == 0, shown.output
    return tiny_run / "model.onnx", shown.stdout


@pytest.mark.parametrize(
    "config",
    [LogMelConfig(), LogMelConfig(win_length=400, hop_length=160, n_fft=512, n_mels=64), LogMelConfig(win_length=601)],
    ids=["default", "hop not a divisor", "odd window"],
)
@pytest.mark.parametrize("n_samples", [641, 8000, 8319])
def test_the_front_end_is_that_of_the_features(config, n_samples):
    noise = 0.1 * torch.randn(2, n_samples)
    noise[1] *= 1e-3
    expected = torch.stack([torch.from_numpy(LogMel(config)(waveform.numpy())) for waveform in noise])
    torch.testing.assert_close(FrontEnd(config)(noise), expected, rtol=0, atol=1e-5)


def test_the_front_end_keeps_digital_silence_at_the_floor():
    config = LogMelConfig()
    assert torch.equal(FrontEnd(config)(torch.zeros(1, 1000)), torch.full((1, 40, 2), np.log(np.float32(config.floor))))


@pytest.mark.parametrize(
    ("name", "task", "attention"),
    [(name, "single_label", "query") for name in KINDS]
    + [("tc_resnet8", "multi_label", "query"), ("kwt_1", "single_label", "own")],
)
def test_a_student_as_a_graph_is_the_student(name, task, attention):
    student = build_student(name, 12).eval()
    for module in student.modules():  # as after training: not all zeros and ones
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    made = SimpleNamespace(
        student=student,
        config={"features": {"n_mels": 40}},
        task=task,
        query=torch.randn(student.n_channels) if attention == "query" else None,
    )
    graph = session(student_graph(made, 25).SerializeToString())
    for batch in (1, 3):
        features = torch.randn(batch, 40, 25) * 3 - 5
        with torch.no_grad():
            expected = Heard(made)(features)
        for found, wanted in zip(graph.run(None, {"features": features.numpy()}), expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=0, atol=1e-5)


def test_an_exported_run_hears_what_the_run_hears(tiny_data, tiny_run, exported):
    path, said = exported
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    assert f"test accuracy {metrics['test']:.4f}; the student's was {metrics['test']:.4f}" in said
    model, predictor = read_model(path), Predictor(read_run(tiny_run))
    assert model.card.labels == tuple(predictor.labels)
    assert (model.card.n_samples, model.card.task, model.card.precision) == (32000, "single_label", "float32")
    assert model.card.run["cache_id"] == metrics["cache_id"]
    waveforms = np.stack([to_waveform(render_clip(tiny_data.audio_root, clip)) for clip in tiny_data.clips[:5]])
    probabilities, attention = model(waveforms)
    np.testing.assert_allclose(probabilities, [predictor(waveform) for waveform in waveforms], atol=1e-5)
    np.testing.assert_allclose(attention.sum(axis=1), 1, atol=1e-5)
    assert attention.shape == (5, 93)
    assert not list(tiny_run.glob("*.partial"))
    assert b'.py"' not in path.read_bytes()  # no traces of this machine


def test_the_page_shows_how_a_model_is_used_without_tkd(exported, tmp_path, monkeypatch):
    page = Path(__file__).parent.parent.joinpath("docs", "export.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mini-crnn-kd0.5-seed0").symlink_to(exported[0].parent)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    assert names["label"] in names["card"]["labels"]
    assert 0 < names["seconds"] < 2


def test_int8_is_a_third_of_the_size_and_near(tiny_run, exported, tmp_path):
    out = tmp_path / "klein.onnx"
    shown = run("export", tiny_run, "--int8", "--out", out, "--json")
    assert shown.exit_code == 0, shown.output
    said = json.loads(shown.stdout)
    assert said["n_bytes"] == out.stat().st_size < exported[0].stat().st_size / 3
    assert said["difference"] < 0.1
    assert read_model(out).card.precision == "int8"
    assert b'.py"' not in out.read_bytes()
    codes = [tensor for tensor in onnx.load(out).graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert sum(np.prod(tensor.dims) for tensor in codes) > 450_000  # of 467,772 parameters


def test_export_says_what_is_missing(tiny_run, tmp_path):
    short = run("export", tiny_run, "--length", "0.1", "--out", tmp_path / "a.onnx")
    assert (short.exit_code, "expected at least 0.16 s for crnn" in short.output) == (1, True)
    gone = run("export", tiny_run, "--cache", tmp_path / "gone.zarr", "--out", tmp_path / "a.onnx")
    assert (gone.exit_code, "gone.zarr" in gone.output, "--length" in gone.output) == (1, True, True)
    taken = tmp_path / "taken.onnx"
    taken.write_bytes(b"mine")
    again = run("export", tiny_run, "--out", taken)
    assert (again.exit_code, "with --force" in again.output, taken.read_bytes()) == (1, True, b"mine")
    taken.unlink()
    endless = run("export", tiny_run, "--length", "nan", "--out", tmp_path / "a.onnx")
    assert (endless.exit_code, "not a number" in endless.output) == (2, True)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


def test_without_its_cache_a_run_is_exported_at_a_given_length(tiny_run, tmp_path):
    config = json.loads((tiny_run / "config.json").read_text())
    kept = config["cache"]
    (tiny_run / "config.json").write_text(json.dumps(config | {"cache": str(tmp_path / "gone.zarr")}))
    try:
        (tmp_path / "a.onnx").touch()
        shown = run("export", tiny_run, "--length", "0.5", "--out", tmp_path / "a.onnx", "--force")
        without = run("export", tiny_run, "--out", tmp_path / "b.onnx")
        quantized = run("export", tiny_run, "--length", "0.5", "--int8", "--out", tmp_path / "b.onnx")
    finally:
        (tiny_run / "config.json").write_text(json.dumps(config | {"cache": kept}))
    assert shown.exit_code == 0, shown.output
    assert "accuracy" not in shown.stdout
    assert read_model(tmp_path / "a.onnx").card.n_samples == 8000
    for refused in (without, quantized):
        assert (refused.exit_code, "--length" in refused.output) == (1, True)


class Loud(Model):
    """Hears "loud" where a second has a loud frame, and "very_loud" as well where that is very loud."""

    def __init__(self, task: str = "single_label") -> None:
        self.card = Card(("_quiet_", "loud", "very loud"), task, 1000, 1000, 20, 9.5, "float32", "none", {})

    def __call__(self, waveforms):
        level = np.abs(waveforms).reshape(len(waveforms), 50, 20).max(axis=2)
        peak = level.max(axis=1)
        return np.stack([1 - peak, peak, 2 * peak - 1], axis=1), level / level.sum(axis=1, keepdims=True).clip(1e-9)


def test_what_several_windows_hear_at_one_place_is_heard_once():
    recording = np.full(10_000, 0.01, np.float32)
    recording[[3210, 7350, 7900]] = 0.8, 0.9, 0.7
    found = Loud().detect(recording, 0.5, 0.25)
    assert [(one.label, round(one.seconds, 1)) for one in found] == [("loud", 3.2), ("loud", 7.3), ("loud", 7.9)]
    assert [round(one.probability, 1) for one in found] == [0.8, 0.9, 0.7]
    both = Loud("multi_label").detect(recording, 0.75, 0.25)
    assert [(one.label, round(one.seconds, 1)) for one in both] == [
        ("loud", 3.2),
        ("loud", 7.3),
        ("very loud", 7.3),
    ]


def test_a_recording_shorter_than_a_window_is_heard_whole():
    recording = np.full(300, 0.01, np.float32)
    recording[250] = 0.8
    assert Loud().detect(recording, 0.5, 0.25) == [Detection("loud", 0.2495, pytest.approx(0.8))]
    assert Loud().detect(np.full(300, 0.01, np.float32), 0.5, 0.25) == []


def test_a_recording_is_heard_to_its_end():
    recording = np.full(4_321, 0.01, np.float32)
    recording[-1] = 0.8
    (found,) = Loud().detect(recording, 0.5, 0.9)
    assert found.seconds == pytest.approx(4.311, abs=0.001)


def test_detect_prints_times_and_names_what_it_cannot_read(exported, tiny_data, tmp_path):
    waveform = to_waveform(render_clip(tiny_data.audio_root, tiny_data.clips[0]))
    soundfile.write(tmp_path / "Straße.wav", np.tile(waveform, 2), 16000)
    (tmp_path / "leer.wav").write_bytes(b"")
    shown = run("detect", exported[0], tmp_path / "Straße.wav", tmp_path / "leer.wav", "--threshold", "0", "--json")
    assert shown.exit_code == 1
    assert "leer.wav" in shown.stderr
    (detections,) = json.loads(shown.stdout).values()
    assert {tuple(one) for one in detections} == {("label", "seconds", "probability")}
    assert all(0 <= one["seconds"] <= 4 and not one["label"].startswith("_") for one in detections)
    bytes_ = tmp_path / os.fsdecode(b"\xff.wav")
    shutil.copy(tmp_path / "Straße.wav", bytes_)
    for more in ((), ("--json",)):
        odd = run("detect", exported[0], bytes_, "--threshold", "1", *more)
        assert (odd.exit_code, "\\udcff.wav" in odd.stdout) == (0, True)
    assert list(json.loads(odd.stdout)) == [str(bytes_)]
    plain = run("detect", exported[0], tmp_path / "Straße.wav", "--threshold", "1")
    assert plain.stdout == f"{tmp_path / 'Straße.wav'}: nothing\n"


def test_hearing_needs_nothing_that_the_extra_export_does_not_install(exported, tiny_data):
    program = f"""
import sys
for name in ("transformers", "distributed", "pyarrow", "espeakng_loader", "matplotlib", "s3fs"):
    sys.modules[name] = None
import pipeline.export.export
from pipeline.cli.main import tkd
tkd(["detect", {str(exported[0])!r}, {str(next(tiny_data.audio_root.rglob("*.flac")))!r}])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_no_model_is_called_so(tmp_path, tiny_run):
    (tmp_path / "a.onnx").write_bytes(b"not one")
    identity = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["a"], ["b"])],
        "g",
        *([onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1])] for name in "ab"),
    )
    foreign = onnx.helper.make_model(identity, opset_imports=[onnx.helper.make_opsetid("", 20)])
    onnx.save(foreign, tmp_path / "b.onnx")
    for path, reason in (
        ("a.onnx", "not a model"),
        ("b.onnx", "not one of tkd export"),
        ("c.onnx", "no such file"),
        ("", "a directory"),
    ):
        with pytest.raises(TkdError, match=reason):
            read_model(tmp_path / path)
