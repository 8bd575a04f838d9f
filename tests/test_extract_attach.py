"""Features for a cache that came without them: the same cache as one built with them, or nothing at all."""

import dataclasses
import json
import shutil
from functools import partial

import numpy as np
import pytest
import soundfile
import zarr
from test_extract_build import LABELS, UNEQUAL, files_of, recorded
from test_teacher_model import tiny_folder
from test_teacher_training import command

from cache_schema import convert_cache, describe_cache, open_cache, validate_cache
from pipeline.data.audio import render_clip, to_waveform
from pipeline.data.manifest import Manifest, read_manifest, write_manifest
from pipeline.errors import TkdError
from pipeline.extract.attach import attach_features, match_clips
from pipeline.extract.build import build_cache, build_partitions
from pipeline.extract.config import BuildConfig
from pipeline.extract.features import LogMel, LogMelConfig
from pipeline.extract.partitions import write_cache
from pipeline.extract.plan import plan_build


@pytest.fixture
def data(tmp_path) -> Manifest:
    return recorded(tmp_path / "data", UNEQUAL)


@pytest.fixture
def teacher(tmp_path) -> str:
    return str(tiny_folder(tmp_path / "t", LABELS))


@pytest.fixture
def detached(data, teacher, tmp_path):
    build_cache(data, teacher, tmp_path / "detached.zarr", BuildConfig(partition_size=4, with_features=False))
    return tmp_path / "detached.zarr"


def with_clips(manifest, root, clips) -> Manifest:
    """The dataset with other rows, in a folder of its own."""
    shutil.copytree(manifest.root, root)
    write_manifest(root, manifest.info, list(clips))
    return read_manifest(root)


@pytest.mark.parametrize("keep", ["rollout", "layers", "heads"])
def test_an_attached_cache_is_the_one_built_with_features_digest_for_digest(data, teacher, tmp_path, keep):
    config = BuildConfig(keep=keep, partition_size=4)
    build_cache(data, teacher, tmp_path / "whole.zarr", config)
    detached, new = tmp_path / "detached.zarr", tmp_path / "new.zarr"
    build = ("cache", "build", "--data", data.root, "--teacher", teacher, "--keep", keep, "--partition-size", 4)
    assert command(*build, "--no-features", "--out", detached).exit_code == 0
    assert "features" not in describe_cache(detached)["arrays"]
    result = command("cache", "attach", detached, "--data", data.root, "--out", new)
    cache_id = describe_cache(tmp_path / "whole.zarr")["cache_id"]
    assert (result.exit_code, result.stdout) == (0, f"{new}: complete, cache_id {cache_id}\n"), result.stderr
    assert validate_cache(new) == []
    attached, whole = files_of(new), files_of(tmp_path / "whole.zarr")
    attributes = [json.loads(files.pop("zarr.json"))["attributes"]["tkd_cache"] for files in (attached, whole)]
    software = [there.pop("software") for there in attributes]
    assert attached == whole and attributes[0] == attributes[1]
    assert software[0].pop("features").keys() == {"tkd", "torch", "torchaudio", "numpy"}
    assert software[0] == software[1]
    again = command("cache", "attach", detached, "--data", data.root, "--out", new)
    assert (again.exit_code, again.stdout) == (0, f"{new}: complete already, cache_id {cache_id}\n")


def test_attaching_leaves_the_open_source_as_it_is(data, detached, tmp_path, monkeypatch):
    source = open_cache(detached)
    monkeypatch.setattr("pipeline.extract.attach.open_cache", lambda _: source)
    before = json.dumps(source.metadata)
    attach_features(detached, data, tmp_path / "new.zarr")
    assert json.dumps(source.metadata) == before == json.dumps(open_cache(detached).metadata)


def test_containers_do_not_matter(data, teacher, detached, tmp_path):
    build_cache(data, teacher, tmp_path / "whole.zarr", BuildConfig(partition_size=4))
    convert_cache(detached, tmp_path / "detached.h5")
    built = attach_features(tmp_path / "detached.h5", data, tmp_path / "new.h5")
    assert built.cache_id == describe_cache(tmp_path / "whole.zarr")["cache_id"]
    assert validate_cache(tmp_path / "new.h5") == []


