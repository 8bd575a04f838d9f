"""LSTM-P: one LSTM with peepholes and a recurrent projection."""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from students.base import Student
from students.initialisation import keras_init
from students.masking import frame_at
from students.recurrent import blocks, packed, product, product_dtype, weight_gradient, written_out


class PeepholeLstmSequence(torch.autograd.Function):
    """`PeepholeLstm` over whole sequences; and backwards, from s_t = dL/dr_t and e_t, its share of dL/dc_t.

    s_t += W_r^T (di, df, dg, do)_{t+1}             W_r: the rows of W_ir, W_fr, W_cr and W_or
    v = W_rm^T s_t
    do = v * tanh(c_t) * o * (1 - o)                before the sigmoid
    e_t = v * o * (1 - tanh(c_t)^2) + w_oc * do
          + e_{t+1} * f_{t+1} + w_ic * di_{t+1} + w_fc * df_{t+1}
    di = e_t * g * i * (1 - i)                      before the sigmoid, as df = e_t * c_{t-1} * f * (1 - f)
    dg = e_t * i * (1 - g^2)                        before the tanh; g = tanh(...) of equation 9
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, peepholes: Tensor, projection: Tensor) -> Tensor:
        """r, (T, batch, n_projected), of x (T, batch, n_inputs) and the parameters of `PeepholeLstm`."""
        from students.fused import array, lstm_forward

        n_frames, batch, n_inputs = x.shape
        n_projected, n_units = projection.shape
        state, dtype = weight.dtype, product_dtype(x)
        with torch.autocast("cpu", enabled=False):
            weight, bias, projection = weight.to(dtype), bias.to(dtype), projection.to(dtype)
            weight_packed, projection_packed = packed(weight, batch), packed(projection, batch)
            # Side by side, one product of a frame: with so few inputs, projecting them before the loop is slower.
            x_r = torch.zeros(n_frames + 1, batch, n_inputs + n_projected, dtype=dtype)
            x_r[:-1, ..., :n_inputs] = x
            gates = torch.empty(n_frames, batch, 4 * n_units, dtype=state)
            c = torch.zeros(n_frames + 1, batch, n_units, dtype=state)
            tanh_c = torch.empty(n_frames, batch, n_units, dtype=state)
            m = torch.empty(n_frames, batch, n_units, dtype=dtype)
            written = [array(tensor) for tensor in (peepholes.detach(), gates, c, tanh_c, m)]
            for t in range(n_frames):
                lstm_forward(t, array(product(x_r[t], weight_packed, bias)), *written)
                x_r[t + 1, :, n_inputs:] = product(m[t], projection_packed)
            ctx.save_for_backward(weight, peepholes, projection, x_r, gates, c, tanh_c, m)
            return x_r[1:, :, n_inputs:].to(state, copy=True)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x and of the parameters; grad (T, batch, n_projected)."""
        from students.fused import array, lstm_backward

        weight, peepholes, projection, x_r, gates, c, tanh_c, m = ctx.saved_tensors
        _, batch, n_projected = grad.shape
        n_units, n_inputs = projection.shape[1], x_r.shape[2] - n_projected
        with torch.autocast("cpu", enabled=False):
            weight_packed = packed(weight[:, n_inputs:].t(), batch)
            projection_packed = packed(projection.t(), batch)
            dx = x_r.new_empty(*m.shape[:2], n_inputs) if ctx.needs_input_grad[0] else None
            dweight = torch.zeros_like(weight.t(), dtype=grad.dtype)
            dprojection = torch.zeros_like(projection.t(), dtype=grad.dtype)
            dbias, dpeepholes = grad.new_zeros(4 * n_units), grad.new_zeros(3, n_units)
            e, later = grad.new_zeros(batch, n_units), x_r.new_zeros(batch, n_projected)
            read = [array(tensor) for tensor in (peepholes.detach(), gates, c, tanh_c, e)]
            sums = array(dbias), array(dpeepholes)
            for first, m_block in reversed(blocks(m)):
                through = m.new_empty(*m_block.shape[:2], 4 * n_units)
                s = m.new_empty(*m_block.shape[:2], n_projected)
                through_t = array(through)
                for k in reversed(range(len(m_block))):
                    torch.add(grad[first + k], later, out=s[k])
                    v = product(s[k], projection_packed)
                    lstm_backward(first + k, array(v), *read, through_t[k], *sums)
                    later = product(through[k], weight_packed)
                rows = through.flatten(0, 1)
                block = slice(first, first + len(m_block))
                dweight += weight_gradient(rows, x_r[block].flatten(0, 1))
                dprojection += weight_gradient(s.flatten(0, 1), m_block.flatten(0, 1))
                if dx is not None:  # contiguous: on a slice oneDNN takes its reference code
                    dx[block] = product(through, weight[:, :n_inputs].t().contiguous())
        return dx, dweight.t(), dbias, dpeepholes, dprojection.t()


