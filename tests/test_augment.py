"""Augmentations: what holds for every one of them, and what each promises."""

import dataclasses
import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.distill.augment import (
    AUGMENTATIONS,
    DEFAULT_AUGMENTATIONS,
    Augmentation,
    apply,
    augment,
    axes_of,
    check_augmentations,
    register,
)
from pipeline.distill.augment.level import Gain, Mixup, Noise, power
from pipeline.distill.augment.masks import SpecAugment
from pipeline.distill.augment.timing import Crop, Speed, TimeShift
from pipeline.distill.data import Clips
from pipeline.errors import TkdError
from pipeline.extract.features import LogMel, LogMelConfig
from pipeline.frames import FrameGrid, share_in_event
from pipeline.tasks import task_loss

FRONT_END = LogMelConfig()
TEACHER = {"hop_length": 320, "frame_offset": 259.5}
AXES = axes_of({"features": FRONT_END.metadata(), "teacher": TEACHER})
FINE = axes_of({"features": FRONT_END.metadata(), "teacher": {"hop_length": 160, "frame_offset": 199.5}})
N_CLASSES = 4


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def frames_of(grid: FrameGrid, n_samples: int) -> int:
    return int((n_samples - 2 * grid.offset - 1) // grid.hop_length) + 1


def planted(seed: int, n: int, axes=AXES, task: str = "single_label", n_maps: int = 0, known: float = 0.7) -> Clips:
    """Clips of 0.7 to 3 s of near silence with a loud sound in a known or unknown place, at which the teacher looks."""
    rng = np.random.default_rng(seed)
    n_samples = rng.integers(11000, 48000, n)
    lengths = torch.tensor([frames_of(axes.features, k) for k in n_samples])
    weight_lengths = torch.tensor([frames_of(axes.weights, k) for k in n_samples])
    start = torch.from_numpy(rng.integers(0, n_samples - 4800))
    stop = start + torch.from_numpy(rng.integers(1600, 4800, n))
    parts = []
    for grid, count in ((axes.features, lengths), (axes.weights, weight_lengths)):
        frame = torch.arange(int(count.max()))
        centre = grid.offset + grid.hop_length * frame
        near = torch.exp(-0.5 * ((centre - (start + stop)[:, None] / 2) / 800) ** 2)
        parts.append((near, frame < count[:, None]))
    (near, valid), (weights, heard) = parts
    hiss = torch.from_numpy(rng.normal(0, 0.3, (n, 40, near.shape[1])))
    features = (-10 + 12 * near[:, None] + hiss) * valid[:, None]
    weights = (weights + 0.002) * heard
    if n_maps:
        weights = weights[:, None] * torch.from_numpy(rng.uniform(0.5, 2, (n, n_maps, 1)))
    unknown = torch.from_numpy(rng.random(n) >= known)
    labels = torch.from_numpy(rng.integers(0, N_CLASSES, n))
    if task == "multi_label":
        labels = torch.from_numpy(rng.integers(0, 2, (n, N_CLASSES))).to(torch.uint8)
    return Clips(
        np.array([f"klip-é-{i}" for i in range(n)]),
        features.half(),
        lengths,
        labels,
        weights.float(),
        weight_lengths,
        start.masked_fill(unknown, -1),
        stop.masked_fill(unknown, -1),
        torch.from_numpy(rng.normal(0, 3, (n, N_CLASSES))).float(),
    )


def tensors_of(clips: Clips) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(clips).items() if name != "clip_id"}


