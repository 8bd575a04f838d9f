"""Verifying a cache: what passes, and that every kind of wrong is called by its name."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import soundfile
import torch
from test_teacher_model import tiny_folder
from test_teacher_training import command

from cache_schema import convert_cache, open_cache
from pipeline.data.manifest import Manifest, read_manifest, write_manifest
from pipeline.errors import TkdError
from pipeline.extract.build import build_cache
from pipeline.extract.config import BuildConfig
from pipeline.extract.verify import LIMITS, agreement, draw, verify_cache
from pipeline.teacher.model import load_teacher, save_teacher


def perturbed(folder, by: float) -> str:
    """A copy of the bundled teacher, each of its weights changed by a random share of itself."""
    teacher, info, _ = load_teacher("bundled")
    with torch.no_grad():
        for weights in teacher.parameters():
            weights.mul_(1 + by * torch.randn(weights.shape))
    folder.mkdir()
    save_teacher(teacher, info, folder)
    return str(folder)


def stating(cache, section, **changes):
    """The cache as if its metadata said something else."""
    return dataclasses.replace(cache, metadata={**cache.metadata, section: {**cache.metadata[section], **changes}})


def kinds(found) -> set[str]:
    return {problem.partition(":")[0] for problem in found.problems}


def test_a_cache_is_verified_with_its_teacher_and_its_data(tiny_cache, tiny_data):
    result = command("cache", "verify", tiny_cache, "--data", tiny_data.root)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"{tiny_cache}: verified on 32 clips"
    shown = command("cache", "verify", tiny_cache, "--data", tiny_data.root, "--clips", 4, "--json").stdout
    found = json.loads(shown, parse_constant=pytest.fail)
    assert found["verified"] is True and found["n_clips"] == 4 and found["problems"] == []
    assert found["arrays"].keys() == {"rollout", "head_weights", "logits", "features"}
    assert found["arrays"]["rollout"]["mean_kl"] < 1e-6 and found["arrays"]["features"]["worst_difference"] < 0.01


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
@pytest.mark.parametrize(
    "config",
    [
        BuildConfig(bfloat16=True, partition_size=16),
        BuildConfig(keep="layers", batch_size=5),
        BuildConfig(keep="rollout", with_features=False),
    ],
    ids=["bfloat16", "layers", "detached"],
)
def test_every_kind_of_cache_is_verified(tiny_data, tmp_path, config, suffix):
    build_cache(tiny_data, "bundled", tmp_path / f"c{suffix}", config)
    found = verify_cache(open_cache(tmp_path / f"c{suffix}"), tiny_data, "bundled", 12)
    assert found.problems == [] and found.n_clips == 12
    assert ("features" in found.arrays) == config.with_features
    assert ("layer_weights" in found.arrays) == (config.keep == "layers")


def test_a_copy_that_keeps_less_is_the_cache_built_so_and_is_verified(tiny_cache, tiny_data, tmp_path):
    config = BuildConfig(keep="rollout", with_features=False)
    built = build_cache(tiny_data, "bundled", tmp_path / "built.zarr", config)
    assert convert_cache(tiny_cache, tmp_path / "c.zarr", keep="rollout", with_features=False) == built.cache_id
    convert_cache(tiny_cache, tmp_path / "layers.zarr", keep="layers")
    for name in ("c.zarr", "layers.zarr"):
        assert verify_cache(open_cache(tmp_path / name), tiny_data, "bundled", 6).problems == []


def test_another_teacher_is_named_even_if_it_says_nearly_the_same(tiny_cache, tiny_data, tmp_path):
    near = perturbed(tmp_path / "near", 1e-5)
    result = command("cache", "verify", tiny_cache, "--data", tiny_data.root, "--teacher", near, "--clips", 6)
    assert result.exit_code == 1
    problems = [line for line in result.stdout.splitlines() if ": " in line]
    assert len(problems) == 1 and problems[0].startswith(f"teacher: {near} is not the cache's: its digest is ")
    assert result.stderr.endswith(f"Error: {tiny_cache}: not verified, 1 problems.\n")


def test_a_teacher_that_says_something_else_fails_on_the_figures_alone(tiny_cache, tiny_data, tmp_path):
    """A tenth of every weight: less than another seed changes."""
    other, cache = perturbed(tmp_path / "other", 0.1), open_cache(tiny_cache)
    found = verify_cache(stating(cache, "teacher", sha256=load_teacher(other)[2]), tiny_data, other, 12)
    assert kinds(found) == {"rollout", "head_weights", "logits"}


def test_a_teacher_of_other_sizes_is_named_and_its_arrays_are_not_compared(tiny_cache, tiny_data, tmp_path):
    folder = tiny_folder(tmp_path / "t", tiny_data.info.labels, readout="mean")
    found = verify_cache(open_cache(tiny_cache), tiny_data, str(folder), 4)
    assert any("has the readout mean, the cache's had first_token" in problem for problem in found.problems)
    assert "head_weights: the cache has other sizes than this teacher and dataset give." in found.problems


def test_a_dataset_of_other_labels_is_not_put_down_to_the_teacher(tiny_cache, tiny_data):
    info = dataclasses.replace(tiny_data.info, name="lamp", labels=("hey lamp", "other"))
    other = dataclasses.replace(tiny_data, info=info)
    with pytest.raises(TkdError, match="lamp has the labels hey lamp, other; the cache was built from tiny"):
        verify_cache(open_cache(tiny_cache), other, "bundled", 4)


def test_another_dataset_is_named_with_the_clips_it_lacks(tiny_cache, tiny_data):
    fewer: Manifest = dataclasses.replace(tiny_data, clips=tiny_data.clips[7:])
    found = verify_cache(open_cache(tiny_cache), fewer, "bundled", 9)
    assert kinds(found) == {"dataset"} and found.n_clips == 9
    assert found.problems[0].startswith(f"dataset: {tiny_data.root} is not the cache's: its digest is ")
    lost = ", ".join(clip.clip_id for clip in tiny_data.clips[:5])
    assert found.problems[1] == f"dataset: 7 clips of the cache are not in {tiny_data.root}: {lost}, ..."
    none = dataclasses.replace(
        tiny_data, clips=tuple(dataclasses.replace(clip, clip_id=f"x{clip.clip_id}") for clip in tiny_data.clips)
    )
    found = verify_cache(open_cache(tiny_cache), none, "bundled")
    assert found.n_clips == 0 and found.arrays == {} and "96 clips of the cache are not in" in found.problems[1]


def test_other_recordings_are_listed_clip_by_clip(tiny_cache, tiny_data, tmp_path):
    root = tmp_path / "d"
    shutil.copytree(tiny_data.root, root)
    clips = [clip for clip in tiny_data.clips if clip.speech_file]
    changed = clips[5].speech_file
    audio, rate = soundfile.read(root / changed)
    soundfile.write(root / changed, 0.999 * audio, rate)  # heard by no one
    found = verify_cache(open_cache(tiny_cache), read_manifest(root), "bundled", 96)
    affected = [clip.clip_id for clip in tiny_data.clips if clip.speech_file == changed]
    assert found.problems == [
        f"audio: clip {clip_id} is not the recording that the cache was made from." for clip_id in affected
    ]


def test_another_front_end_is_named(tiny_cache, tiny_data):
    cache = open_cache(tiny_cache)
    found = verify_cache(stating(cache, "features", floor=1e-11), tiny_data, "bundled", 4)
    assert "front end: floor is 1e-11, would be 1e-12 with this tkd." in found.problems
    found = verify_cache(stating(cache, "features", f_max=4000.0), tiny_data, "bundled", 4)
    assert kinds(found) == {"front end", "features"}
    found = verify_cache(stating(cache, "features", kind="mfcc", n_mfcc=13), tiny_data, "bundled", 4)
    assert kinds(found) == {"front end"} and len(found.problems) == 2 and "features" not in found.arrays


def test_rows_that_were_exchanged_fail_on_the_figures(tiny_data, tiny_cache, tmp_path):
    clips = list(tiny_data.clips)
    first, second = clips[:2]  # of one split
    clips[:2] = [dataclasses.replace(second, clip_id=first.clip_id), dataclasses.replace(first, clip_id=second.clip_id)]
    found = verify_cache(open_cache(tiny_cache), dataclasses.replace(tiny_data, clips=tuple(clips)), "bundled", 96)
    assert kinds(found) == {"dataset", "audio", "rollout", "head_weights", "logits", "features"}


def test_the_sample_is_spread_over_the_splits_and_drawn_by_the_seed(tiny_cache):
    cache = open_cache(tiny_cache)  # 48, 24, 24
    rows = draw(cache, range(96), 12, seed=1)
    assert np.bincount(cache.read("split")[rows]).tolist() == [4, 4, 4] and rows == sorted({*rows})
    assert rows == draw(cache, range(96), 12, seed=1) != draw(cache, range(96), 12, seed=2)
    assert np.bincount(cache.read("split")[draw(cache, range(96), 80, seed=1)]).tolist() == [32, 24, 24]
    assert draw(cache, range(96), 1000, seed=1) == list(range(96))
    assert draw(cache, [3, 90], 10, seed=1) == [3, 90]


def test_the_figures_are_their_definitions():
    now, cached = np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([[0.5, 0.5], [0.5, 0.5]])
    kl = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    cosine = 0.5 / math.sqrt(0.5 * (0.25**2 + 0.75**2))
    found = agreement("layer_weights", [(now, cached)])
    assert (found.mean_kl, found.worst_kl) == pytest.approx((kl / 2, kl))
    assert (found.mean_cosine, found.worst_cosine) == pytest.approx(((1 + cosine) / 2, cosine))
    found = agreement("logits", [(np.array([3.0, 4.0]), np.array([4.0, 3.0])), (np.ones(2), np.ones(2))])
    assert (found.worst_cosine, found.worst_difference, found.mean_kl) == (pytest.approx(0.96), 1.0, None)
    assert LIMITS.keys() == {"rollout", "layer_weights", "head_weights", "logits", "features"}


def test_a_dataset_of_other_labels_is_refused(tiny_cache, tiny_data, tmp_path):
    info = dataclasses.replace(tiny_data.info, labels=tiny_data.info.labels[::-1])
    (tmp_path / "d").mkdir()
    write_manifest(tmp_path / "d", info, list(tiny_data.clips))
    result = command("cache", "verify", tiny_cache, "--data", tmp_path / "d")
    assert result.exit_code == 1 and "the dataset tiny has the labels go, " in result.stderr