class PeepholeLstm(nn.Module):
    """The projected LSTM with peepholes of Sak, Senior and Beaufays 2014 (arXiv 1402.1128), equations 7 to 12.

        i_t = sigmoid(W_ix x_t + W_ir r_{t-1} + w_ic * c_{t-1} + b_i)        f_t likewise
        c_t = f_t * c_{t-1} + i_t * tanh(W_cx x_t + W_cr r_{t-1} + b_c)
        o_t = sigmoid(W_ox x_t + W_or r_{t-1} + w_oc * c_t + b_o)
        r_t = W_rm (o_t * tanh(c_t))

    torch.nn.LSTM has the projection but no peepholes, and carries a second bias that Keras does not. The
    non-recurrent projection p_t of the paper is left out, as in kws_streaming.

    Attributes:
        weight: (4 * n_units, n_inputs + n_projected), rows in the order i, f, c, o: W_x and W_r side by side.
        bias: (4 * n_units,).
        peepholes: (3, n_units): w_ic, w_fc, w_oc.
        projection: (n_projected, n_units): W_rm.
        by_hand: Whether training on a CPU takes `PeepholeLstmSequence`; where not, as on a GPU and in evaluation, it
            is a loop of torch's operations.
    """

    by_hand = True

    def __init__(self, n_inputs: int, n_units: int, n_projected: int) -> None:
        """Draws the weights as TensorFlow's LSTMCell does, Glorot-uniform."""
        super().__init__()
        self.n_units = n_units
        self.n_projected = n_projected
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(4 * n_units, n_inputs + n_projected)))
        bias = torch.zeros(4 * n_units)
        bias[n_units : 2 * n_units] = 1.0  # remember at first: the forget gate starts open
        self.bias = nn.Parameter(bias)
        bound = (3 / n_units) ** 0.5  # Glorot on a vector of n_units: both fans are its length
        self.peepholes = nn.Parameter(nn.init.uniform_(torch.empty(3, n_units), -bound, bound))
        self.projection = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_projected, n_units)))

    def forward(self, x: Tensor) -> Tensor:
        """Projected outputs (batch, T, n_projected) of inputs (batch, n_inputs, T), from a state of zeros."""
        if self.by_hand and self.training and written_out(x, self.weight):
            parameters = self.weight, self.bias, self.peepholes, self.projection
            return PeepholeLstmSequence.apply(x.permute(2, 0, 1), *parameters).transpose(0, 1)
        weight, projection = self.weight.t(), self.projection.t()
        peep_i, peep_f, peep_o = self.peepholes.unbind(0)
        c = x.new_zeros(x.shape[0], self.n_units)
        r = x.new_zeros(x.shape[0], self.n_projected)
        outputs = []
        # x_t joins the recurrent product: with so few inputs, projecting all frames before the loop is slower,
        # and holds batch x T x 4 * n_units numbers.
        for x_t in x.unbind(2):
            i, f, g, o = torch.addmm(self.bias, torch.cat([x_t, r], 1), weight).chunk(4, 1)
            i = torch.sigmoid(torch.addcmul(i, peep_i, c))
            f = torch.sigmoid(torch.addcmul(f, peep_f, c))
            c = torch.addcmul(f * c, i, torch.tanh(g))
            o = torch.sigmoid(torch.addcmul(o, peep_o, c))
            r = torch.mm(o * torch.tanh(c), projection)
            outputs.append(r)
        return torch.stack(outputs, 1)  # (batch, T, n_projected)


class LstmP(Student):
    """LSTM with projection: 500 units projected to 200; the last output is classified."""

    name = "lstm_p"
    paper = "arXiv 2005.06720"
    n_mfcc = 20
    n_channels = 200
    scope = "past"

    def __init__(self, n_classes: int, n_mels: int) -> None:
        """545,912 parameters for 12 classes; the second bias vector of torch.nn.LSTM would make them 547,912."""
        super().__init__(n_mels)
        self.lstm = PeepholeLstm(self.n_mfcc, n_units=500, n_projected=self.n_channels)
        self.dropout = nn.Dropout(0.3)
        self.classifier = nn.Linear(self.n_channels, n_classes)
        self.apply(keras_init)

    def encode(self, mfcc: Tensor, lengths: Tensor | None) -> Tensor:
        """All projected outputs; padding comes after every valid frame, so causality keeps it out."""
        return self.lstm(mfcc)

    def read_out(self, frames: Tensor, lengths: Tensor | None) -> tuple[Tensor, None]:
        """Classifies the last valid output."""
        last = frames[:, -1] if lengths is None else frame_at(frames, lengths - 1)
        return self.classifier(self.dropout(last)), None
