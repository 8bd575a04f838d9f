"""Training a teacher, for real but tiny: what is written, what an interruption costs, what is refused."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import SafetensorError
from safetensors.torch import load_file
from test_teacher_model import tiny_config, tiny_folder, waveforms
from transformers import AutoFeatureExtractor, AutoModel
from waiting import until

from pipeline.cli.main import tkd
from pipeline.data.clip import Clip
from pipeline.data.manifest import Manifest, write_manifest
from pipeline.errors import TkdError
from pipeline.extract.config import BuildConfig
from pipeline.extract.evaluate import evaluate_teacher
from pipeline.teacher.config import TeacherConfig
from pipeline.teacher.machine import named_failures
from pipeline.teacher.model import load_teacher
from pipeline.teacher.resume import find_best_checkpoint
from pipeline.teacher.train import _trainer, train_teacher


@pytest.fixture
def config(tmp_path) -> TeacherConfig:
    """SpecAugment and layer drop are on, as in XLSR's configuration."""
    encoder = tiny_config(num_hidden_layers=2, mask_time_prob=0.05, layerdrop=0.1)
    (tmp_path / "tiny.json").write_text(encoder.to_json_string())
    return TeacherConfig(
        base=str(tmp_path / "tiny.json"), crops=((1.0, 1),), epochs=1, batch_size=16, learning_rate=1e-3
    )


def command(*arguments):
    """Runs `tkd` in this process; nothing foreseen may end in another exception."""
    result = CliRunner().invoke(tkd, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def folders(path):
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir())


def test_training_writes_a_teacher_that_transformers_opens(tiny_data, config, tmp_path, capfd):
    info = train_teacher(tiny_data, config, tmp_path / "t")
    out, err = capfd.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("training the teacher: ")]
    assert len(lines) == 2 and lines[0].startswith("epoch 1 of 2: training loss"), err
    assert folders(tmp_path) == ["t"]

    teacher, described, _ = load_teacher(str(tmp_path / "t"))
    resolved = {**dataclasses.asdict(config), "freeze_feature_encoder": False}  # it is fresh
    assert described.training == {**resolved, "crops": [[1.0, 1]]}
    assert described == dataclasses.replace(info, training=described.training)
    assert (described.labels, described.dataset, described.manifest_sha256) == (
        tiny_data.info.labels,
        "tiny",
        tiny_data.sha256(),
    )
    inputs, _ = waveforms(8000)
    encoder = AutoModel.from_pretrained(tmp_path / "t").eval()
    assert torch.equal(encoder(inputs).last_hidden_state, teacher.encoder(inputs).last_hidden_state)
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "t").do_normalize
    assert evaluate_teacher(teacher, tiny_data, "test").value == pytest.approx(info.test, abs=1e-4)
    assert evaluate_teacher(teacher, tiny_data, "validation").value == pytest.approx(info.validation, abs=1e-4)


