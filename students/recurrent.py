"""Recurrent layers, with their training on a CPU written out.

torch runs a GRU, and whatever is looped over frames, as dozens of small recorded operations a frame. Here a whole
sequence is one operation: all frames' inputs in one product, then only what must be done frame by frame, in buffers
made once; backwards likewise, all weight gradients in one product at the end. Under autocast the factors of products
are of its dtype, and the states, gates and their gradients stay float32.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias, as `linear`; outside of autograd.

    By oneDNN where torch has it: for float32, `linear` takes MKL, which is half as fast on CPUs that are not Intel's.
    """
    if x.dtype == torch.float64 or not torch.backends.mkldnn.is_available():
        return linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """gradient^T x, (n_outputs, n_inputs) float32, for gradient (n, n_outputs) and x (n, n_inputs)."""
    return product(x.t().contiguous(), gradient.t()).t().to(torch.promote_types(x.dtype, torch.float32))


def product_dtype(x: Tensor) -> torch.dtype:
    """Autocast's dtype where it is on, x's own elsewhere."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def tanh_(x: Tensor) -> Tensor:
    """tanh in place, as 2 sigmoid(2 x) - 1: torch's sigmoid is several times as fast as its tanh."""
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


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
        dtype = product_dtype(x)
        with torch.autocast("cpu", enabled=False):
            x = x.to(dtype)
            w_all, u_all, b_all, d_all = ([p.to(dtype) for p in parameters[n::4]] for n in range(4))
            n_directions, n_frames, batch, _ = x.shape
            n_units = u_all[0].shape[1]
            state = parameters[0].dtype
            from_x = [product(x[k].flatten(0, 1), w_all[k], b_all[k]) for k in range(n_directions)]
            from_x_of = [part.view(n_frames, batch, 3 * n_units).unbind(0) for part in from_x]
            gates = torch.empty(n_directions, n_frames, batch, 3 * n_units, dtype=state)  # r, z, m
            n = torch.empty(n_directions, n_frames, batch, n_units, dtype=state)
            h = torch.zeros(n_directions, n_frames + 1, batch, n_units, dtype=state)
            factors = h if dtype == state else h.to(dtype)
            inputs = torch.empty(n_directions, batch, 3 * n_units, dtype=state)
            inputs_rz, inputs_n = inputs[..., : 2 * n_units], inputs[..., 2 * n_units :]
            rz_of, r_of, z_of, m_of = (
                gates[..., first * n_units : last * n_units].unbind(1)
                for first, last in ((0, 2), (0, 1), (1, 2), (2, 3))
            )
            frames = zip(gates.unbind(1), rz_of, r_of, z_of, m_of, n.unbind(1), strict=True)
            h_of, factors_of = h.unbind(1), factors.unbind(1)
            for t, (gates_t, rz, r, z, m, n_t) in enumerate(frames):
                for k in range(n_directions):
                    gates_t[k].copy_(product(factors_of[t][k], u_all[k], d_all[k]))
                    inputs[k].copy_(from_x_of[k][t])
                rz.add_(inputs_rz).sigmoid_()
                tanh_(torch.addcmul(inputs_n, r, m, out=n_t))
                torch.lerp(n_t, h_of[t], z, out=h_of[t + 1])
                if factors is not h:
                    factors_of[t + 1].copy_(h_of[t + 1])
        ctx.save_for_backward(x, gates, n, h, factors, *w_all, *u_all)
        return h[:, 1:]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x and of the parameters; grad (n_directions, T, batch, n_units)."""
        x, gates, n, h, factors, *weights = ctx.saved_tensors
        n_directions, n_frames, batch, n_units = n.shape
        w_all, u_all = weights[:n_directions], weights[n_directions:]
        with torch.autocast("cpu", enabled=False):
            through = torch.empty_like(gates, dtype=x.dtype)  # of the recurrent products: dr, dz, dm
            dn_all = torch.empty_like(n, dtype=x.dtype)
            now = torch.empty_like(gates[:, 0])
            dr, dz, dm = now.split(n_units, 2)
            g, kept, dn, scratch = (torch.zeros_like(n[:, 0]) for _ in range(4))
            sum_now, sum_dn = torch.zeros_like(now), torch.zeros_like(dn)
            r_of, z_of, m_of = (part.unbind(1) for part in gates.split(n_units, 3))
            n_of, h_of, grad_of = n.unbind(1), h.unbind(1), grad.unbind(1)
            through_of, dn_of = through.unbind(1), dn_all.unbind(1)
            for t in reversed(range(n_frames)):
                r, z, m, n_t = r_of[t], z_of[t], m_of[t], n_of[t]
                g.add_(grad_of[t])
                torch.mul(g, z, out=kept)
                torch.sub(g, kept, out=scratch)
                _tanh_backward(scratch, n_t, grad_input=dn)
                torch.sub(h_of[t], n_t, out=scratch).mul_(g)
                _sigmoid_backward(scratch, z, grad_input=dz)
                torch.mul(dn, r, out=dm)
                torch.mul(dn, m, out=scratch)
                _sigmoid_backward(scratch, r, grad_input=dr)
                sum_now.add_(now)
                sum_dn.add_(dn)
                through_of[t].copy_(now)
                dn_of[t].copy_(dn)
                for k in range(n_directions):
                    torch.add(kept[k], product(through_of[t][k], u_all[k].t()), out=g[k])

            du = [weight_gradient(through[k].flatten(0, 1), factors[k, :-1].flatten(0, 1)) for k in range(n_directions)]
            dd = sum_now.sum(1)
            db = torch.cat([dd[:, : 2 * n_units], sum_dn.sum(1)], 1)
            through[..., 2 * n_units :] = dn_all  # now of the inputs' products
            gradients, dx = [], torch.empty_like(x) if ctx.needs_input_grad[0] else None
            for k in range(n_directions):
                flat = through[k].flatten(0, 1)
                gradients += [weight_gradient(flat, x[k].flatten(0, 1)), du[k], db[k], dd[k]]
                if dx is not None:
                    dx[k] = product(flat, w_all[k].t()).view_as(dx[k])
        return dx, *gradients


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
            parameters = sum(self.all_weights[layer * n_directions : (layer + 1) * n_directions], [])
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
