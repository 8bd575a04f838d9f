"""The students against second routes: equations restated, other libraries, planted impulses."""

import math

import numpy as np
import pytest
import scipy.fft
import torch
from students_in_numpy import RESTATED

from students import STUDENTS, Mfcc, Student, build_student
from students.networks.bc_resnet import BroadcastBlock
from students.networks.kwt import TransformerBlock
from students.networks.lstm_p import PeepholeLstm

N_MELS = 40


def lived_in(name: str) -> Student:
    """A student in evaluation mode, float64, none of whose numbers is the 0 or 1 it would start with."""
    student = build_student(name, 12).double().eval()
    with torch.no_grad():
        for key, value in student.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif key.endswith(("bias", "running_mean")) or "bias_" in key:
                value.normal_(0.0, 0.3)
            elif "norm" in key and key.endswith("weight"):
                value.uniform_(0.5, 1.5)
    return student


def assert_restated(name: str, n_frames: int) -> None:
    student, features = lived_in(name), 3 * torch.randn(1, N_MELS, n_frames, dtype=torch.float64) - 4
    arrays = {key: value.numpy() for key, value in student.state_dict().items()}
    with torch.no_grad():
        found = student(features)
    logits, frames, attention = RESTATED[name](arrays, features[0].numpy())
    np.testing.assert_allclose(found.logits[0].numpy(), logits, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(found.frames[0].numpy(), frames, rtol=1e-9, atol=1e-11)
    if attention is None:
        assert found.attention is None
    else:
        np.testing.assert_allclose(found.attention[0].numpy(), attention, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", list(STUDENTS))
def test_every_student_is_its_published_layers(name: str) -> None:
    """Logits, frames and attention of a second, the papers' clip, as numpy computes them from the same numbers."""
    assert_restated(name, 49)


@pytest.mark.parametrize("n_frames", [99, 199])
def test_tc_resnet_pads_as_tensorflow_does(n_frames: int) -> None:
    """Also at the other lengths of arXiv 2110.14131, which are all odd; see `ResidualBlock`."""
    assert_restated("tc_resnet", n_frames)


@pytest.mark.parametrize(("n_mels", "n_mfcc"), [(40, 20), (40, 40), (80, 40)])
def test_mfcc_is_the_scaled_dct(n_mels: int, n_mfcc: int) -> None:
    """scipy's unnormalised DCT-II over sqrt(2 N), as tf.signal.mfccs_from_log_mel_spectrograms computes it."""
    features = torch.randn(2, n_mels, 7)
    expected = scipy.fft.dct(features.numpy(), type=2, axis=1)[:, :n_mfcc] / math.sqrt(2 * n_mels)
    np.testing.assert_allclose(Mfcc(n_mels, n_mfcc)(features).numpy(), expected, atol=1e-5)


def test_first_coefficient_is_scaled_like_the_others() -> None:
    """A constant frame of 1 over 40 bins gives sqrt(2 / 40) * 40, by hand; the orthonormal DCT would give sqrt(40)."""
    assert Mfcc(40, 20)(torch.ones(1, 40, 1))[0, 0, 0].item() == pytest.approx(math.sqrt(80))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
def test_lstm_without_peepholes_is_torchs_own() -> None:
    """With peepholes of 0, torch.nn.LSTM with a projection computes the same."""
    ours, theirs = PeepholeLstm(5, 8, 3), torch.nn.LSTM(5, 8, proj_size=3, batch_first=True)
    with torch.no_grad():
        ours.peepholes.zero_()
        theirs.weight_ih_l0.copy_(ours.weight[:, :5])
        theirs.weight_hh_l0.copy_(ours.weight[:, 5:])
        theirs.weight_hr_l0.copy_(ours.projection)
        theirs.bias_ih_l0.copy_(ours.bias)
        theirs.bias_hh_l0.zero_()
    x = torch.randn(2, 5, 9)
    torch.testing.assert_close(ours(x), theirs(x.transpose(1, 2))[0])


def test_lstm_starts_with_its_forget_gate_open() -> None:
    bias = build_student("lstm_p", 12).lstm.bias.view(4, 500)
    assert (bias[1] == 1).all()
    assert (bias[[0, 2, 3]] == 0).all()


def test_moving_statistics_follow_keras() -> None:
    """Keras's momentum 0.99: once under way, one batch moves the mean from 0 by a hundredth of its own."""
    student = build_student("tc_resnet", 12)
    student.norm.num_batches_tracked.fill_(100)
    features = torch.randn(4, N_MELS, 30)
    student(features)
    expected = 0.01 * student.conv(student.mfcc(features)).mean((0, 2))
    torch.testing.assert_close(student.norm.running_mean, expected)


@pytest.mark.parametrize("name", ["crnn", "att_rnn", "mhatt_rnn"])
def test_training_starts_as_in_keras(name: str) -> None:
    """Orthogonal recurrent kernels, Glorot-uniform kernels, biases of 0."""
    student = build_student(name, 12)
    recurrent = student.gru.weight_hh_l0
    torch.testing.assert_close(recurrent.T @ recurrent, torch.eye(recurrent.shape[1]), rtol=0, atol=1e-5)
    for kernel in (student.gru.weight_ih_l0, student.dense1.weight):
        bound = math.sqrt(6 / sum(kernel.shape))
        assert 0.98 * bound < kernel.abs().max() <= bound
    assert not any(p.any() for key, p in student.named_parameters() if "bias" in key)


def forgetful(name: str) -> Student:
    """A student without recurrence and attention, so that `frames` shows what its convolutions see."""
    student = build_student(name, 12).double().eval()
    with torch.no_grad():
        for module in student.modules():
            if isinstance(module, torch.nn.GRU):
                n_units = module.hidden_size
                for key, parameter in module.named_parameters():
                    if key.startswith("weight_hh"):
                        parameter.zero_()
                    elif key.startswith("bias_ih"):
                        parameter[n_units : 2 * n_units] = -1e4  # update gate shut: h is the candidate
            elif isinstance(module, TransformerBlock):
                module.out.weight.zero_()
            elif isinstance(module, BroadcastBlock):
                module.time.weight.fill_(3.0)  # as drawn, what comes from the fringe fades below rounding
            elif isinstance(module, PeepholeLstm):
                module.peepholes.zero_()
                module.weight[:, -module.n_projected :] = 0.0
                module.bias[module.n_units : 2 * module.n_units] = -1e4  # forget gate shut
    return student


@pytest.mark.parametrize("n_frames", [150, 199])
@pytest.mark.parametrize("name", list(STUDENTS))
def test_an_impulse_shows_where_each_student_frame_looks(name: str, n_frames: int) -> None:
    """Changing feature frame t changes student frame j exactly if |offset + stride * j - t| <= reach."""
    student = forgetful(name)
    features = torch.randn(1, N_MELS, n_frames, dtype=torch.float64)
    moments = [0, 1, 74, 75, n_frames - 2, n_frames - 1]
    changed = features.repeat(len(moments), 1, 1)
    for row, t in zip(changed, moments, strict=True):
        row[:, t] += 10 * torch.randn(N_MELS, dtype=torch.float64)
    with torch.no_grad():
        difference = (student(changed).frames - student(features).frames).abs().amax(2)  # (moment, T_student)
    centres = student.offset + student.stride * torch.arange(difference.shape[1])
    for t, found in zip(moments, difference, strict=True):
        assert torch.equal(found > 1e-12, (centres - t).abs() <= student.reach), t  # below: rounding


@pytest.mark.parametrize("name", list(STUDENTS))
def test_student_frames_are_counted_as_the_network_makes_them(name: str) -> None:
    student = build_student(name, 12).eval()
    for n_frames in range(student.min_frames, student.min_frames + 6):
        with torch.no_grad():
            assert student(torch.randn(1, N_MELS, n_frames)).frames.shape[1] == student.student_lengths(n_frames)
