"""The students against second routes: equations restated, other libraries, planted impulses."""

import math

import numpy as np
import pytest
import scipy.fft
import torch
import torch.nn.functional as F
from torch import Tensor

from students import STUDENTS, Mfcc, Student, build_student
from students.lstm_p import PeepholeLstm

N_MELS = 40


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(("n_mels", "n_mfcc"), [(40, 20), (40, 40), (80, 40)])
def test_mfcc_is_the_scaled_dct(n_mels: int, n_mfcc: int) -> None:
    """scipy's unnormalised DCT-II over sqrt(2 N), as tf.signal.mfccs_from_log_mel_spectrograms computes it."""
    features = torch.randn(2, n_mels, 7)
    expected = scipy.fft.dct(features.numpy(), type=2, axis=1)[:, :n_mfcc] / math.sqrt(2 * n_mels)
    np.testing.assert_allclose(Mfcc(n_mels, n_mfcc)(features).numpy(), expected, atol=1e-5)


def test_first_coefficient_is_scaled_like_the_others() -> None:
    """A constant frame of 1 over 40 bins gives sqrt(2 / 40) * 40, by hand; the orthonormal DCT would give sqrt(40)."""
    assert Mfcc(40, 20)(torch.ones(1, 40, 1))[0, 0, 0].item() == pytest.approx(math.sqrt(80))


def test_lstm_follows_the_equations_of_sak_et_al() -> None:
    """arXiv 1402.1128, equations 7 to 12, restated gate by gate in numpy."""
    n_inputs, n_units, n_projected, n_frames = 3, 7, 4, 11
    lstm = PeepholeLstm(n_inputs, n_units, n_projected).double()
    x = torch.randn(2, n_inputs, n_frames, dtype=torch.float64)
    parameters = {name: value.detach().numpy() for name, value in lstm.named_parameters()}
    (w_ix, w_fx, w_cx, w_ox), (w_ir, w_fr, w_cr, w_or) = (
        np.split(columns, 4) for columns in np.split(parameters["weight"], [n_inputs], axis=1)
    )
    b_i, b_f, b_c, b_o = np.split(parameters["bias"], 4)
    w_ic, w_fc, w_oc = parameters["peepholes"]

    for clip, found in zip(x.numpy(), lstm(x).detach().numpy(), strict=True):
        c, r = np.zeros(n_units), np.zeros(n_projected)
        for t in range(n_frames):
            x_t = clip[:, t]
            i = sigmoid(w_ix @ x_t + w_ir @ r + w_ic * c + b_i)
            f = sigmoid(w_fx @ x_t + w_fr @ r + w_fc * c + b_f)
            c = f * c + i * np.tanh(w_cx @ x_t + w_cr @ r + b_c)
            o = sigmoid(w_ox @ x_t + w_or @ r + w_oc * c + b_o)
            r = parameters["projection"] @ (o * np.tanh(c))
            np.testing.assert_allclose(found[t], r, atol=1e-12)


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


def test_crnn_resets_after_the_recurrent_product() -> None:
    """Keras's GRU with reset_after=True, restated: r gates U h + b, not h, and each gate has two biases."""
    gru = build_student("crnn", 12).gru.double()
    with torch.no_grad():
        for bias in (gru.bias_ih_l0, gru.bias_hh_l0):
            bias.normal_()
    kernel_r, kernel_z, kernel_h = np.split(gru.weight_ih_l0.detach().numpy(), 3)
    recurrent_r, recurrent_z, recurrent_h = np.split(gru.weight_hh_l0.detach().numpy(), 3)
    input_r, input_z, input_h = np.split(gru.bias_ih_l0.detach().numpy(), 3)
    bias_r, bias_z, bias_h = np.split(gru.bias_hh_l0.detach().numpy(), 3)

    x = torch.randn(1, 6, 256, dtype=torch.float64)
    h = np.zeros(256)
    for x_t, found in zip(x[0].numpy(), gru(x)[0][0].detach().numpy(), strict=True):
        z = sigmoid(kernel_z @ x_t + input_z + recurrent_z @ h + bias_z)
        r = sigmoid(kernel_r @ x_t + input_r + recurrent_r @ h + bias_r)
        candidate = np.tanh(kernel_h @ x_t + input_h + r * (recurrent_h @ h + bias_h))
        h = z * h + (1 - z) * candidate
        np.testing.assert_allclose(found, h, atol=1e-12)


