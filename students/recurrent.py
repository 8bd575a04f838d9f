"""Recurrent layers, with their training on a CPU written out.

torch runs a GRU, and whatever is looped over frames, as dozens of small recorded operations a frame. Here a whole
sequence is one operation, with gradients written by hand: a frame is a product by oneDNN and one compiled call for all
the rest of it (`fused`, where numba is installed), or its share of one compiled loop over frames; the inputs of many
frames are one product, and so are weight gradients. Under autocast products are of its dtype, weight gradients too,
while states, gates, their gradients and the biases' stay float32.
"""

import os
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

_ONEDNN_DTYPES = set()  # none where torch has other names for what it promises nobody
_OPERATORS = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
if torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS):
    _ONEDNN_DTYPES.add(torch.float32)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        _ONEDNN_DTYPES.add(torch.bfloat16)

BLOCK_ROWS = 1024
"""Clips x frames whose products are one: enough for full speed, few enough to stay in a core's cache."""


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias, as `linear`; outside of autograd.

    By oneDNN where torch has it: for float32, `linear` takes MKL, which is half as fast on CPUs that are not Intel's.
    torch offers oneDNN's product on dense tensors only by an operator with an underscore, its compiler's own.
    """
    if not _by_onednn(x.dtype):
        return linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def packed(weight: Tensor, n_rows: int) -> Tensor:
    """A weight for many calls of `product` with n_rows rows, in the order that they read it."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, n_rows) if _by_onednn(weight.dtype) else weight


def weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """x^T gradient, (n_inputs, n_outputs): the transposed gradient of `product`'s weight, over the rows of both."""
    if x.dtype == torch.bfloat16:  # for which `mm` is oneDNN's, too, and copies neither
        return torch.mm(x.t(), gradient)
    return product(x.t().contiguous(), gradient.t())


def product_dtype(x: Tensor) -> torch.dtype:
    """Of the factors of products: autocast's where it is on, x's own elsewhere."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def blocks(x: Tensor) -> list[tuple[int, Tensor]]:
    """x (T, batch, n_inputs) in pieces of some `BLOCK_ROWS` rows, each after the number of its first frame."""
    size = max(1, BLOCK_ROWS // x.shape[1])
    return list(zip(range(0, len(x), size), x.split(size), strict=True))


@cache
def has_numba() -> bool:
    """Whether `fused` can be imported, and is compiled."""
    return find_spec("numba") is not None and os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")


def written_out(x: Tensor, weight: Tensor) -> bool:
    """Whether a recurrent layer in training can take its own operation: on a CPU, in dtypes that `fused` knows."""
    return (
        has_numba()
        and x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and weight.dtype in (torch.float32, torch.float64)
        and product_dtype(x) in (weight.dtype, torch.bfloat16)
    )


def compiled_whole(dtype: torch.dtype) -> bool:
    """Whether a loop over frames can be compiled together with its products, of factors of this dtype."""
    from students import fused

    return dtype == torch.bfloat16 and fused.HAS_GEMM


def _by_onednn(dtype: torch.dtype) -> bool:
    return dtype in _ONEDNN_DTYPES and torch.backends.mkldnn.enabled


class GruSequence(torch.autograd.Function):
    """One direction of a GRU layer over whole sequences, from a state of zeros.

        r_t = sigmoid(W_r x_t + b_r + U_r h_{t-1} + d_r)        z_t likewise
        m_t = U_n h_{t-1} + d_n
        n_t = tanh(W_n x_t + b_n + r_t * m_t)
        h_t = n_t + z_t * (h_{t-1} - n_t)

    and backwards, from g_t = dL/dh_t, of which all later frames' share has arrived:

        dn_t = g_t * (1 - z_t) * (1 - n_t^2)            before the tanh
        dz_t = g_t * (h_{t-1} - n_t) * z_t * (1 - z_t)  before the sigmoid
        dr_t = dn_t * m_t * r_t * (1 - r_t)             before the sigmoid
        dm_t = dn_t * r_t
        g_{t-1} += g_t * z_t + U^T (dr_t, dz_t, dm_t)

    W, U, b and d are nn.GRU's weight_ih, weight_hh, bias_ih and bias_hh, rows in the order r, z, n.
    """

    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor, u: Tensor, b: Tensor, d: Tensor) -> Tensor:
        """h, (T, batch, n_units), of x (T, batch, n_inputs) and the parameters."""
        from students.fused import array, gru_forward, gru_forward_frames

        n_frames, batch, _ = x.shape
        n_units = u.shape[1]
        state, dtype = w.dtype, product_dtype(x)
        with torch.autocast("cpu", enabled=False):
            x, w, u, b, d = (tensor.to(dtype) for tensor in (x, w, u, b, d))
            gates = torch.empty(n_frames, batch, 3 * n_units, dtype=state)  # r, z, m
            n = torch.empty(n_frames, batch, n_units, dtype=state)
            h = torch.empty(n_frames + 1, batch, n_units, dtype=state)
            factors = torch.empty(n_frames + 1, batch, n_units, dtype=dtype)
            h[0], factors[0] = 0, 0
            written = [array(tensor) for tensor in (gates, n, h, factors)]
            whole = compiled_whole(dtype)
            u_packed = None if whole else packed(u, batch)
            products = torch.empty(batch, 3 * n_units)
            for first, block in blocks(x):
                from_x = array(product(block.flatten(0, 1), w, b).view(*block.shape[:2], 3 * n_units))
                if whole:
                    gru_forward_frames(first, from_x, array(u), array(d), array(products), *written)
                else:
                    for t, from_x_t in enumerate(from_x, first):
                        gru_forward(t, from_x_t, array(product(factors[t], u_packed, d)), *written)
            ctx.save_for_backward(x, w, u, gates, n, h, factors)
            return h[1:].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x and of the parameters; grad (T, batch, n_units)."""
        from students.fused import array, gru_backward, gru_backward_frames

        x, w, u, gates, n, h, factors = ctx.saved_tensors
        _, batch, n_units = grad.shape
        grad = grad.contiguous()
        with torch.autocast("cpu", enabled=False):
            whole = compiled_whole(x.dtype)
            u_packed = None if whole else packed(u.t(), batch)
            dw, du = (torch.zeros_like(weight.t(), dtype=grad.dtype) for weight in (w, u))
            dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
            later = torch.zeros(batch, n_units, dtype=torch.float32 if whole else x.dtype)
            g, sum_now, sum_dn = grad.new_zeros(batch, n_units), grad.new_zeros(3 * n_units), grad.new_zeros(n_units)
            read = [array(tensor) for tensor in (gates, n, h, g)]
            sums = array(sum_now), array(sum_dn)
            grad = array(grad)
            for first, block in reversed(blocks(x)):
                through, dn = x.new_empty(*block.shape[:2], 3 * n_units), x.new_empty(*block.shape[:2], n_units)
                through_t, dn_t = array(through), array(dn)
                if whole:
                    gru_backward_frames(first, grad, array(later), array(u), *read, through_t, dn_t, *sums)
                else:
                    for k in reversed(range(len(block))):
                        gru_backward(first + k, grad, array(later), *read, through_t[k], dn_t[k], *sums)
                        later = product(through[k], u_packed)
                rows = through.flatten(0, 1)
                du += weight_gradient(rows, factors[first : first + len(block)].flatten(0, 1))
                through[..., 2 * n_units :] = dn  # now of the inputs' products
                dw += weight_gradient(rows, block.flatten(0, 1))
                if dx is not None:
                    dx[first : first + len(block)] = product(through, w.t())
        return dx, dw.t(), du.t(), torch.cat([sum_now[: 2 * n_units], sum_dn]), sum_now