@pytest.mark.parametrize("name", AUGMENTATIONS)
@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.sampled_from([1, 2, 9]),
    task=st.sampled_from(["single_label", "multi_label"]),
    n_maps=st.sampled_from([0, 1, 3]),
    axes=st.sampled_from([AXES, FINE]),
    known=st.sampled_from([0.0, 0.6, 1.0]),
)
def test_every_batch_that_comes_out_is_one_that_could_have_gone_in(name, seed, n, task, n_maps, axes, known):
    clips = planted(seed, n, axes, task, n_maps, known)
    before = {key: value.clone() for key, value in tensors_of(clips).items()}
    found = augment(clips, [name], axes, seeded(seed))

    assert all(torch.equal(value, before[key]) for key, value in tensors_of(clips).items()), "the input is untouched"
    again = augment(clips, [name], axes, seeded(seed))
    assert all(torch.equal(value, tensors_of(again)[key]) for key, value in tensors_of(found).items())
    assert found.clip_id.tolist() == clips.clip_id.tolist()

    for values, lengths in ((found.features, found.lengths), (found.weights, found.weight_lengths)):
        assert values.shape[:-1] == (clips.features if values is found.features else clips.weights).shape[:-1]
        assert int(lengths.min()) >= 1 and int(lengths.max()) <= values.shape[-1]
        beyond = torch.arange(values.shape[-1]) >= lengths[:, None]
        assert values.isfinite().all() and not values.movedim(0, -2)[..., beyond].any()
    assert found.features.dtype == torch.float16 and found.weights.dtype == torch.float32
    assert (found.weights >= 0).all() and torch.allclose(found.weights.sum(-1), torch.ones(()), atol=1e-5)
    ends = [
        (lengths - 1) * grid.hop_length + 2 * grid.offset + 1
        for lengths, grid in ((found.lengths, axes.features), (found.weight_lengths, axes.weights))
    ]
    assert ((ends[0] - ends[1]).abs() < axes.features.hop_length).all(), "both are frames of one clip"

    labels = before["labels"]
    if name != "mixup":
        assert torch.equal(found.labels, labels) and torch.equal(found.teacher_logits, clips.teacher_logits)
    assert task_loss(task, found.teacher_logits, found.labels).isfinite()

    start, stop, unknown = found.event_start, found.event_stop, clips.event_start < 0
    assert (start[unknown] == -1).all() and (stop[unknown] == -1).all()
    assert ((start >= 0) & (start < stop))[~unknown].all()
    assert (stop < torch.maximum(*ends) + axes.features.hop_length)[~unknown].all(), "no event is cut off"
    if name != "speed":
        assert torch.equal(stop - start, clips.event_stop - clips.event_start)


@pytest.mark.parametrize("axes", [AXES, FINE], ids=["one clock", "two clocks"])
@pytest.mark.parametrize("name", ["shift", "crop", "speed", "gain", "noise"])
def test_sound_weights_and_event_stay_together(name, axes):
    clips = planted(7, 64, axes, known=1.0)
    found = augment(clips, [name], axes, seeded(1))
    loudest = axes.features.offset + axes.features.hop_length * found.features.float().mean(1).masked_fill(
        torch.arange(found.features.shape[2]) >= found.lengths[:, None], -99
    ).argmax(1)
    looked = axes.weights.offset + axes.weights.hop_length * found.weights.argmax(1)
    middle = (found.event_start + found.event_stop) / 2
    assert (loudest - middle).abs().max() < 1.5 * axes.features.hop_length
    assert (looked - middle).abs().max() <= 0.6 * axes.weights.hop_length
    inside = [share_in_event(c.weights, axes.weights, c.event_start, c.event_stop) for c in (clips, found)]
    assert (inside[1] > inside[0] - 0.1).all()
    if name in ("shift", "crop", "speed"):
        assert (found.event_start != clips.event_start).any()


def test_a_shift_moves_by_whole_frames_either_way_and_loses_nothing():
    clips = planted(3, 200, known=0.5)
    shift = TimeShift()
    drawn = shift.draw(clips, AXES, seeded(0))
    assert set(drawn["frames"].tolist()) == set(range(-5, 6))  # 0.1 s
    found = apply(shift, clips, drawn, AXES)
    for row, by in enumerate(drawn["frames"].tolist()):
        n, m = int(clips.lengths[row]), int(clips.weight_lengths[row])
        assert torch.equal(found.features[row, :, :n], clips.features[row, :, :n].roll(by, 1))
        weights = clips.weights[row, :m] / clips.weights[row].sum()
        assert torch.allclose(found.weights[row, :m], weights.roll(by), atol=1e-6)