@pytest.mark.parametrize("n_frames", [49, 99, 199])
def test_tc_resnet_pads_as_tensorflow_does(n_frames: int) -> None:
    """The whole network restated, padding by TensorFlow's formula for "same", at the papers' clip lengths."""
    student = build_student("tc_resnet", 12).double().eval()
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)

    def convolve(x: Tensor, conv: torch.nn.Conv1d, stride: int) -> Tensor:
        kernel_size, n_in = conv.weight.shape[2], x.shape[2]
        total = max((math.ceil(n_in / stride) - 1) * stride + kernel_size - n_in, 0)
        return F.conv1d(F.pad(x, (total // 2, total - total // 2)), conv.weight, conv.bias, stride)

    def normalise(x: Tensor, norm: torch.nn.BatchNorm1d) -> Tensor:
        mean, variance, gamma, beta = (
            value[:, None] for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        return gamma * (x - mean) / torch.sqrt(variance + 1e-3) + beta

    features = torch.randn(2, N_MELS, n_frames, dtype=torch.float64)
    x = torch.relu(normalise(convolve(student.mfcc(features), student.conv, 1), student.norm))
    for n_block, block in enumerate(student.blocks):
        stride = 2 if n_block == 4 else 1
        y = torch.relu(normalise(convolve(x, block.conv1, stride), block.norm1))
        y = normalise(convolve(y, block.conv2, 1), block.norm2)
        if stride == 2:
            x = torch.relu(normalise(convolve(x, block.shortcut_conv, stride), block.shortcut_norm))
        x = torch.relu(x + y)
    logits = x.mean(2) @ student.classifier.weight.T + student.classifier.bias
    torch.testing.assert_close(student(features).frames, x.transpose(1, 2))
    torch.testing.assert_close(student(features).logits, logits)


def transposed(conv: torch.nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Kernel and bias for inputs in TensorFlow's order, frames x coefficients."""
    return conv.weight.transpose(2, 3), conv.bias


def test_crnn_is_the_published_stack() -> None:
    """Restated on frames x coefficients: valid convolutions 3x3 and 5x3, last output, 128 linear, 256 ReLU."""
    student = build_student("crnn", 12).double().eval()
    features = torch.randn(2, N_MELS, 20, dtype=torch.float64)
    x = student.mfcc(features).transpose(1, 2).unsqueeze(1)  # (2, 1, 20 frames, 20 coefficients)
    for conv, size in ((student.conv1, (16, 18, 18)), (student.conv2, (16, 14, 16))):
        x = F.relu(F.conv2d(x, *transposed(conv)))
        assert x.shape[1:] == size
    frames, _ = student.gru(x.permute(0, 2, 1, 3).flatten(2))
    hidden = F.relu(student.dense2(student.dense1(frames[:, 13])))
    torch.testing.assert_close(student(features).frames, frames)
    torch.testing.assert_close(student(features).logits, student.classifier(hidden))


@pytest.mark.parametrize("name", ["att_rnn", "mhatt_rnn"])
def test_att_rnn_rectifies_before_it_normalises(name: str) -> None:
    """Restated on frames x coefficients: 5x1 convolution padded by two frames, ReLU, then BatchNorm; twice."""
    student = build_student(name, 12).double().eval()
    features = torch.randn(2, N_MELS, 20, dtype=torch.float64)
    x = student.mfcc(features).transpose(1, 2).unsqueeze(1)
    for conv, norm in ((student.conv1, student.norm1), (student.conv2, student.norm2)):
        norm.running_mean.normal_()
        x = F.relu(F.conv2d(F.pad(x, (0, 0, 2, 2)), *transposed(conv)))
        x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-3)
    torch.testing.assert_close(student(features).frames, student.gru(x.squeeze(1))[0])


def test_moving_statistics_follow_keras() -> None:
    """Keras's momentum 0.99: one batch moves the mean from 0 by a hundredth of its own."""
    student = build_student("tc_resnet", 12)
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


@pytest.mark.parametrize("name", ["att_rnn", "mhatt_rnn"])
def test_heads_ask_from_the_middle_frame(name: str) -> None:
    """Attention and logits restated in numpy, head by head, frame by frame."""
    student = build_student(name, 12).double().eval()
    output = student(torch.randn(1, N_MELS, 15, dtype=torch.float64))
    frames = output.frames[0].detach().numpy()

    def dense(layer: torch.nn.Linear, x: np.ndarray) -> np.ndarray:
        return layer.weight.detach().numpy() @ x + layer.bias.detach().numpy()

    weights = []
    for layer in student.queries:
        score = np.array([frame @ dense(layer, frames[7]) for frame in frames])
        weights.append(np.exp(score) / np.exp(score).sum())
    context = np.concatenate([head @ frames for head in weights])
    hidden = dense(student.dense2, np.maximum(dense(student.dense1, context), 0))
    np.testing.assert_allclose(output.attention[0].detach().numpy(), np.mean(weights, 0), atol=1e-12)
    np.testing.assert_allclose(output.logits[0].detach().numpy(), dense(student.classifier, hidden), atol=1e-12)


def forgetful(name: str) -> Student:
    """A student whose recurrent layers keep no state, so that `frames` shows what its convolutions see."""
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
            elif isinstance(module, PeepholeLstm):
                module.peepholes.zero_()
                module.weight[:, -module.n_projected :] = 0.0
                module.bias[module.n_units : 2 * module.n_units] = -1e4  # forget gate shut
    return student


@pytest.mark.parametrize("n_frames", [150, 199])
@pytest.mark.parametrize(
    ("name", "reach"),
    [
        ("lstm_p", 0),
        ("tc_resnet", 1 + 4 * (4 + 4) + 4 + 2 * 4 + 2 * (4 + 4)),  # conv, four blocks, then the halved rate
        ("crnn", 1 + 2),
        ("att_rnn", 2 + 2),
        ("mhatt_rnn", 2 + 2),
    ],
)
def test_an_impulse_shows_where_each_student_frame_looks(name: str, reach: int, n_frames: int) -> None:
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
        assert torch.equal(found > 1e-12, (centres - t).abs() <= reach), t  # below: rounding


@pytest.mark.parametrize("name", list(STUDENTS))
def test_student_frames_are_counted_as_the_network_makes_them(name: str) -> None:
    student = build_student(name, 12).eval()
    for n_frames in range(student.min_frames, student.min_frames + 6):
        with torch.no_grad():
            assert student(torch.randn(1, N_MELS, n_frames)).frames.shape[1] == student.student_lengths(n_frames)