class Gru(nn.GRU):
    """nn.GRU of batch-first sequences that start from a state of zeros; the same parameters, the same results.

    Attributes:
        by_hand: Whether training on a CPU takes `GruSequence`; where not, as on a GPU and in evaluation, it is torch's.
    """

    by_hand = True

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Outputs (batch, T, n_directions * n_units) of inputs (batch, T, n_inputs), the forward direction's first.

        Args:
            x: Of any floating dtype under autocast.
            lengths: (batch,), int64, valid frames: each clip's backward direction starts at its last. What stands
                beyond is arbitrary. None when all are valid.
        """
        if not (self.by_hand and self.training and written_out(x, self.weight_hh_l0)):
            if not x.is_cuda:
                return self._torchs(x, lengths)
            # Autocast runs cuDNN's recurrent layers in float16, of whatever dtype it is: small gradients would be lost.
            with torch.autocast("cuda", enabled=False):
                return self._torchs(x.to(self.weight_hh_l0.dtype), lengths)
        x = x.transpose(0, 1).contiguous()  # (T, batch, n_inputs)
        n_directions = 2 if self.bidirectional else 1
        for layer in range(self.num_layers):
            forward, *backward = self.all_weights[layer * n_directions : (layer + 1) * n_directions]
            outputs = [GruSequence.apply(x, *forward)]
            for parameters in backward:
                outputs.append(reversed_in_time(GruSequence.apply(reversed_in_time(x, lengths), *parameters), lengths))
            x = torch.cat(outputs, 2)
        return x.transpose(0, 1)

    def _torchs(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is None or not self.bidirectional:
            return super().forward(x)[0]
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(super().forward(packed)[0], batch_first=True, total_length=x.shape[1])[0]


def reversed_in_time(x: Tensor, lengths: Tensor | None) -> Tensor:
    """x (T, batch, n_channels) with each clip's valid frames in reverse order, its padding where it was."""
    if lengths is None:
        return x.flip(0)
    n_frames, batch, _ = x.shape
    t = torch.arange(n_frames).unsqueeze(1)
    source = torch.where(t < lengths, lengths - 1 - t, t)  # (T, batch)
    rows = source * batch + torch.arange(batch)
    return x.flatten(0, 1).index_select(0, rows.flatten()).view_as(x)
