"""A run's student as an ONNX graph: recordings in, probabilities and attention out."""

import copy
import functools
import logging
import warnings

import onnx
import onnxscript
import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

from pipeline.distill.run import Run
from pipeline.export.front_end import FrontEnd
from pipeline.extract.features import LogMelConfig
from students.networks.lstm_p import PeepholeLstm
from students.recurrent import Gru

OPSET = 20


class Heard(nn.Module):
    """A student as it is deployed, with the query that says where it looked."""

    def __init__(self, run: Run) -> None:
        """Takes the student of a complete run."""
        super().__init__()
        self.student, self.exclusive = run.student, run.task == "single_label"
        # (n_channels, 1): the product of transposed frames and a vector is wrong in ONNX Runtime 1.32.
        self.register_buffer("query", None if run.query is None else run.query[:, None])

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Returns probabilities (batch, n_classes), and attention (batch, T_student), of features (batch, n_mels, T).

        The attention sums to 1: arXiv 2110.14131's a_S, or where the student's own was taught, that.
        """
        output = self.student(features)
        attention = output.attention if self.query is None else (output.frames @ self.query)[..., 0].softmax(1)
        return output.logits.softmax(1) if self.exclusive else output.logits.sigmoid(), attention


def front_end_graph(config: LogMelConfig, n_samples: int) -> onnx.ModelProto:
    """Returns waveform (batch, n_samples) to features (batch, n_mels, T)."""
    return _exported(FrontEnd(config), torch.zeros(2, n_samples), "waveform", ["features"])


def student_graph(run: Run, n_frames: int) -> onnx.ModelProto:
    """Returns features (batch, n_mels, n_frames) to probabilities and attention, see `Heard`."""
    features = torch.zeros(2, run.config["features"]["n_mels"], n_frames)
    return _exported(Heard(run), features, "features", ["probabilities", "attention"])


def joined(front_end: onnx.ModelProto, student: onnx.ModelProto) -> onnx.ModelProto:
    """Returns one graph of the two: waveform to probabilities and attention."""
    # Of the front end alone: onnx does not rename all of a Scan.
    front_end = onnx.compose.add_prefix(front_end, "front_end/", rename_inputs=False, rename_outputs=False)
    return onnx.compose.merge_models(front_end, student, io_map=[("features", "features")])


def _exported(module: nn.Module, example: Tensor, takes: str, gives: list[str]) -> onnx.ModelProto:
    module = copy.deepcopy(module).eval().requires_grad_(False)
    for name, part in list(module.named_modules()):
        if isinstance(part, PeepholeLstm):
            part.forward = functools.partial(_scanned, part)
        elif isinstance(part, Gru):
            module.set_submodule(name, OnnxGru(part))
    log = logging.getLogger("torch.onnx")  # says that torchvision is not there
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):  # of torch's own deprecated calls
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
                input_names=[takes],
                output_names=gives,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                custom_translation_table={torch.ops.tkd.gru.default: _gru_node},
            )
    finally:
        log.setLevel(level)
    model = program.model_proto
    _remove_traces(model.graph)
    return model


def _remove_traces(graph: onnx.GraphProto) -> None:
    """Takes out where in whose Python each node and value came from, which is of no use to others and takes room."""
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _remove_traces(attribute.g)


torch.library.define("tkd::gru", "(Tensor x, Tensor w, Tensor r, Tensor b) -> Tensor")


@torch.library.register_fake("tkd::gru")
def _gru_shape(x: Tensor, w: Tensor, r: Tensor, b: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], r.shape[0], x.shape[1], r.shape[2])


def _gru_node(x, w, r, b):
    """ONNX's GRU, (T, n_directions, batch, n_units), for `tkd::gru`, which exists to be replaced by it."""
    direction = "bidirectional" if r.shape[0] == 2 else "forward"
    outputs, _ = onnxscript.opset20.GRU(x, w, r, b, direction=direction, hidden_size=r.shape[2], linear_before_reset=1)
    return outputs


class OnnxGru(nn.Module):
    """A `Gru` in evaluation, each layer one operation, which torch would lay out frame by frame; for export alone.

    Its weights are ONNX's: of both directions together, gates in the order z, r, n.
    """

    def __init__(self, gru: Gru) -> None:
        """Takes the weights of a GRU."""
        super().__init__()
        n_directions = 2 if gru.bidirectional else 1
        self.layers = nn.ModuleList()
        for first in range(0, len(gru.all_weights), n_directions):
            layer, directions = nn.Module(), gru.all_weights[first : first + n_directions]
            w, r, b, d = (torch.stack([_in_order(each) for each in kind]) for kind in zip(*directions, strict=True))
            for name, weights in (("w", w), ("r", r), ("b", torch.cat([b, d], 1))):
                layer.register_buffer(name, weights)
            self.layers.append(layer)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns (batch, T, n_directions * n_units) of (batch, T, n_inputs); every frame is valid."""
        x = x.transpose(0, 1)
        for layer in self.layers:
            x = torch.ops.tkd.gru(x, layer.w, layer.r, layer.b).transpose(1, 2).flatten(2)
        return x.transpose(0, 1)


def _in_order(weights: Tensor) -> Tensor:
    r, z, n = weights.chunk(3)
    return torch.cat([z, r, n])


def _scanned(lstm: PeepholeLstm, x: Tensor) -> Tensor:
    """`PeepholeLstm.forward` as a Scan: ONNX's LSTM has no projection, and a loop would be laid out frame by frame."""
    peepholes, bias, weight, projection = lstm.peepholes, lstm.bias, lstm.weight.t(), lstm.projection.t()

    def frame(state: tuple[Tensor, Tensor], x_t: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        c, r = state
        i, f, g, o = torch.addmm(bias, torch.cat([x_t, r], 1), weight).chunk(4, 1)
        i = torch.sigmoid(i + peepholes[0] * c)
        f = torch.sigmoid(f + peepholes[1] * c)
        c = f * c + i * torch.tanh(g)
        o = torch.sigmoid(o + peepholes[2] * c)
        r = torch.mm(o * torch.tanh(c), projection)
        return (c, r), r.clone()

    start = x.new_zeros(x.shape[0], lstm.n_units), x.new_zeros(x.shape[0], lstm.n_projected)
    return scan(frame, start, x.permute(2, 0, 1))[1].transpose(0, 1)