def test_a_pretrained_base_with_mean_readout_saved_as_float16(tiny_data, config, tmp_path):
    base = tiny_folder(tmp_path / "base", "abc", num_hidden_layers=1)
    config = dataclasses.replace(
        config, base=str(base), readout="mean", half=True, crops=(), bfloat16=True, learning_rate=1e-6
    )
    train_teacher(tiny_data, config, tmp_path / "t")
    weights = load_file(tmp_path / "t" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    for name, tensor in load_file(base / "model.safetensors").items():
        if name.startswith("wav2vec2."):  # hardly moved from where it began
            torch.testing.assert_close(weights[name].float(), tensor, atol=2e-3, rtol=2e-3)
    assert load_teacher(str(tmp_path / "t"))[0].readout == "mean"


def epochs_in(log):
    return [line for line in log.splitlines() if line.startswith("epoch ")]


def killed_when(file, *arguments):
    """Runs `tkd` in a process of its own and kills it as soon as `file` is there."""
    code = "from pipeline.cli.main import tkd; tkd()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    try:
        until(file.exists, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(tiny_data, config, tmp_path, capfd):
    config = dataclasses.replace(
        config,
        epochs=5,
        patience=5,
        batch_size=8,
        gradient_accumulation_steps=2,
        gradient_checkpointing=True,
        freeze_encoder_steps=7,
    )
    killed_when(
        tmp_path / "t.partial" / "checkpoint-6" / "trainer_state.json",
        *("teacher", "train", "--data", tiny_data.root, "--out", tmp_path / "t", "--base", config.base),
        *("--crops", "1:1", "--epochs", 5, "--batch-size", 8, "--learning-rate", 1e-3, "--patience", 5),
        *("--gradient-accumulation-steps", 2, "--gradient-checkpointing", "--freeze-encoder-steps", 7),
    )
    assert not (tmp_path / "t").exists()
    checkpoints = (tmp_path / "t.partial").glob("checkpoint-*")
    whole = [path for path in checkpoints if (path / "trainer_state.json").exists()]
    assert len(whole) < 6, "the training was killed too late for this test"
    # A checkpoint is written trainer_state.json last: this one lacks it, the next has half of it.
    shutil.copytree(whole[0], tmp_path / "t.partial" / "checkpoint-98")
    (tmp_path / "t.partial" / "checkpoint-98" / "trainer_state.json").unlink()
    shutil.copytree(whole[0], tmp_path / "t.partial" / "checkpoint-99")
    state = tmp_path / "t.partial" / "checkpoint-99" / "trainer_state.json"
    state.write_bytes(state.read_bytes()[:100])

    for changed in ({"learning_rate": 2e-3}, {"epochs": 6}, {"seed": 1}, {"crops": ()}):
        with pytest.raises(TkdError, match=f"interrupted training with other settings: {next(iter(changed))}. Repeat"):
            train_teacher(tiny_data, dataclasses.replace(config, **changed), tmp_path / "t")
    fewer = dataclasses.replace(tiny_data, clips=tiny_data.clips[1:])
    with pytest.raises(TkdError, match="other settings: dataset"):
        train_teacher(fewer, config, tmp_path / "t")
    encoder = (tmp_path / "tiny.json").read_text()
    (tmp_path / "tiny.json").write_text(encoder.replace('"hidden_dropout": 0.1', '"hidden_dropout": 0.0'))
    with pytest.raises(TkdError, match="other settings: encoder"):
        train_teacher(tiny_data, config, tmp_path / "t")
    (tmp_path / "tiny.json").write_text(encoder)

    capfd.readouterr()
    resumed = train_teacher(tiny_data, config, tmp_path / "t")
    err = capfd.readouterr().err
    assert "checkpoint-98: half-written, removed" in err and "checkpoint-99: half-written, removed" in err
    assert "epoch 1 of 6" not in err and "epoch 6 of 6" in err
    assert train_teacher(tiny_data, config, tmp_path / "u") == resumed
    # The best epoch may lie before the kill, so the losses of those after it are compared too.
    after, throughout = epochs_in(err), epochs_in(capfd.readouterr().err)
    assert len(throughout) == 6 and after == throughout[-len(after) :]
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in "tu")
    assert ours.keys() == theirs.keys()
    assert max((ours[key] - theirs[key]).abs().max().item() for key in ours) == 0
    assert folders(tmp_path) == ["t", "u"]


def test_an_existing_teacher_is_replaced_only_by_force_and_by_a_whole_one(tiny_data, config, tmp_path):
    folder = tiny_folder(tmp_path / "t", "abc")
    with pytest.raises(TkdError, match=r"already there. Train again with --force"):
        train_teacher(tiny_data, config, folder)
    with pytest.raises(TkdError, match="no encoder could be loaded"):
        train_teacher(tiny_data, dataclasses.replace(config, base="none.json"), folder, force=True)
    assert load_teacher(str(folder))[1].labels == ("a", "b", "c")
    train_teacher(tiny_data, dataclasses.replace(config, crops=()), folder, force=True)
    assert load_teacher(str(folder))[1].labels == tiny_data.info.labels


def test_force_never_replaces_what_is_no_teacher(tiny_data, config, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("years of work")
    for name in ("home", "file", "."):
        with pytest.raises(TkdError, match="--force replaces only teachers"):
            train_teacher(tiny_data, config, tmp_path / name, force=True)
    (tmp_path / "home").rename(tmp_path / "t.partial")
    for force in (False, True):
        with pytest.raises(TkdError, match=r"t.partial: in the way, and no interrupted training"):
            train_teacher(tiny_data, config, tmp_path / "t", force)
    assert (tmp_path / "t.partial" / "thesis.txt").exists() and (tmp_path / "file").exists()


def test_a_wrong_base_leaves_nothing_behind(tiny_data, config, tmp_path):
    (tmp_path / "plain.json").write_text(tiny_config(mask_time_prob=0.0).to_json_string())
    before = sorted(tmp_path.iterdir())
    for base, seconds, message in (
        ("none.json", 1.0, "no encoder could be loaded"),
        (str(tmp_path / "plain.json"), 0.03, r"crops of 0.03 s: training this encoder takes 0.0325 s"),
        (config.base, 0.2, r"crops of 0.2 s: training this encoder takes 0.2125 s"),  # ten frames
    ):
        wrong = dataclasses.replace(config, base=base, crops=((seconds, 1),))
        with pytest.raises(TkdError, match=message):
            train_teacher(tiny_data, wrong, tmp_path / "t")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("model_type", ["data2vec-audio", "hubert", "wavlm", "unispeech-sat"])
def test_other_encoders_of_the_family_train(tiny_data, config, tmp_path, model_type):
    (tmp_path / "other.json").write_text(tiny_config(model_type, num_hidden_layers=1).to_json_string())
    config = dataclasses.replace(config, base=str(tmp_path / "other.json"), crops=(), gradient_checkpointing=True)
    train_teacher(tiny_data, config, tmp_path / "t")
    assert load_teacher(str(tmp_path / "t"))[0].encoder.config.model_type == model_type


def test_a_training_that_diverges_is_an_error_and_no_teacher(tiny_data, config, tmp_path):
    with pytest.raises(TkdError, match=r"the training diverged: weights are NaN or infinite. Lower --learning-rate"):
        train_teacher(tiny_data, dataclasses.replace(config, crops=(), learning_rate=1e9), tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_an_out_that_cannot_be_made_is_one_line(tiny_data, config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TkdError, match=r"t: cannot be written \((Not a directory|File exists)\). Give another --out"):
        train_teacher(tiny_data, config, tmp_path / "file" / "t")


def test_a_full_disk_is_one_line(tiny_data, config, tmp_path):
    """On a file system of 200 kB, made in a mount namespace that ends with the process."""
    script = 'mount -t tmpfs -o size=200k tmpfs "$0" && cd "$0" && "$@"'
    (tmp_path / "small").mkdir()
    mounted = ["unshare", "-Urm", "sh", "-c", script, str(tmp_path / "small")]
    if subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    code = "from pipeline.cli.main import tkd; tkd()"
    arguments = ["teacher", "train", "--data", tiny_data.root, "--base", config.base, "--out", "t", "--epochs", 1]
    done = subprocess.run(
        [*mounted, sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("Error: The disk is full (t.partial). Free some space"), done.stderr
    assert "Traceback" not in done.stderr


def test_a_large_file_that_does_not_fit_is_a_full_disk(tmp_path):
    """As safetensors says it, which leaves as much free as there was."""
    said = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(OSError, match="No space left") as failure, named_failures(tmp_path):
        raise SafetensorError(said)
    assert (failure.value.errno, failure.value.filename) == (errno.ENOSPC, str(tmp_path))


def without(manifest: Manifest, split: str) -> Manifest:
    return dataclasses.replace(manifest, clips=tuple(clip for clip in manifest.clips if clip.split != split))


def with_short_clip(manifest: Manifest) -> Manifest:
    return dataclasses.replace(manifest, clips=(*manifest.clips, Clip("blip", "train", (0,), 100)))


def multi_label(manifest: Manifest) -> Manifest:
    """The same clips; every other one has a second label, every sixth none."""
    labels = [
        (*clip.labels, 0) if i % 2 else () if i % 6 == 0 else clip.labels for i, clip in enumerate(manifest.clips)
    ]
    clips = [dataclasses.replace(clip, labels=of) for clip, of in zip(manifest.clips, labels, strict=True)]
    return dataclasses.replace(
        manifest, info=dataclasses.replace(manifest.info, task="multi_label"), clips=tuple(clips)
    )


def without_test_labels(manifest: Manifest) -> Manifest:
    clips = [dataclasses.replace(clip, labels=()) if clip.split == "test" else clip for clip in manifest.clips]
    return dataclasses.replace(multi_label(manifest), clips=tuple(clips))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: without(m, "validation"), "no validation clips with a label"),
        (lambda m: without(m, "test"), "no test clips"),
        (with_short_clip, r"1 clips are shorter than the 3400 samples needed: blip \(100\)"),
        (without_test_labels, "no test clips with a label"),
    ],
)
def test_a_dataset_that_cannot_train_a_teacher_is_refused(tiny_data, config, tmp_path, change, message):
    with pytest.raises(TkdError, match=message):
        train_teacher(change(tiny_data), config, tmp_path / "t")
    assert folders(tmp_path) == []


@pytest.mark.parametrize(
    ("option", "code"),
    [
        (("--readout", "last"), 2),
        (("--epochs", "0"), 2),
        (("--batch-size", "0"), 2),
        (("--learning-rate", "0"), 2),
        (("--learning-rate", "nan"), 2),
        (("--seed", "-1"), 2),
        (("--seed", str(2**32)), 2),
        (("--crops", "1:x"), 2),
        (("--crops", "nan:1"), 2),
        (("--crops", "0.001:1"), 1),
        (("--base", "nosuch.json"), 1),
        (("--data", "nosuch"), 1),
    ],
)
def test_one_wrong_option_is_one_line_and_an_exit_code(tiny_data, tmp_path, option, code):
    result = command("teacher", "train", "--data", tiny_data.root, "--out", tmp_path / "t", *option)
    assert (result.exit_code, result.stdout) == (code, "")
    assert ("Usage:" in result.stderr) == (code == 2)
    assert len([line for line in result.stderr.splitlines() if line.startswith("Error")]) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", [("teacher", "train"), ("teacher", "evaluate"), ("cache", "build")])
def test_every_command_has_help_with_an_example_and_defaults_that_are_the_librarys(names):
    result = command(*names, "--help")
    assert result.exit_code == 0 and f"Example:\n    tkd {' '.join(names)}" in result.stdout
    if names == ("teacher", "evaluate"):
        return
    stage = tkd.commands[names[0]].commands[names[1]]
    given = stage.make_context("tkd", ["--data", "d", "--out", "o"]).params
    defaults = dataclasses.asdict({"train": TeacherConfig(), "build": BuildConfig()}[names[1]])
    shared = given.keys() & defaults.keys()
    assert {"bfloat16", "batch_size"} <= shared
    assert {name: given[name] for name in shared} == {name: defaults[name] for name in shared}


def test_evaluate_prints_scores(tiny_data, tmp_path):
    folder = tiny_folder(tmp_path / "t", tiny_data.info.labels)
    scores = evaluate_teacher(load_teacher(str(folder))[0], tiny_data, "validation")
    arguments = ("teacher", "evaluate", "--data", tiny_data.root, "--teacher", folder, "--split", "validation")
    assert command(*arguments).stdout == (
        f"validation, 24 clips: accuracy {scores.value:.4f}; attention in event {scores.attention_in_event:.3f} "
        f"(uniform attention: {scores.uniform_attention_in_event:.3f})\n"
    )
    assert json.loads(command(*arguments, "--json").stdout) == dataclasses.asdict(scores)
    assert command("teacher", "evaluate", "--data", tiny_data.root, "--teacher", "bundle").exit_code == 1
    assert command("teacher", "evaluate", "--data", tiny_data.root, "--split", "tset").exit_code == 2


def test_uniform_attention_is_the_events_share_of_the_frames(tiny_data):
    teacher = load_teacher("bundled")[0]
    clips = [clip for clip in tiny_data.split("test") if clip.event_start >= 0]
    centres = (teacher.min_samples - 1) / 2 + 320 * np.arange(1, teacher.n_frames(32000))
    shares = [np.mean((centres >= clip.event_start) & (centres < clip.event_stop)) for clip in clips]
    assert evaluate_teacher(teacher, tiny_data, "test").uniform_attention_in_event == pytest.approx(np.mean(shares))


def test_scores_without_known_events_are_valid_json_and_no_warning(tiny_data, tmp_path, recwarn):
    root = tmp_path / "d"
    shutil.copytree(tiny_data.root, root)
    unknown = [dataclasses.replace(clip, event_start=-1, event_stop=-1) for clip in tiny_data.clips]
    write_manifest(root, tiny_data.info, unknown)
    printed = command("teacher", "evaluate", "--data", root, "--json").stdout
    scores = json.loads(printed, parse_constant=pytest.fail)
    assert scores["attention_in_event"] is None and scores["uniform_attention_in_event"] is None
    assert command("teacher", "evaluate", "--data", root).stdout.endswith(f"accuracy {scores['value']:.4f}\n")
    assert not [warning for warning in recwarn if "empty" in str(warning.message)]


def test_a_teacher_of_other_labels_cannot_be_scored(tiny_data, tmp_path):
    result = command("teacher", "evaluate", "--data", tiny_data.root, "--teacher", tiny_folder(tmp_path / "t", "abc"))
    assert result.exit_code == 1 and "knows a, b, c; dataset" in result.stderr


def test_the_best_checkpoint_is_found_where_it_is_now(tmp_path):
    """The Trainer notes its absolute path, and takes the last one's weights for the best where that is gone."""
    for step in (3, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
    state = {"best_model_checkpoint": "/elsewhere/t.partial/checkpoint-3", "epoch": 2.0}
    (tmp_path / "checkpoint-20" / "trainer_state.json").write_text(json.dumps(state))
    find_best_checkpoint(tmp_path)
    found = json.loads((tmp_path / "checkpoint-20" / "trainer_state.json").read_text())
    assert found == {**state, "best_model_checkpoint": str(tmp_path / "checkpoint-3")}


@pytest.mark.parametrize("masks", [True, False])
def test_what_gets_no_gradient_is_not_trained(tiny_data, config, tmp_path, masks):
    """Several processes would wait for it in every step."""
    teacher = load_teacher(str(tiny_folder(tmp_path / "t", tiny_data.info.labels)))[0]
    teacher.encoder.config.apply_spec_augment, teacher.encoder.config.mask_time_prob = masks, 0.5
    _trainer(teacher, tiny_data, dataclasses.replace(config, freeze_feature_encoder=False), tmp_path / "work")
    assert teacher.encoder.masked_spec_embed.requires_grad is masks