def test_a_crop_holds_the_event_and_most_of_the_weights_or_is_none():
    clips, crop = planted(5, 300, known=0.5), Crop()
    drawn = crop.draw(clips, AXES, seeded(0))
    first, length = drawn["first"], drawn["length"]
    found = apply(crop, clips, drawn, AXES)
    cropped = length < clips.lengths
    assert cropped.float().mean() > 0.5 and (first[~cropped] == 0).all() and len(set(first.tolist())) > 20
    assert (length >= torch.minimum(clips.lengths, torch.tensor(49))).all(), "a second at least"
    for row in cropped.nonzero().flatten().tolist():
        start, n = int(first[row]), int(found.weight_lengths[row])
        assert float(clips.weights[row, start : start + n].sum() / clips.weights[row].sum()) >= 0.74
        assert torch.equal(
            found.features[row, :, : length[row]], clips.features[row, :, start : start + int(length[row])]
        )
    even = dataclasses.replace(clips, weights=torch.ones_like(clips.weights))
    assert (crop.draw(even, AXES, seeded(0))["length"] >= 0.74 * clips.lengths).all()
    nowhere = Crop(least=0.2, least_seconds=0.1, least_weight=1.0)
    assert torch.equal(nowhere.draw(even, AXES, seeded(0))["length"], clips.lengths)


def pitch(features: torch.Tensor) -> float:
    """The mean bin of features (n_mels,), by energy."""
    energy = (2 * features.float()).exp()
    return float((energy * torch.arange(len(features))).sum() / energy.sum())


@pytest.mark.parametrize("percent", [90, 110])
def test_a_tone_played_at_another_speed_is_as_much_shorter_and_higher(percent):
    time = np.arange(32000) / 16000
    tones = [np.sin(2 * np.pi * frequency * time).astype(np.float32) for frequency in (1500, 15 * percent)]
    heard, expected = (torch.from_numpy(LogMel(FRONT_END)(tone))[None] for tone in tones)
    clips = dataclasses.replace(
        planted(0, 1, known=0),
        features=heard,
        lengths=torch.tensor([99]),
        weights=torch.full((1, 99), 1 / 99),
        weight_lengths=torch.tensor([99]),
        event_start=torch.tensor([8000]),
        event_stop=torch.tensor([16000]),
    )
    found = apply(Speed((percent,)), clips, {"percent": torch.tensor([percent])}, AXES)
    assert int(found.lengths[0]) == FRONT_END.n_frames(math.ceil(3200000 / percent))
    assert pitch(found.features[0, :, 40]) == pytest.approx(pitch(expected[0, :, 40]), abs=0.2)
    assert abs(pitch(heard[0, :, 40]) - pitch(expected[0, :, 40])) > 1
    assert int(found.event_start) == 800000 // percent and abs(int(found.event_stop) - 1600000 / percent) < 1


def test_gain_is_added_to_the_logarithms_and_stops_at_the_floor():
    clips = planted(0, 3)
    found = apply(Gain(), clips, {"gain_db": torch.tensor([20.0, 0.0, -300.0])}, AXES)
    raised = (found.features[0] - clips.features[0])[:, : clips.lengths[0]].float()
    assert torch.allclose(raised, torch.tensor(math.log(10)), atol=0.02)
    assert torch.equal(found.features[1], clips.features[1])
    assert float(found.features[2].min()) == pytest.approx(math.log(1e-12), abs=0.02)


def test_noise_lies_at_its_ratio_under_the_clip():
    clips = dataclasses.replace(planted(0, 8), features=planted(0, 8).features.float())
    noise = Noise()
    drawn = noise.draw(clips, AXES, seeded(0))
    drawn["snr_db"] = torch.tensor([-10.0, 0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0])
    found = apply(noise, clips, drawn, AXES)
    ratio = torch.exp(power(found.features, found.lengths) - power(clips.features, clips.lengths)) - 1
    assert torch.allclose(-10 * ratio.log10(), drawn["snr_db"], atol=0.1)


