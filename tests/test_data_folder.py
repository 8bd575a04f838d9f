"""Your own recordings: what cannot be used is named, what can be is split without sharing a speaker."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.data.audio import read_audio, render_clip
from pipeline.data.clip import SPLITS
from pipeline.data.own.folder import list_folder
from pipeline.data.own.listing import RecordingsConfig, read_listing
from pipeline.data.prepare import prepare
from pipeline.errors import TkdError


def record(path: Path, seconds: float = 0.5, rate: int = 16000, **how) -> Path:
    """Writes a recording that is like no other: a tone in noise that follows from its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    noise = np.random.default_rng([*str(path).encode()]).standard_normal(len(tone))
    soundfile.write(path, tone + 0.01 * noise, rate, **how)
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    """Two labels of ten recordings."""
    for label in ("größer", "hey lamp"):
        for index in range(10):
            record(tmp_path / "own" / label / f"aufnahme {index} ü.wav")
    return tmp_path / "own"


def prepared(root, out="d", force=False, **settings):
    listing, config = list_folder(root), RecordingsConfig(**settings)
    return prepare(root.parent / out, listing.recipe(config), lambda work: read_listing(listing, config), force)


def by_split(manifest, attribute):
    return [{getattr(clip, attribute) for clip in manifest.split(split)} for split in SPLITS]


# Splits and clips


def test_a_folder_becomes_a_dataset(root):
    there = prepared(root)
    assert there.info.labels == ("größer", "hey lamp") and there.info.name == "own"
    assert [len(there.split(split)) for split in SPLITS] == [16, 2, 2]
    for clip in there.clips:
        assert there.info.labels[clip.labels[0]] == clip.clip_id.split("/")[0]
        expected = soundfile.read(root / clip.clip_id, dtype="int16")[0]
        assert (render_clip(there.audio_root, clip) == expected).all()
    assert prepared(root).sha256() == there.sha256()


def test_the_same_recordings_elsewhere_are_the_same_dataset(root, tmp_path_factory):
    """No path of this machine is in the manifest or in the recipe, which travels in caches."""
    elsewhere = tmp_path_factory.mktemp("elsewhere") / root.name
    shutil.copytree(root, elsewhere)
    here, there = prepared(root), prepared(elsewhere)
    assert (here.sha256(), here.info.recipe) == (there.sha256(), there.info.recipe)
    assert render_clip(there.audio_root, there.clips[0]).any()


def test_every_label_is_in_every_split_and_the_seed_deals_anew(root):
    splits = [by_split(prepared(root, f"d{seed}", force=True, seed=seed), "clip_id") for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]
    assert all({name.split("/")[0] for name in part} == {"größer", "hey lamp"} for part in splits[0])


@pytest.mark.parametrize("also_unnamed", [False, True])
def test_splits_never_share_a_speaker(tmp_path, also_unnamed):
    """One file that names no speaker, as in _background_noise_, must not undo it for the rest."""
    root = tmp_path / "own"
    for speaker in range(20):
        for label in ("lamp", "lights"):
            for take in range(2):
                record(root / label / f"sp{speaker}_nohash_{take}.wav", 0.1)
    for index in range(6 * also_unnamed):
        record(root / "_background_noise_" / f"{index}.wav")
    there = prepared(root)
    speakers = [part - {None} for part in by_split(there, "speaker")]
    assert [len(part) for part in speakers] == [16, 2, 2]
    assert len(set().union(*speakers)) == 20
    assert len(there.clips) == 80 + 6 * also_unnamed


def test_length_keeps_the_middle_or_pads(root):
    record(root / "hey lamp" / "long.wav", 2.0)
    record(root / "hey lamp" / "odd.wav", 16001 / 16000)
    for clip in prepared(root, length_seconds=1.0).clips:
        pcm, whole = render_clip(root, clip), soundfile.read(root / clip.clip_id, dtype="int16")[0]
        assert clip.n_samples == len(pcm) == 16000
        cut = (len(whole) - 16000 + 1) // 2
        expected = np.pad(whole, (0, 8000)) if len(whole) == 8000 else whole[cut : cut + 16000]
        assert (pcm == expected).all()


