"""Fine-tuning a pretrained encoder: what moves and what does not, what an update is made of, when it ends."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file
from test_teacher_families import PRETRAINING, hub_folder
from test_teacher_model import tiny_config
from test_teacher_training import command, epochs_in, multi_label
from transformers import TrainingArguments

from pipeline.data.manifest import write_manifest
from pipeline.errors import TkdError
from pipeline.extract.evaluate import evaluate_teacher
from pipeline.teacher.base import default_base
from pipeline.teacher.config import TeacherConfig
from pipeline.teacher.machine import one_gpu
from pipeline.teacher.model import load_teacher
from pipeline.teacher.train import _encoder_name, train_teacher

# Nothing is drawn at random while it trains, so that two ways to the same update can be compared.
DROPOUT = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout")
CALM = dict.fromkeys([*DROPOUT, "layerdrop", "mask_time_prob"], 0.0)


@pytest.fixture
def base(tmp_path):
    """A checkpoint as XLSR-53 is published: with heads and a quantiser, layer norm."""
    config = tiny_config(num_hidden_layers=2, **PRETRAINING, **CALM)
    torch.manual_seed(5)
    return hub_folder(tmp_path / "base", transformers.Wav2Vec2ForPreTraining(config))


@pytest.fixture
def config(base):
    """Three updates an epoch."""
    return TeacherConfig(base=str(base), epochs=1, batch_size=16, learning_rate=1e-3)


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def moved(base, teacher):
    """The parts of the encoder that are not as they were."""
    before, after = weights_of(base), weights_of(teacher)
    names = [name for name in after if not name.startswith("classifier.")]
    return {name.split(".")[1] for name in names if not torch.equal(before[name], after[name])}


def furthest(ours, theirs):
    ours, theirs = weights_of(ours), weights_of(theirs)
    assert ours.keys() == theirs.keys()
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_both_tasks_train_with_everything_that_saves_memory(tiny_data, base, tmp_path, task):
    root = tmp_path / "data"
    shutil.copytree(tiny_data.root, root)
    manifest = tiny_data if task == "single_label" else multi_label(tiny_data)
    write_manifest(root, manifest.info, list(manifest.clips))
    options = (
        "--gradient-checkpointing --gradient-accumulation-steps 2 --freeze-encoder-steps 1 --patience 3 --workers 1"
    )
    done = command(
        *("teacher", "train", "--data", root, "--base", base, "--out", tmp_path / "t", "--epochs", 1, "--bfloat16"),
        *(*options.split(), "--batch-size", 8, "--learning-rate", 1e-3),
    )
    teacher, info, _ = load_teacher(str(tmp_path / "t"))
    metric = {"single_label": "accuracy", "multi_label": "mAP"}[task]
    assert (info.task, info.metric, teacher.task) == (task, metric, task) and 0 < info.test < 1
    assert done.stdout == f"{tmp_path / 't'}: {metric} {info.validation:.4f} validation, {info.test:.4f} test\n"
    assert moved(base, tmp_path / "t") == {"feature_projection", "encoder"}
    assert list((tmp_path / "t" / "runs").rglob("events.out.tfevents.*"))


def test_accumulated_batches_make_the_update_of_one_larger_batch(tiny_data, config, tmp_path):
    """However the memory is saved, and whoever decodes."""
    config = dataclasses.replace(config, epochs=2)
    train_teacher(tiny_data, config, tmp_path / "one")
    small = dataclasses.replace(
        config, batch_size=4, gradient_accumulation_steps=4, gradient_checkpointing=True, workers=2
    )
    train_teacher(tiny_data, small, tmp_path / "four")
    assert furthest(tmp_path / "one", tmp_path / "four") < 2e-5
    other = dataclasses.replace(config, batch_size=4)
    train_teacher(tiny_data, other, tmp_path / "other")
    assert furthest(tmp_path / "one", tmp_path / "other") > 1e-3


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({}, {"feature_projection", "encoder"}),
        ({"freeze_feature_encoder": False}, {"feature_extractor", "feature_projection", "encoder"}),
        ({"freeze_encoder_steps": 3}, set()),
        ({"freeze_encoder_steps": 2}, {"feature_projection", "encoder"}),
    ],
)
def test_what_is_frozen_does_not_move(tiny_data, config, base, tmp_path, changes, parts):
    """There are three updates: after three of the classifier alone the encoder is as it was, after two it is not."""
    train_teacher(tiny_data, dataclasses.replace(config, **changes), tmp_path / "t")
    assert moved(base, tmp_path / "t") == parts


def interrupted(manifest, config, tmp_path):
    """Leaves a training behind that ended its last epoch, and then found a test recording missing."""
    root = tmp_path / "data"
    shutil.copytree(manifest.root, root)
    recording = root / next(clip.speech_file for clip in manifest.split("test") if clip.speech_file)
    recording.unlink()
    with pytest.raises(TkdError, match=re.escape(recording.name)):
        train_teacher(dataclasses.replace(manifest, root=root), config, tmp_path / "t")


def test_training_stops_when_the_score_does_and_a_stopped_one_is_not_gone_on_with(tiny_data, config, tmp_path, capfd):
    stuck = dataclasses.replace(config, crops=((1.0, 2),), epochs=9, patience=1, learning_rate=1e-9)
    interrupted(tiny_data, stuck, tmp_path)
    assert [line.split(":")[0] for line in epochs_in(capfd.readouterr().err)] == [f"epoch {n} of 11" for n in (1, 2, 3)]
    resumed = train_teacher(tiny_data, stuck, tmp_path / "t")
    assert epochs_in(capfd.readouterr().err) == []
    assert train_teacher(tiny_data, stuck, tmp_path / "u") == resumed
    assert furthest(tmp_path / "t", tmp_path / "u") == 0


def test_another_base_of_the_same_name_is_not_gone_on_with(tiny_data, config, base, tmp_path):
    interrupted(tiny_data, config, tmp_path)
    shutil.rmtree(base)
    hub_folder(base, transformers.Wav2Vec2ForPreTraining(tiny_config(num_hidden_layers=2, **PRETRAINING, **CALM)))
    with pytest.raises(TkdError, match="interrupted training with other settings: base_weights"):
        train_teacher(tiny_data, config, tmp_path / "t")
    assert train_teacher(tiny_data, config, tmp_path / "t", force=True)


def test_two_processes_make_the_teacher_of_one(tiny_data, config, base, tmp_path):
    """torchrun on CPUs: half the batch each, the same updates; the first process alone writes and reports."""
    arguments = ["teacher", "train", "--data", tiny_data.root, "--base", base, "--learning-rate", 1e-3, "--epochs", 1]
    arguments += ["--freeze-encoder-steps", 1, "--batch-size", 8, "--out", tmp_path / "two"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "pipeline.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert len(epochs_in(done.stderr)) == 1 and "Traceback" not in done.stderr
    info = train_teacher(tiny_data, dataclasses.replace(config, freeze_encoder_steps=1), tmp_path / "one")
    assert done.stdout == f"{tmp_path / 'two'}: accuracy {info.validation:.4f} validation, {info.test:.4f} test\n"
    assert furthest(tmp_path / "one", tmp_path / "two") < 2e-5
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["base", "one", "two"]


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_the_reported_score_is_that_of_one_clip_at_a_time(tiny_data, config, tmp_path, norm):
    """Also where padding is heard (feat_extract_norm "group"), in training and in scoring, on clips of many lengths."""
    changes = {"feat_extract_norm": "group", "do_stable_layer_norm": False} if norm == "group" else {}
    (tmp_path / "base.json").write_text(tiny_config(num_hidden_layers=2, **CALM, **changes).to_json_string())
    clips = [
        dataclasses.replace(clip, n_samples=clip.n_samples - 300 * i, event_start=-1, event_stop=-1)
        for i, clip in enumerate(tiny_data.clips)
    ]
    ragged = dataclasses.replace(tiny_data, clips=tuple(clips))
    settings = dataclasses.replace(config, base=str(tmp_path / "base.json"), epochs=2, remix=False, learning_rate=3e-3)
    info = train_teacher(ragged, settings, tmp_path / "t")
    teacher = load_teacher(str(tmp_path / "t"))[0]
    assert info.validation == pytest.approx(evaluate_teacher(teacher, ragged, "validation").value, abs=1e-4)
    assert info.test == pytest.approx(evaluate_teacher(teacher, ragged, "test").value, abs=1e-4)


def test_the_published_sets_start_from_xlsr(tiny_data, tmp_path):
    assert default_base("speech_commands_v2") == default_base("nscv2") == default_base("fsd50k")
    assert default_base("mini") == "bundled"
    named = dataclasses.replace(tiny_data, info=dataclasses.replace(tiny_data.info, name="nscv2"))
    with pytest.raises(TkdError, match="facebook/wav2vec2-large-xlsr-53: no encoder could be loaded"):
        train_teacher(named, TeacherConfig(), tmp_path / "t")  # offline


def test_float16_needs_a_gpu_and_excludes_bfloat16(tiny_data, config, tmp_path):
    if torch.accelerator.is_available():
        pytest.skip("there is one here")
    with pytest.raises(TkdError, match=r"float16: trains on a GPU, and none is here\. Give --bfloat16"):
        train_teacher(tiny_data, dataclasses.replace(config, float16=True), tmp_path / "t")
    both = command("teacher", "train", "--data", tiny_data.root, "--out", "o", "--float16", "--bfloat16")
    assert both.exit_code == 2 and "mixed precision is one of them" in both.stderr


def test_one_of_several_gpus_is_used_without_torchrun(tmp_path, capfd):
    arguments = TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=3, use_cpu=True)
    arguments._n_gpu = 4  # as where four are visible
    assert one_gpu(arguments).train_batch_size == 3
    assert "One of 4 GPUs is used. For all: torchrun --nproc_per_node 4 -m pipeline.cli.main" in capfd.readouterr().err


def test_what_is_made_of_the_bundled_teacher_is_not_called_bundled(tmp_path):
    (tmp_path / "größe").mkdir()
    names = {"bundled": "small", "small": "small", "a/hub-name": "a/hub-name", str(tmp_path / "größe"): "größe"}
    assert {base: _encoder_name(base) for base in names} == names