@pytest.mark.parametrize("colour", [0.0, 1.0, 2.0])
def test_generated_noise_is_what_the_front_end_hears_of_real_noise(colour):
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(16000 * 20))
    frequency = np.maximum(np.fft.rfftfreq(16000 * 20, 1 / 16000), 16000 / 1024)
    real = LogMel(FRONT_END)(np.fft.irfft(spectrum * frequency ** (-colour / 2)).astype(np.float32))
    clips = dataclasses.replace(planted(0, 1), features=torch.zeros(1, 40, 999))
    drawn = Noise(colour=(colour, colour)).draw(clips, AXES, seeded(0))["noise"][0].numpy()
    difference = drawn.mean(1) - real.mean(1)
    assert np.abs(difference - difference.mean()).max() < 0.15  # nats; the level is set afterwards
    assert np.abs(drawn.std(1) / real.std(1) - 1).max() < 0.25


def test_mel_filters_are_torchaudios():
    expected = torchaudio.functional.melscale_fbanks(513, 20.0, 7000.0, 40, 16000, mel_scale="htk")
    assert torch.allclose(AXES.mel_filters(), expected.T, atol=1e-4)


def test_masks_are_few_narrow_and_leave_half_of_an_event():
    clips, masks = planted(2, 200, known=0.8), SpecAugment()
    found = augment(clips, ["specaugment"], AXES, seeded(0))
    changed = found.features != clips.features
    times, bands = changed.float().mean(1) > 0.7, changed.float().sum(2) > 0.7 * clips.lengths[:, None]
    assert times.any(1).float().mean() > 0.5 and int(times.sum(1).max()) <= 18 and int(bands.sum(1).max()) <= 8
    drawn = masks.draw(clips, AXES, seeded(0))
    assert set(drawn["height"].flatten().tolist()) == set(range(5)) and int(drawn["width"].max()) == 9
    centre = 319.5 + 320 * torch.arange(clips.features.shape[2])
    event = (centre >= clips.event_start[:, None]) & (centre < clips.event_stop[:, None])
    assert ((event & times).sum(1) <= 0.5 * event.sum(1))[clips.event_start >= 0].all()
    assert torch.allclose(found.weights, clips.weights / clips.weights.sum(1, keepdim=True))


def test_a_hand_worked_mixture():
    clips = dataclasses.replace(
        planted(0, 2, known=1.0),
        features=torch.stack([torch.full((40, 4), 1.0), torch.full((40, 4), 3.0)]),
        lengths=torch.tensor([4, 2]),
        weights=torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.5, 0.5, 0.0, 0.0]]),
        weight_lengths=torch.tensor([4, 2]),
        labels=torch.tensor([1, 3]),
        teacher_logits=torch.tensor([[0.0, 0.0, -99.0, -99.0], [-99.0, -99.0, -99.0, 5.0]]),
    )
    drawn = {"other": torch.tensor([1, 0]), "share": torch.tensor([0.75, 0.75])}
    found = apply(Mixup(), clips, drawn, AXES)
    assert found.labels.tolist() == [[0, 0.75, 0, 0.25], [0, 0.25, 0, 0.75]]
    assert torch.allclose(found.weights[0], torch.tensor([0.425, 0.35, 0.15, 0.075]))
    left = torch.tensor([4 / 7, 3 / 7])  # of the longer clip, where the shorter one ends
    assert torch.allclose(found.weights[1, :2], 0.75 * torch.tensor([0.5, 0.5]) + 0.25 * left)
    assert torch.allclose(found.teacher_logits[0].softmax(0), torch.tensor([0.375, 0.375, 0, 0.25]))
    both = 1 + math.log(0.75**2 + 0.25**2) / 2  # the other, at the clip's level
    assert torch.allclose(found.features[0, 0], torch.tensor([both, both, 1 + math.log(0.75), 1 + math.log(0.75)]))
    assert found.lengths.tolist() == [4, 2] and torch.equal(found.event_start, clips.event_start)


