"""LSTM-P: one LSTM with peepholes and a recurrent projection."""

import torch
from torch import Tensor, nn

from students.base import Student
from students.initialisation import keras_init
from students.masking import frame_at


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
    """

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