def test_formats_rates_and_channels_mix(root):
    for format, rate in (("FLAC", 44100), ("OGG", 48000), ("MP3", 44100), ("AIFF", 8000), ("W64", 22050)):
        record(root / "hey lamp" / f"other.{format.lower()}", 1.0, rate, format=format)
    stereo = np.stack([read_audio(root / "größer" / "aufnahme 0 ü.wav") * scale for scale in (1, 0.5)], axis=1)
    soundfile.write(root / "größer" / "stereo.WAV", stereo, 16000)
    there = prepared(root, strict=True)
    assert len(there.clips) == 26
    lengths = {clip.clip_id: clip.n_samples for clip in there.clips}
    assert all(lengths[f"hey lamp/other.{name}"] == 16000 for name in ("flac", "aiff", "w64"))


# What cannot be used


def truncated(format, part=0.5):
    def write(path):
        record(path, 1.0, format=format)
        path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])

    return write


def samples(values, **how):
    return lambda path: soundfile.write(path, np.asarray(values, np.float32), 16000, subtype="FLOAT", **how)


BAD = {
    "empty.wav": (lambda path: path.write_bytes(b""), "cannot be read as audio (empty)"),
    "none.wav": (samples([]), "has no samples"),
    "short.wav": (samples([0.1] * 639), "639 samples at 16000 Hz, one frame takes 640"),
    "slow.wav": (lambda path: soundfile.write(path, np.ones(300) / 2, 8000), "600 samples at 16000 Hz"),
    "nan.wav": (samples([0.1] * 999 + [np.nan]), "has NaN or infinite samples"),
    "inf.wav": (samples([0.1] * 999 + [np.inf]), "has NaN or infinite samples"),
    "silent.wav": (samples([0] * 9999), "all samples are zero"),
    "faint.wav": (samples([1e-6] * 9999), "all samples are zero"),
    "opposite.wav": (samples([[0.5, -0.5]] * 9999), "all samples are zero"),
    "integers.wav": (samples([12000.0, -30000.0] * 999), r"samples of up to 30000, full scale is 1"),
    "cut.wav": (truncated("WAV"), "cut off, the file is shorter than its header says"),
    "cut.aiff": (truncated("AIFF"), "cut off, the file is shorter than its header says"),
    "cut.mp3": (truncated("MP3"), "cut off, the file is shorter than its header says"),
    "cut.flac": (truncated("FLAC"), "cannot be read as audio"),
    "cut.caf": (truncated("CAF"), "cannot be read as audio"),
    "header.wav": (truncated("WAV", 0.001), "cannot be read as audio"),
    "größe.wav": (
        lambda path: path.write_text("not a recording"),
        "größe.wav: cannot be read as audio (Format not recognised)",
    ),
    "noten.txt": (lambda path: path.write_text("not a recording"), "cannot be read as audio"),
    "voice.m4a": (lambda path: path.write_bytes(b"\0\0\0\x18ftypM4A " + bytes(999)), "cannot be read as audio"),
    "pcm.raw": (lambda path: path.write_bytes(bytes(9999)), "cannot be read as audio"),
    "link.wav": (lambda path: path.symlink_to("nowhere"), "not a file"),
    "pipe.wav": (os.mkfifo, "not a file"),
    "session": (lambda path: record(path / "a.wav"), "not a file. Recordings lie directly in the folder of their"),
    "copy.wav": (
        lambda path: path.write_bytes((path.parent / "aufnahme 3 ü.wav").read_bytes()),
        "the same recording as hey lamp/aufnahme 3 ü.wav",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_recording_that_cannot_be_used_is_named_and_left_out(root, capfd, name):
    write, reason = BAD[name]
    write(root / "hey lamp" / name)
    (root / "hey lamp" / ".DS_Store").write_bytes(b"x")
    info, clips = read_listing(list_folder(root), RecordingsConfig())
    assert len(clips) == 20
    (left_out,) = info.sources[0]["left_out"]
    assert left_out["file"] == f"hey lamp/{name}" and reason in left_out["reason"]
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("left out")]
    assert line == f"left out: {left_out['reason']}" and line.startswith(f"left out: {root}/hey lamp/{name}: ")
    with pytest.raises(TkdError, match=r"1 of 21 recordings cannot be used \(listed above\)"):
        read_listing(list_folder(root), RecordingsConfig(strict=True))


def test_a_name_that_is_not_utf8_is_left_out(root):
    record(root / "hey lamp" / "x.wav").rename(os.fsdecode(os.fsencode(root) + b"/hey lamp/\xff.wav"))
    there = prepared(root)
    assert len(there.clips) == 20
    assert "its name is not UTF-8" in there.info.sources[0]["left_out"][0]["reason"]


# Folders that are no dataset


@pytest.mark.parametrize("wrong", ["none", "own/größer", "own/größer/aufnahme 1 ü.wav", "empty"])
def test_a_wrong_root_is_named_with_what_is_expected(root, wrong):
    (root.parent / "empty").mkdir()
    with pytest.raises(TkdError, match=r"no such folder\. Give --root|no recordings found\. Expected LABEL/FILE"):
        list_folder(root.parent / wrong)


def test_the_folder_above_is_no_dataset(root):
    with pytest.raises(TkdError, match=r"no recordings found\. Expected LABEL/FILE"):
        prepared(root.parent)


def test_too_few_recordings_are_counted(root):
    for index in range(2, 10):
        (root / "größer" / f"aufnahme {index} ü.wav").unlink()
    with pytest.raises(TkdError, match="2 recordings of größer; train, validation and test need one each"):
        prepared(root)
    for index in range(2):
        (root / "größer" / f"aufnahme {index} ü.wav").unlink()
    with pytest.raises(TkdError, match="usable recordings of 1 labels; a classifier needs two or more"):
        prepared(root)
    assert not (root.parent / "d").exists()


def test_a_label_without_a_speaker_to_train_on_is_named(tmp_path):
    for label, speakers in {"lamp": "abcdefghij", "lights": "a"}.items():
        for speaker in speakers:
            record(tmp_path / "own" / label / f"{speaker}_nohash_0.wav")
    outcomes = []
    for seed in range(30):
        with pytest.raises(TkdError) as error:
            read_listing(list_folder(tmp_path / "own"), RecordingsConfig(seed=seed))
        outcomes.append(str(error.value).partition("no recording of lights is ")[2].partition(";")[0])
    assert set(outcomes) == {"left to train on", "in validation"}, "its one speaker is in one split"


def test_a_split_without_a_label_that_is_dealt_by_speaker_is_no_split(tmp_path):
    for label, speakers in {"lamp": range(20), "lights": range(3)}.items():
        for speaker in speakers:
            record(tmp_path / "own" / label / f"{speaker}_nohash_0.wav", 0.1)
    outcomes = []
    for seed in range(60):
        try:
            _, clips = read_listing(list_folder(tmp_path / "own"), RecordingsConfig(seed=seed))
        except TkdError as error:
            outcomes.append("no recording of lights is in" in str(error))
        else:
            assert len({(clip.split, clip.labels) for clip in clips}) == 6
            outcomes.append(None)
    assert True in outcomes


def test_a_single_known_speaker_among_many_recordings_is_trained_on(root, capfd):
    record(root / "größer" / "x_nohash_0.wav")
    clips = {clip.clip_id: clip.split for clip in prepared(root).clips}
    assert clips["größer/x_nohash_0.wav"] == "train" and set(clips.values()) == {"train", "validation", "test"}
    assert "1 of known speakers, too few to deal: all in train" in capfd.readouterr().err


def test_floats_beyond_full_scale_are_turned_down_not_cut_off(root):
    wave = 1.8 * np.sin(np.arange(8000) / 20)
    soundfile.write(root / "größer" / "loud.wav", wave, 16000, subtype="FLOAT")
    clip = next(clip for clip in prepared(root).clips if clip.clip_id == "größer/loud.wav")
    pcm = render_clip(root, clip) / 32768
    assert np.abs(pcm - wave / np.abs(wave).max()).max() < 1e-3


def test_recordings_added_later_are_noticed(root):
    prepared(root)
    record(root / "größer" / "new.wav")
    with pytest.raises(TkdError, match=r"another recipe\. Prepare again with --force"):
        prepared(root)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, 0.0, 0.0399, 1e12])
def test_impossible_lengths_are_refused(seconds):
    with pytest.raises(TkdError, match=r"length .* s: use 0\.04 \(one frame\) to 600 s"):
        RecordingsConfig(seconds)


def test_a_recipe_does_not_hold_how_strictly_it_was_read(root):
    listing = list_folder(root)
    assert listing.recipe(RecordingsConfig(strict=True)) == listing.recipe(RecordingsConfig())
