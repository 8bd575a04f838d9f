"""Two clocks: weights planted at a known time arrive at that time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.frames import (
    FrameGrid,
    align,
    share_in_event,
    student_grid,
    teacher_grid,
    without_first,
    without_readout,
)
from students import STUDENTS, build_student

METADATA = {
    "teacher": {"hop_length": 320, "frame_offset": 199.5},
    "features": {"hop_length": 320, "frame_offset": 319.5},
}


def aligned(weights, source, target, n_target, lengths=None, target_lengths=None):
    weights = torch.as_tensor(weights, dtype=torch.float32)
    lengths = torch.full((len(weights),), weights.shape[1]) if lengths is None else torch.as_tensor(lengths)
    target_lengths = (
        torch.full((len(weights),), n_target) if target_lengths is None else torch.as_tensor(target_lengths)
    )
    return align(weights, lengths, source, target, target_lengths, n_target)


def test_the_same_grid_changes_nothing():
    weights = torch.rand(3, 50).softmax(1)
    torch.testing.assert_close(aligned(weights, FrameGrid(320, 200), FrameGrid(320, 200), 50), weights)


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("seconds", [1, 2, 4, 8])
def test_a_planted_peak_lands_within_half_a_student_frame(name, seconds):
    """A bump planted at a time in teacher frames has its centre of mass at that time in student frames."""
    student = build_student(name, 12)
    source, target = teacher_grid(METADATA), student_grid(METADATA, student)
    n_samples = 16000 * seconds
    n_teacher, n_features = (n_samples - 400) // 320 + 1, (n_samples - 640) // 320 + 1
    n_student = int(student.student_lengths(n_features))
    for planted in np.linspace(0.2, 0.8, 7) * n_samples:  # samples
        times = source.offset + source.hop_length * np.arange(n_teacher)
        weights = np.exp(-(((times - planted) / 1600) ** 2))[None]
        out = aligned(weights / weights.sum(), source, target, n_student)[0].numpy()
        found = (out * (target.offset + target.hop_length * np.arange(n_student))).sum()
        assert abs(found - planted) < target.hop_length / 2


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.floats(80, 1000),
    st.floats(0, 800),
    st.floats(80, 1000),
    st.floats(0, 800),
)
def test_aligned_weights_are_weights(n_source, n_target, hop, offset, target_hop, target_offset):
    """Non-negative, sum 1 over the valid frames, 0 beyond, whatever the grids, when every source frame has weight."""
    weights = torch.zeros(2, 60)
    weights[:, :n_source] = torch.rand(2, n_source) + 0.01
    out = aligned(
        weights, FrameGrid(hop, offset), FrameGrid(target_hop, target_offset), 60, [n_source] * 2, [n_target] * 2
    )
    assert (out >= 0).all()
    assert (out[:, n_target:] == 0).all()
    torch.testing.assert_close(out.sum(1), torch.ones(2))


def test_interpolation_is_numpys():
    source, target, weights = FrameGrid(320, 199.5), FrameGrid(640, 350), torch.rand(1, 40)
    times = 350 + 640 * np.arange(20)
    expected = np.interp(times, 199.5 + 320 * np.arange(40), weights[0].numpy())
    torch.testing.assert_close(
        aligned(weights, source, target, 20)[0], torch.tensor(expected / expected.sum(), dtype=torch.float32)
    )


def test_what_lies_beyond_a_clips_length_is_not_read():
    weights = torch.zeros(1, 20)
    weights[0, :10] = 0.1
    garbage = weights.clone()
    garbage[0, 10:] = 5
    grids = FrameGrid(320, 200), FrameGrid(320, 360)
    torch.testing.assert_close(
        aligned(weights, *grids, 20, [10], [9]), aligned(garbage, *grids, 20, [10], [9]), rtol=0, atol=0
    )


def test_share_in_event_counts_frames_centred_inside():
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])
    shares = share_in_event(weights, FrameGrid(100, 50), torch.tensor([100, -1]), torch.tensor([300, -1]))
    assert shares[0].item() == pytest.approx(0.5)
    assert math.isnan(shares[1])


def test_without_first_leaves_the_rest_and_the_original_alone():
    weights = torch.tensor([[0.7, 0.1, 0.2]])
    torch.testing.assert_close(without_first(weights), torch.tensor([[0.0, 0.1, 0.2]]))
    assert weights[0, 0] == pytest.approx(0.7)


def test_only_a_first_token_readout_has_a_place_of_its_own():
    weights = torch.tensor([[0.7, 0.1, 0.2]])
    assert without_readout(weights, "first_token")[0, 0] == 0
    assert without_readout(weights, "mean") is weights
