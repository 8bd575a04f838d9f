"""Recurrent layers, with their training on a CPU written out.

torch runs a GRU, and whatever is looped over frames, as dozens of small recorded operations a frame. Here a whole
sequence is one operation, with gradients written by hand: frame by frame is done only what must be; the inputs of many
frames are one product, and so are weight gradients. Under autocast the factors of products are of its dtype, while
states, gates, their gradients and sums over time stay float32.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
tanh_backward = torch.ops.aten.tanh_backward.grad_input

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
    return product(x.t().contiguous(), gradient.t())


def product_dtype(x: Tensor) -> torch.dtype:
    """Of the factors of products: autocast's where it is on, x's own elsewhere."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def tanh_(x: Tensor) -> Tensor:
    """tanh in place, as 2 sigmoid(2 x) - 1: torch's sigmoid is several times as fast as its tanh."""
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


def _by_onednn(dtype: torch.dtype) -> bool:
    return dtype in _ONEDNN_DTYPES and torch.backends.mkldnn.enabled


class GruSequence(torch.autograd.Function):
    """One GRU layer over whole sequences from a state of zeros, each direction in its own order of time.

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
    def forward(ctx, x: Tensor, *parameters: Tensor) -> Tensor:
        """h, (n_directions, T, batch, n_units).

        Args:
            x: (n_directions, T, batch, n_inputs).
            parameters: W, U, b and d of each direction.
        """
        n_directions, _, batch, _ = x.shape
        n_units = parameters[1].shape[1]
        state, dtype = parameters[0].dtype, product_dtype(x)
        with torch.autocast("cpu", enabled=False):
            x = x.to(dtype)
            w_all, u_all, b_all, d_all = ([p.to(dtype) for p in parameters[n::4]] for n in range(4))
            u_packed = [packed(u, batch) for u in u_all]
            h = [torch.zeros(n_directions, batch, n_units, dtype=state)]
            factors, gates, n = [h[0].to(dtype)], [], []  # gates: r, z, m
            for block in x.split(max(1, BLOCK_ROWS // batch), 1):
                from_x = torch.empty(*block.shape[:3], 3 * n_units, dtype=state)
                for k in range(n_directions):
                    from_x[k].copy_(product(block[k], w_all[k], b_all[k]))
                for from_x_rz, from_x_n in zip(
                    from_x[..., : 2 * n_units].unbind(1), from_x[..., 2 * n_units :].unbind(1), strict=True
                ):
                    products = [product(factors[-1][k], u_packed[k], d_all[k]) for k in range(n_directions)]
                    gates.append((products[0].unsqueeze(0) if n_directions == 1 else torch.stack(products)).to(state))
                    gates[-1][..., : 2 * n_units].add_(from_x_rz).sigmoid_()
                    r, z, m = gates[-1].split(n_units, 2)
                    n.append(tanh_(torch.addcmul(from_x_n, r, m)))
                    h.append(torch.lerp(n[-1], h[-1], z))
                    factors.append(h[-1].to(dtype))
            ctx.save_for_backward(x, *w_all, *u_all, *gates, *n, *h, *factors)
            return torch.stack(h[1:], 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x and of the parameters; grad (n_directions, T, batch, n_units)."""
        x, *saved = ctx.saved_tensors
        n_directions, n_frames, batch, n_units = grad.shape
        counts = (n_directions, n_directions, n_frames, n_frames, n_frames + 1, n_frames + 1)
        w_all, u_all, gates, n, h, factors = (saved[sum(counts[:i]) : sum(counts[: i + 1])] for i in range(6))
        with torch.autocast("cpu", enabled=False):
            u_packed = [packed(u.t(), batch) for u in u_all]
            dw_all, du_all = ([torch.zeros_like(w.t(), dtype=grad.dtype) for w in all_] for all_ in (w_all, u_all))
            dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
            now = torch.empty_like(gates[0])
            dr, dz, dm = now.split(n_units, 2)
            g, kept, dn, scratch = (torch.zeros_like(h[0]) for _ in range(4))
            sum_now, sum_dn = torch.zeros_like(now), torch.zeros_like(dn)
            size = max(1, BLOCK_ROWS // batch)
            for first in reversed(range(0, n_frames, size)):
                block = range(first, min(first + size, n_frames))
                through = torch.empty(n_directions, len(block), batch, 3 * n_units, dtype=x.dtype)
                dn_block = torch.empty(n_directions, len(block), batch, n_units, dtype=x.dtype)
                for t in reversed(block):
                    r, z, m = gates[t].split(n_units, 2)
                    g.add_(grad[:, t])
                    torch.mul(g, z, out=kept)
                    torch.sub(g, kept, out=scratch)
                    tanh_backward(scratch, n[t], grad_input=dn)
                    torch.sub(h[t], n[t], out=scratch).mul_(g)
                    sigmoid_backward(scratch, z, grad_input=dz)
                    torch.mul(dn, r, out=dm)
                    torch.mul(dn, m, out=scratch)
                    sigmoid_backward(scratch, r, grad_input=dr)
                    sum_now.add_(now)
                    sum_dn.add_(dn)
                    dn_block[:, t - first] = dn
                    through_t = through[:, t - first].copy_(now)
                    for k in range(n_directions):
                        torch.add(kept[k], product(through_t[k], u_packed[k]), out=g[k])
                for k in range(n_directions):
                    rows = through[k].flatten(0, 1)
                    du_all[k] += weight_gradient(rows, torch.cat([factors[t][k] for t in block]))
                    through[k, ..., 2 * n_units :] = dn_block[k]  # now of the inputs' products
                    dw_all[k] += weight_gradient(rows, x[k, block.start : block.stop].flatten(0, 1))
                    if dx is not None:
                        dx[k, block.start : block.stop] = product(through[k], w_all[k].t())
            dd = sum_now.sum(1)
            db = torch.cat([dd[:, : 2 * n_units], sum_dn.sum(1)], 1)
        return dx, *(
            gradient
            for dw, du, db_k, dd_k in zip(dw_all, du_all, db, dd, strict=True)
            for gradient in (dw.t(), du.t(), db_k, dd_k)
        )


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
        if not (self.by_hand and self.training and x.device.type == "cpu") or torch.compiler.is_compiling():
            if lengths is None or not self.bidirectional:
                return super().forward(x)[0]
            packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
            return pad_packed_sequence(super().forward(packed)[0], batch_first=True, total_length=x.shape[1])[0]
        x = x.transpose(0, 1)  # (T, batch, n_inputs)
        n_directions = 2 if self.bidirectional else 1
        for layer in range(self.num_layers):
            directions = self.all_weights[layer * n_directions : (layer + 1) * n_directions]
            parameters = [parameter for direction in directions for parameter in direction]
            if self.bidirectional:
                forward, backward = GruSequence.apply(torch.stack([x, reversed_in_time(x, lengths)]), *parameters)
                x = torch.cat([forward, reversed_in_time(backward, lengths)], 2)
            else:
                x = GruSequence.apply(x.unsqueeze(0), *parameters).squeeze(0)
        return x.transpose(0, 1)


def reversed_in_time(x: Tensor, lengths: Tensor | None) -> Tensor:
    """x (T, batch, n_channels) with each clip's valid frames in reverse order, its padding where it was."""
    if lengths is None:
        return x.flip(0)
    n_frames, batch, _ = x.shape
    t = torch.arange(n_frames).unsqueeze(1)
    source = torch.where(t < lengths, lengths - 1 - t, t)  # (T, batch)
    rows = source * batch + torch.arange(batch)
    return x.flatten(0, 1).index_select(0, rows.flatten()).view_as(x)
