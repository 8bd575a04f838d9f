"""Clips with any number of labels, from the manifest through the teacher and the cache to a student and its report."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from test_teacher_model import tiny_teacher
from test_teacher_training import command

from cache_schema import describe_cache, open_cache, validate_cache
from pipeline.data.clip import Clip
from pipeline.data.manifest import DatasetInfo, Manifest, read_manifest, write_manifest
from pipeline.distill.config import TrainConfig
from pipeline.distill.data import CacheDataset, load_splits
from pipeline.distill.run import read_run
from pipeline.distill.train import train
from pipeline.errors import TkdError
from pipeline.extract.build import build_cache
from pipeline.extract.config import BuildConfig
from pipeline.extract.evaluate import evaluate_teacher
from pipeline.tasks import mean_average_precision
from pipeline.teacher.model import TeacherInfo, load_teacher, save_teacher

LABELS = ("low", "mid", "high", "never tested")
TONES = (300, 900, 2700)  # Hz
N_CLIPS = {"train": 128, "validation": 32, "test": 32}
SETTINGS = TrainConfig(student="tc_resnet", epochs=4, batch_size=16, augment=())


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory) -> Manifest:
    """Clips of 0.8 s in which some of three tones sound, or none: each in a part of its own, so that they overlap."""
    root = tmp_path_factory.mktemp("data") / "tönend"
    root.mkdir()
    rng, clips = np.random.default_rng(0), []
    for split, n in N_CLIPS.items():
        for i in range(n):
            audio, heard = 0.02 * rng.standard_normal(12800), rng.random(3) < 0.4
            for label in np.flatnonzero(heard):
                start, length = rng.integers(0, 6400), rng.integers(3200, 6400)
                audio[start : start + length] += 0.2 * np.sin(2 * np.pi * TONES[label] / 16000 * np.arange(length))
            soundfile.write(root / f"{split}{i}.flac", audio, 16000)
            labels = (*np.flatnonzero(heard).tolist(), *([3] if split == "train" and i % 2 else []))
            clips.append(Clip(f"{split}{i}", split, labels, 12800, f"{split}{i}.flac"))
    write_manifest(root, DatasetInfo("tönend", "multi_label", LABELS, "CC0"), clips)
    return read_manifest(root)


@pytest.fixture(scope="module")
def teacher(overlapping, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("teacher")
    info = TeacherInfo("tiny", LABELS, "multi_label", "first_token", "none", "0" * 64, "mAP", 0.5, 0.5, {"epochs": 1})
    model = tiny_teacher(n_classes=len(LABELS))
    model.do_normalize = False  # as WavLM BASE; whoever runs the teacher must know
    save_teacher(model, info, folder)
    return str(folder)


@pytest.fixture(scope="module")
def caches(overlapping, teacher, tmp_path_factory):
    folder, config = tmp_path_factory.mktemp("caches"), BuildConfig(keep="rollout", partition_size=4)
    paths = [folder / f"multi{suffix}" for suffix in (".zarr", ".h5")]
    assert len({build_cache(overlapping, teacher, path, config).cache_id for path in paths}) == 1
    return [open_cache(path) for path in paths]


@pytest.fixture(scope="module")
def run(caches, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    train(caches[0], SETTINGS, out)
    return out


def test_the_cache_holds_all_labels_of_a_clip(overlapping, caches):
    for cache in caches:
        assert validate_cache(cache.path) == [] and cache.task == "multi_label"
        assert "label" not in describe_cache(cache.path)["arrays"]
        stored = cache.read("labels")
        assert [tuple(row.nonzero()[0]) for row in stored] == [clip.labels for clip in overlapping.clips]
        split, row = load_splits(cache)["validation"], 128 + 5
        assert split.take([5]).labels.tolist() == [stored[row].tolist()]
        assert CacheDataset(cache, "validation")[5]["labels"].tolist() == stored[row].tolist()


def test_a_view_has_all_labels_of_its_clip(overlapping, teacher, tmp_path):
    few = dataclasses.replace(overlapping, clips=overlapping.clips[::4])
    build_cache(few, teacher, tmp_path / "c.zarr", BuildConfig(keep="rollout", views=1))
    cache = open_cache(tmp_path / "c.zarr")
    labels = dict(zip(cache.read("clip_id"), cache.read("labels").tolist(), strict=True))
    assert validate_cache(tmp_path / "c.zarr") == []
    assert sum(labels[name.removesuffix("#1")] == labels[name] for name in labels if "#" in name) == 32
    assert load_splits(cache)["train"].n_clips == 32


def test_the_teachers_score_is_macro_map(overlapping, teacher, caches, run):
    """From the recordings, and, to what float16 moves, from the cached logits."""
    rows = caches[0].split_rows("test")
    logits, labels = (torch.from_numpy(caches[0].read(name)[rows]) for name in ("logits", "labels"))
    cached = mean_average_precision(logits.float(), labels)
    heard = evaluate_teacher(load_teacher(teacher)[0], overlapping, "test")
    assert (heard.metric, heard.n_clips) == ("mAP", 32)
    assert heard.value == pytest.approx(cached, abs=0.02)
    assert read_run(run).metrics["teacher"]["test"] == cached
    printed = command("teacher", "evaluate", "--data", overlapping.root, "--teacher", teacher)
    assert printed.stdout == f"test, 32 clips: mAP {heard.value:.4f}\n", printed.output


def test_a_student_learns_which_sounds_are_there(caches, run, overlapping):
    metrics = read_run(run).metrics
    chance = np.mean([[label in clip.labels for label in range(3)] for clip in overlapping.split("test")])
    assert metrics["metric"] == "mAP" and chance < 0.5
    assert metrics["test"] > 0.8 and metrics["validation"] > 0.8
    printed = command("evaluate", run, "--json")
    scores = json.loads(printed.stdout, parse_constant=pytest.fail)
    assert (scores["metric"], scores["value"]) == ("mAP", metrics["test"])
    assert command("evaluate", run).stdout.startswith(f"test, 32 clips: mAP {metrics['test']:.4f}")


def test_training_depends_neither_on_the_memory_nor_on_the_container(caches, run, tmp_path):
    with pytest.raises(TkdError) as refusal:
        load_splits(caches[0], memory=1)
    least = int(str(refusal.value).partition(" takes ")[2].partition(" bytes")[0].replace(",", ""))
    assert not load_splits(caches[1], memory=least)["train"].resident
    train(caches[1], SETTINGS, tmp_path / "streamed", memory=least)
    expected, found = (load_file(folder / "model.safetensors") for folder in (run, tmp_path / "streamed"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_report_names_the_metric_and_draws_clips_with_all_their_labels(run, tmp_path):
    result = command("report", run, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "| test mAP |" in result.stdout and "accuracy" not in result.stdout
    assert "mAP: the mean over the classes that the test split has" in result.stdout
    assert (tmp_path / "attention.png").stat().st_size > 10_000


@pytest.mark.parametrize("split", N_CLIPS)
def test_a_split_without_any_label_is_refused_before_the_work(overlapping, teacher, tmp_path, split):
    bare = [dataclasses.replace(clip, labels=()) if clip.split == split else clip for clip in overlapping.clips]
    manifest = dataclasses.replace(overlapping, clips=tuple(bare[::8]))
    build_cache(manifest, teacher, tmp_path / "c.zarr", BuildConfig(keep="rollout"))
    with pytest.raises(TkdError, match=rf"c.zarr: no {split} clip has a label\. Training needs some in every split"):
        train(open_cache(tmp_path / "c.zarr"), SETTINGS, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(TkdError, match=f"no {split} clips with a label. Choose another --split"):
        evaluate_teacher(load_teacher(teacher)[0], manifest, split)
