"""Augmented targets against the live teacher: recordings changed in the same way have it look at the same places."""

import math

import numpy as np
import pytest
import soundfile
from test_teacher_model import tiny_teacher

from pipeline.bench.augmentation import CHAIN, VIEWS, truth_of, truth_of_views
from pipeline.data.clip import Clip
from pipeline.data.manifest import DatasetInfo, Manifest
from pipeline.distill.augment import AUGMENTATIONS, DEFAULT_AUGMENTATIONS
from pipeline.teacher.model import load_teacher

TRUE = 0.9  # mean cosine of an augmentation that may be on by default


@pytest.fixture(scope="module")
def truths(tiny_data):
    teacher = load_teacher("bundled")[0]
    truths = truth_of(tiny_data, tiny_data.split("validation"), teacher, (*AUGMENTATIONS, CHAIN))
    return truths | {VIEWS: truth_of_views(tiny_data, tiny_data.split("train")[:16], "bundled")}


@pytest.mark.parametrize("name", [*AUGMENTATIONS, CHAIN, VIEWS])
def test_what_the_weights_become_is_what_the_teacher_says(truths, name):
    """All that there are: one that is not would have to be named here, and stay out of the defaults."""
    assert truths[name].cosine >= TRUE
    assert set(DEFAULT_AUGMENTATIONS) <= {name for name in AUGMENTATIONS if truths[name].cosine >= TRUE}


@pytest.mark.parametrize("name", ["shift", "crop", "speed", CHAIN])
def test_weights_left_as_they_were_would_not_be(truths, name):
    assert truths[name].unchanged < 0.75 < truths[name].cosine - 0.1


@pytest.mark.parametrize("name", [*AUGMENTATIONS, CHAIN])
def test_the_features_become_those_of_the_recording_changed_in_the_same_way(truths, name):
    """Exactly where frames and bins stay what they are; elsewhere nearer than the clean ones, by half at least."""
    found = truths[name]
    assert found.features_db < {"shift": 0.2, "crop": 0.01, "gain": 0.01}.get(name, 0.6 * found.apart_db)


def test_mixed_weights_are_nearer_than_the_louder_clips_alone(truths):
    assert truths["mixup"].cosine > truths["mixup"].unchanged + 0.005


def test_a_stored_view_has_the_weights_that_the_teacher_gave_it(truths):
    assert truths[VIEWS].worst > 0.9999 and truths[VIEWS].features_db < 0.01 and truths[VIEWS].unchanged < 0.6


def test_clips_of_several_labels_and_lengths_are_compared_too(tmp_path):
    rng, clips = np.random.default_rng(0), []
    for i, n_samples in enumerate((9000, 24001, 16000, 30000)):
        soundfile.write(tmp_path / f"{i}.wav", 0.1 * rng.standard_normal(n_samples), 16000)
        clips.append(Clip(f"klip-é-{i}", "validation", (0, 2)[: i % 3], n_samples, f"{i}.wav"))
    manifest = Manifest(tmp_path, DatasetInfo("several", "multi_label", ("a", "b", "c"), "CC0"), tuple(clips))
    truths = truth_of(manifest, clips, tiny_teacher(n_classes=3), tuple(AUGMENTATIONS), batch_size=3)
    assert truths["gain"].n_clips == 4 and truths["gain"].cosine > 0.999 and truths["gain"].same_class == 1
    assert all(truth.worst <= truth.cosine <= 1.001 and math.isfinite(truth.features_db) for truth in truths.values())
