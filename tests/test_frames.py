"""Two clocks: weights planted at a known time arrive at that time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.distill.config import ALIGNMENTS
from pipeline.frames import (
    FrameGrid,
    align,
    share_in_event,
    student_grid,
    teacher_grid,
    without_first,
    without_readout,
)
from pipeline.measures import measure
from students import STUDENTS, build_student

METADATA = {
    "teacher": {"hop_length": 320, "frame_offset": 199.5},
    "features": {"hop_length": 320, "frame_offset": 319.5},
}


def aligned(weights, source, target, n_target, lengths=None, target_lengths=None, how="area"):
    weights = torch.as_tensor(weights, dtype=torch.float32)
    lengths = torch.full((len(weights),), weights.shape[1]) if lengths is None else torch.as_tensor(lengths)
    target_lengths = (
        torch.full((len(weights),), n_target) if target_lengths is None else torch.as_tensor(target_lengths)
    )
    return align(weights, lengths, source, target, target_lengths, n_target, how)


@pytest.mark.parametrize("how", ALIGNMENTS)
def test_the_same_grid_changes_nothing(how):
    weights = torch.rand(3, 50).softmax(1)
    torch.testing.assert_close(aligned(weights, FrameGrid(320, 200), FrameGrid(320, 200), 50, how=how), weights)


@pytest.mark.parametrize("how", ALIGNMENTS)
@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("seconds", [1, 2, 4, 8])
def test_a_planted_peak_lands_within_half_a_student_frame(name, seconds, how):
    """A bump planted at a time in teacher frames has its centre of mass at that time in student frames."""
    student = build_student(name, 12)
    source, target = teacher_grid(METADATA), student_grid(METADATA, student)
    n_samples = 16000 * seconds
    n_teacher, n_features = (n_samples - 400) // 320 + 1, (n_samples - 640) // 320 + 1
    n_student = int(student.student_lengths(n_features))
    for planted in np.linspace(0.2, 0.8, 7) * n_samples:  # samples
        times = source.offset + source.hop_length * np.arange(n_teacher)
        weights = np.exp(-(((times - planted) / 1600) ** 2))[None]
        out = aligned(weights / weights.sum(), source, target, n_student, how=how)[0].numpy()
        found = (out * (target.offset + target.hop_length * np.arange(n_student))).sum()
        assert abs(found - planted) < target.hop_length / 2


@given(
    st.sampled_from(ALIGNMENTS),
    st.integers(1, 60),
    st.integers(1, 60),
    st.floats(80, 1000),
    st.floats(0, 800),
    st.floats(80, 1000),
    st.floats(0, 800),
)
def test_aligned_weights_are_weights(how, n_source, n_target, hop, offset, target_hop, target_offset):
    """Non-negative, sum 1 over the valid frames, 0 beyond, whatever the grids, when every source frame has weight."""
    weights = torch.zeros(2, 60)
    weights[:, :n_source] = torch.rand(2, n_source) + 0.01
    grids = FrameGrid(hop, offset), FrameGrid(target_hop, target_offset)
    out = aligned(weights, *grids, 60, [n_source] * 2, [n_target] * 2, how)
    assert (out >= 0).all()
    assert (out[:, n_target:] == 0).all()
    torch.testing.assert_close(out.sum(1), torch.ones(2))


def test_interpolation_is_numpys():
    source, target, weights = FrameGrid(320, 199.5), FrameGrid(640, 350), torch.rand(1, 40)
    times = 350 + 640 * np.arange(20)
    expected = np.interp(times, 199.5 + 320 * np.arange(40), weights[0].numpy())
    torch.testing.assert_close(
        aligned(weights, source, target, 20, how="linear")[0],
        torch.tensor(expected / expected.sum(), dtype=torch.float32),
    )


@pytest.mark.parametrize("name", STUDENTS)
def test_area_loses_no_mass_and_gives_each_frame_that_of_its_span(name):
    """A second route: every source frame cut into 400 pieces, each given to the student frame it is nearest to."""
    student = build_student(name, 12)
    source, target, weights = teacher_grid(METADATA), student_grid(METADATA, student), torch.rand(1, 199).softmax(1)
    n_student = int(student.student_lengths(torch.tensor(199)))
    pieces = source.offset + source.hop_length * (np.arange(199 * 400) / 400 - 0.5 + 1 / 800)
    nearest = np.clip(np.round((pieces - target.offset) / target.hop_length), 0, n_student - 1).astype(int)
    expected = np.bincount(nearest, weights[0].repeat_interleave(400).numpy() / 400, n_student)
    np.testing.assert_allclose(aligned(weights, source, target, n_student)[0].numpy(), expected, atol=3e-5)


def test_a_click_between_two_long_frames_is_kept_by_area_and_missed_by_interpolation():
    weights = torch.full((1, 160), 0.001)
    weights[0, 83] = 0.841
    source, target = FrameGrid(320, 160), FrameGrid(8 * 320, 160)  # centres at source frames 80 and 88
    shares = {how: aligned(weights, source, target, 20, how=how)[0, 10] for how in ALIGNMENTS}
    assert shares["area"] > 0.8 and shares["linear"] < 0.06


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("length", [40, 99, 199, 200, 201, 399])
def test_the_weight_of_a_single_frame_goes_to_the_student_frame_around_it(name, length):
    """Within half a student frame, at any length; where student frames look is planted in test_students_reference."""
    student = build_student(name, 12)
    source, target = FrameGrid(320, 319.5), student_grid(METADATA, student)  # one source frame a feature frame
    n_student = int(student.student_lengths(length))
    for planted in range(int(student.offset), int(student.offset) + student.stride * (n_student - 1) + 1):
        weights = torch.zeros(1, length)
        weights[0, planted] = 1
        found = int(aligned(weights, source, target, n_student)[0].argmax())
        assert abs(student.offset + student.stride * found - planted) <= student.stride / 2


@pytest.mark.parametrize("how", ALIGNMENTS)
def test_what_lies_beyond_a_clips_length_is_not_read(how):
    weights = torch.zeros(1, 20)
    weights[0, :10] = 0.1
    garbage = weights.clone()
    garbage[0, 10:] = 5
    grids = FrameGrid(320, 200), FrameGrid(320, 360)
    torch.testing.assert_close(
        aligned(weights, *grids, 20, [10], [9], how), aligned(garbage, *grids, 20, [10], [9], how), rtol=0, atol=0
    )


def test_share_in_event_counts_frames_centred_inside():
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])
    shares = share_in_event(weights, FrameGrid(100, 50), torch.tensor([100, -1]), torch.tensor([300, -1]))
    assert shares[0].item() == pytest.approx(0.5)
    assert math.isnan(shares[1])


def test_measures_are_of_what_was_planted():
    """Frames centred at 199.5, 519.5, ...: the peak in the event's last half sample, after it, and without event."""
    weights = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1], [0.5, 0.5, 0, 0]])
    start, stop = torch.tensor([100, 200, -1]), torch.tensor([200, 360, -1])
    found = measure(weights, torch.tensor([4, 4, 2]), FrameGrid(320, 199.5), start, stop, 16000)
    expected = {
        "in_event": [1, 0, torch.nan],
        "peak_in_event": [1, 0, torch.nan],
        "peak_distance_seconds": [0, (199.5 + 3 * 320 - 359) / 16000, torch.nan],
        "entropy": [0, 0, 1],
    }
    for name, values in expected.items():
        torch.testing.assert_close(found[name], torch.tensor(values, dtype=torch.float32), equal_nan=True)


def test_without_first_leaves_the_rest_and_the_original_alone():
    weights = torch.tensor([[0.7, 0.1, 0.2]])
    torch.testing.assert_close(without_first(weights), torch.tensor([[0.0, 0.1, 0.2]]))
    assert weights[0, 0] == pytest.approx(0.7)


def test_only_a_first_token_readout_has_a_place_of_its_own():
    weights = torch.tensor([[0.7, 0.1, 0.2]])
    assert without_readout(weights, "first_token")[0, 0] == 0
    assert without_readout(weights, "mean") is weights