def test_clips_under_other_names_are_found_by_their_audio_unless_strict(data, detached, tmp_path):
    renamed = [dataclasses.replace(clip, clip_id=f"mine-{i:03d}") for i, clip in enumerate(reversed(data.clips))]
    swapped = [dataclasses.replace(renamed[0], clip_id="c00000"), *renamed[1:]]  # a name of the cache's, other audio
    mine = with_clips(data, tmp_path / "mine", [*swapped, dataclasses.replace(renamed[0], noise_offset=5)])
    built = attach_features(detached, mine, tmp_path / "a.zarr")
    assert built.cache_id == attach_features(detached, data, tmp_path / "b.zarr").cache_id
    result = command("cache", "attach", detached, "--data", mine.root, "--out", tmp_path / "c.zarr", "--strict")
    assert result.exit_code == 1 and not (tmp_path / "c.zarr").exists()
    lines = sorted(result.stdout.splitlines())
    assert lines[0] == "c00000: another recording than the cache was made from"
    assert lines[1:] == [f"c{i:05d}: missing" for i in range(1, 10)]


def test_missing_and_differing_recordings_are_listed_and_nothing_is_written(data, detached, tmp_path):
    shutil.copy(data.root / "noise.flac", data.root / "other.flac")
    audio, rate = soundfile.read(data.root / "other.flac")
    soundfile.write(data.root / "other.flac", 0.99 * audio, rate)
    changed = {"c00002": {"noise_file": "other.flac"}, "c00004": {"noise_file": "gone.flac"}}
    clips = [
        dataclasses.replace(clip, **changed.get(clip.clip_id, {})) for clip in data.clips if clip.clip_id != "c00007"
    ]
    mine = with_clips(data, tmp_path / "mine", clips)
    before = sorted(entry.name for entry in tmp_path.iterdir())
    result = command("cache", "attach", detached, "--data", mine.root, "--out", tmp_path / "new.zarr")
    assert result.exit_code == 1
    first, second, third = result.stdout.splitlines()
    assert first == "c00002: another recording than the cache was made from"
    assert second.startswith(f"c00004: {mine.root / 'gone.flac'}: cannot be read as audio")
    assert third == "c00007: missing"
    error = result.stderr.splitlines()[-1]
    assert error.startswith(
        f"Error: {mine.root}: 3 of 10 clips are not the recordings of {detached}; nothing is written."
    )
    assert sorted(entry.name for entry in tmp_path.iterdir()) == before


def test_a_cache_with_features_is_refused_and_an_existing_one_needs_force(data, teacher, detached, tmp_path):
    build_cache(data, teacher, tmp_path / "whole.zarr", BuildConfig(keep="rollout"))
    with pytest.raises(TkdError, match=r"whole.zarr: has its features"):
        attach_features(tmp_path / "whole.zarr", data, tmp_path / "new.zarr")
    arguments = ("cache", "attach", detached, "--data", data.root, "--out", tmp_path / "whole.zarr")
    result = command(*arguments)
    assert result.exit_code == 1 and "a complete cache of something else: layout.keep is 'rollout'" in result.stderr
    assert command(*arguments, "--force").exit_code == 0
    assert describe_cache(tmp_path / "whole.zarr")["layout"]["keep"] == "heads"
    result = command("cache", "attach", detached, "--data", data.root, "--out", detached)
    assert result.exit_code == 1 and "layout.with_features is False, would be True" in result.stderr


@pytest.mark.parametrize(
    "change", [{"kind": "mfcc"}, {"mel_scale": "slaney"}, {"hop_length": "ten"}, {"dither": 1.0}, {"frame_offset": 0.0}]
)
def test_features_of_an_unknown_front_end_are_refused(change):
    (name,) = change
    with pytest.raises(TkdError, match=rf"settings that this tkd does not know: {name} .* here\). Update tkd"):
        LogMelConfig.from_metadata({**LogMelConfig().metadata(), **change})


def test_every_known_front_end_is_read_back_from_a_cache(data, detached):
    for config in (LogMelConfig(), LogMelConfig(hop_length=160, n_mels=64, floor=1e-6)):
        assert LogMelConfig.from_metadata(json.loads(json.dumps(config.metadata()))) == config
    clips = match_clips(open_cache(detached), data)
    assert [clip.clip_id for clip in clips] == open_cache(detached).read("clip_id").tolist()


def test_features_follow_the_settings_that_the_cache_states(data, teacher, tmp_path):
    """A front end of half the hop, planted in a detached cache, is the one that is computed."""
    config = LogMelConfig(hop_length=160, floor=1e-3)
    plan, detached = plan_build(data, teacher, BuildConfig(with_features=False), config), tmp_path / "d.zarr"
    write_cache(detached, plan.outline, partial(build_partitions, plan, detached), "building")
    attach_features(detached, data, tmp_path / "new.zarr")
    cache = zarr.open_group(tmp_path / "new.zarr", mode="r")
    for row, clip in enumerate(data.clips):
        expected = LogMel(config)(to_waveform(render_clip(data.root, clip)))
        assert cache["n_feature_frames"][row] == expected.shape[1]
        np.testing.assert_allclose(cache["features"][row, :, : expected.shape[1]], expected, rtol=1e-3, atol=1e-3)
