"""What a teacher hears in training: a pure function of seed, epoch and clip, and it holds the event."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.audio import render_clip
from pipeline.data.clip import Clip
from pipeline.data.manifest import Manifest
from pipeline.teacher.clips import TrainingClips, WholeClips, collate, crop_start
from pipeline.teacher.model import normalise


def epoch_of(manifest: Manifest, epoch, seed=0, n_samples=None, remix=True):
    clips = TrainingClips(manifest, seed, remix)
    clips.epoch, clips.n_samples = epoch, n_samples
    return [clips[i]["waveform"] for i in range(8)]


@pytest.mark.parametrize("remix", [True, False], ids=["remix", "crop"])
def test_an_epochs_draws_depend_on_seed_and_epoch_alone(tiny_data, remix):
    first = epoch_of(tiny_data, 3, n_samples=20000, remix=remix)
    backwards = TrainingClips(tiny_data, 0, remix)
    backwards.epoch, backwards.n_samples = 3, 20000
    for i in reversed(range(8)):
        assert np.array_equal(backwards[i]["waveform"], first[i])
    for other in (
        epoch_of(tiny_data, 4, n_samples=20000, remix=remix),
        epoch_of(tiny_data, 3, 1, n_samples=20000, remix=remix),
    ):
        assert sum(np.array_equal(a, b) for a, b in zip(first, other, strict=True)) < 4
    assert all(waveform.dtype == np.float32 and len(waveform) == 20000 for waveform in first)


def test_whole_clips_without_mixing_are_the_manifests(tiny_data):
    for waveform, clip in zip(epoch_of(tiny_data, 2, remix=False), tiny_data.split("train"), strict=False):
        assert np.array_equal(np.rint(waveform * 32768), render_clip(tiny_data.root, clip))
    whole = WholeClips(tiny_data, tiny_data.split("test"))
    assert len(whole) == 24
    assert [int(whole[i]["labels"]) for i in range(24)] == [clip.labels[0] for clip in tiny_data.split("test")]


@given(data=st.data(), n_samples=st.integers(1, 500), n_clip=st.integers(500, 1000))
def test_crops_hold_the_event_or_its_start(data, n_samples, n_clip):
    start = data.draw(st.integers(0, n_clip - 1))
    stop = data.draw(st.integers(start + 1, n_clip))
    clip = Clip("c", "train", (0,), n_clip, event_start=start, event_stop=stop)
    crop = crop_start(clip, n_samples, np.random.default_rng(0))
    assert 0 <= crop <= n_clip - n_samples
    if stop - start <= n_samples:
        assert crop <= start and stop <= crop + n_samples
    else:
        assert crop == min(start, n_clip - n_samples)


def test_crops_of_an_unknown_event_are_anywhere():
    clip = Clip("c", "train", (0,), 1000)
    starts = {crop_start(clip, 900, np.random.default_rng(seed)) for seed in range(2000)}
    assert (min(starts), max(starts)) == (0, 100)


def test_crops_are_pieces_of_the_clip(tiny_data):
    plain = dataclasses.replace(tiny_data, clips=tiny_data.clips[:8])
    for crop, whole in zip(
        epoch_of(plain, 0, n_samples=16000, remix=False), epoch_of(plain, 0, remix=False), strict=True
    ):
        assert crop.tobytes() in whole.tobytes()


def test_clips_are_normalised_before_they_are_padded():
    rng = np.random.default_rng(0)
    clips = [rng.normal(0.5, 0.1, n).astype(np.float32) for n in (900, 700)]
    batch = collate([{"waveform": clip, "labels": torch.tensor(i)} for i, clip in enumerate(clips)])
    assert batch["input_values"].shape == (2, 900) and batch["input_values"].dtype == torch.float32
    assert batch["attention_mask"].sum(1).tolist() == [900, 700]
    assert batch["labels"].tolist() == [0, 1]
    assert np.array_equal(batch["input_values"][1, :700], normalise(clips[1]))
    assert (batch["input_values"][1, 700:] == 0).all()
    assert "attention_mask" not in collate([{"waveform": clips[0]}] * 2)
