"""The students restated in numpy, one clip at a time, layer by layer from what is published.

TensorFlow's order throughout: what flows is (frames, rows, channels), a kernel is (frames, rows, channels in, channels
out), "same" padding is by TensorFlow's formula. Each function takes a student's saved arrays `p` and its log-mel
features (n_mels, T), and returns logits, frames and attention (None where the student has none).
"""

import math
from collections.abc import Mapping

import numpy as np
import scipy.special
from numpy import ndarray
from numpy.lib.stride_tricks import sliding_window_view

Output = tuple[ndarray, ndarray, ndarray | None]


def relu(x: ndarray) -> ndarray:
    return np.maximum(x, 0)


def sigmoid(x: ndarray) -> ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: ndarray) -> ndarray:
    raised = np.exp(x - x.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def inner(p: Mapping[str, ndarray], prefix: str) -> dict[str, ndarray]:
    """The arrays of one part of a network, without its prefix."""
    return {key.removeprefix(f"{prefix}."): value for key, value in p.items() if key.startswith(f"{prefix}.")}


def mfcc(features: ndarray, n_mfcc: int) -> ndarray:
    """(T, n_mfcc): the DCT-II of each frame, by its definition; the students keep its cosines in float32."""
    n_mels = len(features)
    dct = [[math.cos(math.pi / n_mels * k * (m + 0.5)) for m in range(n_mels)] for k in range(n_mfcc)]
    return features.T @ np.float32(math.sqrt(2 / n_mels) * np.array(dct)).T


def same(x: ndarray, axis: int, size: int, stride: int) -> ndarray:
    """x padded as TensorFlow pads for "same"; `size`: frames or rows that a dilated kernel spans."""
    total = max((math.ceil(x.shape[axis] / stride) - 1) * stride + size - x.shape[axis], 0)
    return np.pad(x, [(total // 2, total - total // 2) if n == axis else (0, 0) for n in range(3)])


def conv(
    x: ndarray,
    kernel: ndarray,
    bias: ndarray | float = 0.0,
    strides: tuple[int, int] = (1, 1),
    dilation: int = 1,
    padding: tuple[str, str] = ("same", "same"),
    depthwise: bool = False,
) -> ndarray:
    """Convolution over frames and rows; `dilation` over frames. A depthwise kernel is (frames, rows, 1, channels)."""
    sizes = ((kernel.shape[0] - 1) * dilation + 1, kernel.shape[1])
    for axis in (0, 1):
        if padding[axis] == "same":
            x = same(x, axis, sizes[axis], strides[axis])
    seen = sliding_window_view(x, sizes, axis=(0, 1))[:: strides[0], :: strides[1], :, ::dilation]
    if depthwise:
        return np.einsum("trcij,ijc->trc", seen, kernel[:, :, 0]) + bias
    return np.einsum("trcij,ijco->tro", seen, kernel, optimize=True) + bias


def kernel_1d(weight: ndarray) -> ndarray:
    """A saved (out, in, frames) as (frames, 1, in, out)."""
    return weight.transpose(2, 1, 0)[:, None]


def kernel_2d(weight: ndarray) -> ndarray:
    """A saved (out, in, rows, frames) as (frames, rows, in, out)."""
    return weight.transpose(3, 2, 1, 0)


def batch_norm(x: ndarray, p: Mapping[str, ndarray], epsilon: float = 1e-3) -> ndarray:
    return p["weight"] * (x - p["running_mean"]) / np.sqrt(p["running_var"] + epsilon) + p["bias"]


def layer_norm(x: ndarray, p: Mapping[str, ndarray]) -> ndarray:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return p["weight"] * (x - mean) / np.sqrt(variance + 1e-6) + p["bias"]


def dense(x: ndarray, p: Mapping[str, ndarray]) -> ndarray:
    return x @ p["weight"].T + p.get("bias", 0.0)


def gru(x: ndarray, p: Mapping[str, ndarray], suffix: str) -> ndarray:
    """Keras's GRU with reset_after=True: r gates U h + b, not h, and each gate has two biases."""
    (w_r, w_z, w_h), (u_r, u_z, u_h), (b_r, b_z, b_h), (d_r, d_z, d_h) = (
        np.split(p[f"{name}_{suffix}"], 3) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    h, outputs = np.zeros(len(b_h)), []
    for x_t in x:
        z = sigmoid(w_z @ x_t + b_z + u_z @ h + d_z)
        r = sigmoid(w_r @ x_t + b_r + u_r @ h + d_r)
        h = z * h + (1 - z) * np.tanh(w_h @ x_t + b_h + r * (u_h @ h + d_h))
        outputs.append(h)
    return np.array(outputs)


def peephole_lstm(x: ndarray, p: Mapping[str, ndarray]) -> ndarray:
    """Sak, Senior, Beaufays 2014 (arXiv 1402.1128), equations 7 to 12, gate by gate."""
    w, u = np.split(p["weight"], [x.shape[1]], axis=1)
    (w_i, w_f, w_c, w_o), (u_i, u_f, u_c, u_o), (b_i, b_f, b_c, b_o) = (np.split(a, 4) for a in (w, u, p["bias"]))
    v_i, v_f, v_o = p["peepholes"]
    c, r, outputs = np.zeros(len(b_c)), np.zeros(len(p["projection"])), []
    for x_t in x:
        i = sigmoid(w_i @ x_t + u_i @ r + v_i * c + b_i)
        f = sigmoid(w_f @ x_t + u_f @ r + v_f * c + b_f)
        c = f * c + i * np.tanh(w_c @ x_t + u_c @ r + b_c)
        o = sigmoid(w_o @ x_t + u_o @ r + v_o * c + b_o)
        r = p["projection"] @ (o * np.tanh(c))
        outputs.append(r)
    return np.array(outputs)


def lstm_p(p: Mapping[str, ndarray], features: ndarray) -> Output:
    frames = peephole_lstm(mfcc(features, 20), inner(p, "lstm"))
    return dense(frames[-1], inner(p, "classifier")), frames, None


def crnn(p: Mapping[str, ndarray], features: ndarray) -> Output:
    """Kernels of 3x3 and 5x3 frames x coefficients, valid; what the GRU reads is ordered by channel, then row."""
    x = mfcc(features, 20)[:, :, None]
    for name in ("conv1", "conv2"):
        x = relu(conv(x, kernel_2d(p[f"{name}.weight"]), p[f"{name}.bias"], padding=("valid", "valid")))
    frames = gru(x.transpose(0, 2, 1).reshape(len(x), -1), inner(p, "gru"), "l0")
    hidden = relu(dense(dense(frames[-1], inner(p, "dense1")), inner(p, "dense2")))
    return dense(hidden, inner(p, "classifier")), frames, None


def att_rnn(p: Mapping[str, ndarray], features: ndarray) -> Output:
    """For any number of heads; ReLU before BatchNorm."""
    x = mfcc(features, 20)[:, :, None]
    for n in (1, 2):
        x = batch_norm(relu(conv(x, kernel_2d(p[f"conv{n}.weight"]), p[f"conv{n}.bias"])), inner(p, f"norm{n}"))
    x = x[:, :, 0]
    for layer in ("l0", "l1"):
        backward = gru(x[::-1], inner(p, "gru"), f"{layer}_reverse")[::-1]
        x = np.concatenate([gru(x, inner(p, "gru"), layer), backward], axis=1)
    middle, heads = x[len(x) // 2], []
    while f"queries.{len(heads)}.weight" in p:
        heads.append(softmax(x @ dense(middle, inner(p, f"queries.{len(heads)}"))))
    context = np.concatenate([head @ x for head in heads])
    hidden = dense(relu(dense(context, inner(p, "dense1"))), inner(p, "dense2"))
    return dense(hidden, inner(p, "classifier")), x, np.mean(heads, axis=0)


def tc_resnet(p: Mapping[str, ndarray], features: ndarray) -> Output:
    """For any widths: a block with a convolution on its shortcut halves the frame rate."""

    def conv_norm(x: ndarray, p: Mapping[str, ndarray], conv_name: str, norm_name: str, stride: int) -> ndarray:
        kernel, bias = kernel_1d(p[f"{conv_name}.weight"]), p.get(f"{conv_name}.bias", 0.0)
        return batch_norm(conv(x, kernel, bias, (stride, 1)), inner(p, norm_name))

    x = relu(conv_norm(mfcc(features, 40)[:, None], p, "conv", "norm", 1))
    n = 0
    while block := inner(p, f"blocks.{n}"):
        stride = 2 if "shortcut_conv.weight" in block else 1
        y = relu(conv_norm(x, block, "conv1", "norm1", stride))
        y = conv_norm(y, block, "conv2", "norm2", 1)
        if stride == 2:
            x = relu(conv_norm(x, block, "shortcut_conv", "shortcut_norm", 2))
        x, n = relu(x + y), n + 1
    return dense(x[:, 0].mean(0), inner(p, "classifier")), x[:, 0], None


def ds_tc_resnet(p: Mapping[str, ndarray], features: ndarray) -> Output:
    """For any number of blocks and repeats; the fifth block is dilated twice."""

    def separable(x: ndarray, p: Mapping[str, ndarray], dilation: int) -> ndarray:
        if "depthwise.weight" in p:
            x = conv(x, kernel_1d(p["depthwise.weight"]), dilation=dilation, depthwise=True)
        return batch_norm(conv(x, kernel_1d(p["pointwise.weight"])), inner(p, "norm"))

    x, n = mfcc(features, 40)[:, None], 0
    while block := inner(p, f"blocks.{n}"):
        dilation = 2 if n == 4 else 1
        y, repeat = separable(x, inner(block, "convs.0"), dilation), 1
        while f"convs.{repeat}.pointwise.weight" in block:
            y, repeat = separable(relu(y), inner(block, f"convs.{repeat}"), dilation), repeat + 1
        if "shortcut.pointwise.weight" in block:
            y = y + separable(x, inner(block, "shortcut"), 1)
        x, n = relu(y), n + 1
    return dense(x[:, 0].mean(0), inner(p, "classifier")), x[:, 0], None


def bc_resnet(p: Mapping[str, ndarray], features: ndarray) -> Output:
    """For any width. Rows are mel bins; the authors pad by half a kernel, also where they skip every other row."""

    def halved(x: ndarray, kernel: ndarray, stride: int, depthwise: bool) -> ndarray:
        x = np.pad(x, [(0, 0), (kernel.shape[1] // 2,) * 2, (0, 0)])
        return conv(x, kernel, strides=(1, stride), padding=("same", "valid"), depthwise=depthwise)

    def sub_spectral_norm(x: ndarray, p: Mapping[str, ndarray]) -> ndarray:
        """BatchNorm with constants of its own for each channel in each fifth of the rows."""
        of_bands = {key: value.reshape(-1, 5) for key, value in p.items() if value.ndim}  # (channels, bands)
        by_row = {key: value.repeat(x.shape[1] // 5, axis=1).T for key, value in of_bands.items()}
        return batch_norm(x, by_row, 1e-5)

    x = halved(features.T[:, :, None], kernel_2d(p["conv.weight"]), 2, depthwise=False)
    x = relu(batch_norm(x, inner(p, "norm"), 1e-5))
    for n in range(12):
        block = inner(p, f"blocks.{n}")
        widened = x
        if "widen.weight" in block:
            widened = relu(batch_norm(conv(x, kernel_2d(block["widen.weight"])), inner(block, "widen_norm"), 1e-5))
        stride = 2 if n in (2, 4) else 1
        rows = halved(widened, kernel_2d(block["frequency.weight"]), stride, depthwise=True)
        rows = sub_spectral_norm(rows, inner(block, "frequency_norm.norm"))
        dilation = 1 if n < 2 else 2 if n < 4 else 4 if n < 8 else 8
        y = conv(rows.mean(1, keepdims=True), kernel_1d(block["time.weight"]), dilation=dilation, depthwise=True)
        y = batch_norm(y, inner(block, "time_norm"), 1e-5)
        y = conv(y * sigmoid(y), kernel_1d(block["mix.weight"])) + rows
        x = relu(y if "widen.weight" in block else y + x)
    x = conv(x, kernel_2d(p["head.weight"]), padding=("same", "valid"), depthwise=True)
    x = relu(batch_norm(conv(x, kernel_2d(p["head_mix.weight"])), inner(p, "head_norm"), 1e-5))
    return dense(x.mean((0, 1)), inner(p, "classifier")), x.mean(1), None


def kwt(p: Mapping[str, ndarray], features: ndarray) -> Output:
    """All tokens through all blocks; frames are the tokens before the last, attention the class token's in it."""
    x = np.concatenate([p["class_token"][None], dense(mfcc(features, 40), inner(p, "project"))])
    n_tokens, n_channels = x.shape
    angles = np.arange(n_tokens)[:, None] / 10_000 ** (np.arange(0, n_channels, 2) / n_channels)
    x = x + np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    for n in range(12):
        block, before = inner(p, f"blocks.{n}"), x
        q, k, v = (dense(x, inner(block, name)) for name in ("queries", "keys", "values"))
        attention = softmax(q @ k.T / math.sqrt(n_channels))
        x = layer_norm(x + dense(attention @ v, inner(block, "out")), inner(block, "norm1"))
        hidden = dense(x, inner(block, "dense1"))
        gelu = hidden * 0.5 * (1 + scipy.special.erf(hidden / math.sqrt(2)))
        x = layer_norm(x + dense(gelu, inner(block, "dense2")), inner(block, "norm2"))
    return dense(x[0], inner(p, "classifier")), before[1:], attention[0, 1:] / attention[0, 1:].sum()


RESTATED = {
    "lstm_p": lstm_p,
    "tc_resnet": tc_resnet,
    "crnn": crnn,
    "att_rnn": att_rnn,
    "mhatt_rnn": att_rnn,
    "tc_resnet8": tc_resnet,
    "tc_resnet14_1.5": tc_resnet,
    "ds_tc_resnet": ds_tc_resnet,
    "matchboxnet_3x2x64": ds_tc_resnet,
    **{f"bc_resnet_{width}": bc_resnet for width in (1, 2, 3, 6, 8)},
    "kwt_1": kwt,
}