def test_digital_silence_adds_nothing():
    clips = planted(3, 2)
    features = clips.features.clone()
    features[1] = AXES.floor  # float16: a little off
    clips = dataclasses.replace(clips, features=features)
    drawn = {"other": torch.tensor([1, 0]), "share": torch.tensor([0.6, 0.6])}
    found = apply(Mixup(), clips, drawn, AXES)
    n = int(clips.lengths[0])
    expected = (features[0].float() + math.log(0.6)).clamp_min(AXES.floor)
    torch.testing.assert_close(found.features[0, :, :n].float(), expected[:, :n], atol=2e-2, rtol=0)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 9]), st.sampled_from(["single_label", "multi_label"]))
def test_mixed_labels_are_probabilities_of_the_clips_own_classes_first(seed, n, task):
    clips = planted(seed, n, task=task)
    found = augment(clips, ["mixup"], AXES, seeded(seed))
    own = torch.nn.functional.one_hot(clips.labels, N_CLASSES) if task == "single_label" else clips.labels
    assert found.labels.shape == (n, N_CLASSES) and found.labels.dtype == torch.float32
    assert (found.labels[own.bool()] >= 0.5).all() and (found.labels <= 1).all()
    if task == "single_label":
        assert torch.allclose(found.labels.sum(1), torch.ones(n))
    if n == 1:
        assert torch.equal(found.labels, own.float()) and torch.equal(found.features, clips.features)
    again = augment(found, ["mixup"], AXES, seeded(seed + 1))
    assert again.labels.shape == (n, N_CLASSES)


def test_one_after_the_other_in_the_order_given():
    clips = planted(11, 16, FINE, n_maps=2)
    generator, expected = seeded(4), clips
    for name in DEFAULT_AUGMENTATIONS:
        expected = augment(expected, [name], FINE, generator)
    found = augment(clips, DEFAULT_AUGMENTATIONS, FINE, seeded(4))
    assert all(torch.equal(value, tensors_of(expected)[key]) for key, value in tensors_of(found).items())
    assert augment(clips, (), FINE, seeded(4)) is clips


def test_names_that_are_wrong_are_said_with_those_that_are_known():
    with pytest.raises(TkdError, match=r"augmentation speeed: not known. Did you mean speed\? Known: crop, gain, "):
        check_augmentations(["gain", "speeed"])
    with pytest.raises(TkdError, match=r"augmentation gain: named twice. Name each once\."):
        augment(planted(0, 1), ("gain", "crop", "gain"), AXES, seeded(0))


class Silent(Augmentation):
    """Says nothing of its weights."""

    to_labels: ClassVar[str] = "stay"
    to_events: ClassVar[str] = "stay"
    draw = features = labels = events = Gain.labels


class Wordless(Gain):
    to_weights: ClassVar[str] = ""


def test_what_does_not_say_what_it_does_to_the_targets_cannot_be_registered():
    known = dict(AUGMENTATIONS)
    with pytest.raises(TkdError, match=r"augmentation flip: does not say to_weights, weights\(\)\. Every Augmentation"):
        register("flip", Silent)
    with pytest.raises(TypeError, match="weights"):
        Silent()
    with pytest.raises(TkdError, match=r"augmentation flip: does not say to_weights\. "):
        register("flip", Wordless())
    with pytest.raises(TkdError, match="augmentation flip: does not say to_weights, to_labels, to_events, draw"):
        register("flip", lambda clips: clips)
    with pytest.raises(TkdError, match="augmentation flip: is a Gain, expected an instance"):
        register("flip", Gain)
    with pytest.raises(TkdError, match=r"augmentation gain: there is one of this name\. Choose another\."):
        register("gain", Gain())
    with pytest.raises(TypeError):
        AUGMENTATIONS["flip"] = Gain()
    assert known == AUGMENTATIONS


def test_the_docs_say_of_each_what_it_says_of_itself():
    text = Path(__file__).parent.parent.joinpath("docs", "augmentation.md").read_text(encoding="utf-8")
    for name, augmentation in AUGMENTATIONS.items():
        stated = " | ".join((augmentation.to_weights, augmentation.to_labels, augmentation.to_events))
        assert f"| `{name}` | " in text and f"| {stated} |" in text, name
    assert f"--augment {','.join(DEFAULT_AUGMENTATIONS)}" in text
