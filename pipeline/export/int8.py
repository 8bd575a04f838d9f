"""A student's graph with weights of 8 bits."""

import math
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

_SMALLEST = 1024  # weights; a layer of fewer stays as it is: it gains nothing, and those next to the features lose most


def quantized(student: onnx.ModelProto, features: Iterable[np.ndarray]) -> onnx.ModelProto:
    """Returns `student_graph`'s graph in int8, per channel: ONNX Runtime's static quantization.

    Convolutions and matrix products compute in int8, but for small ones. Recurrent layers, which ONNX Runtime does not
    have in int8, keep their weights in int8, and compute in float32.

    Args:
        student: features to probabilities and attention.
        features: (n_mels, T) float32 each, of clips like those that will be heard: they set the ranges.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, prepared, written = (Path(folder, name) for name in ("float.onnx", "prepared.onnx", "int8.onnx"))
        onnx.save(student, given)
        quant_pre_process(given, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            written,
            _Features(features),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            nodes_to_exclude=_small(onnx.load(prepared).graph),
            per_channel=True,
        )
        model = onnx.load(written)
    _store_in_int8(model.graph)
    return model


def _small(graph: onnx.GraphProto) -> list[str]:
    """Returns the names of the nodes that have few weights, or none where layers have theirs.

    That is the second input: attention's products have none there, and the MFCC's transform, which is of the front
    end, stands first.
    """
    sizes = {stored.name: math.prod(stored.dims) for stored in graph.initializer}
    return [
        node.name for node in graph.node if max((sizes.get(name, 0) for name in node.input[1:2]), default=0) < _SMALLEST
    ]


class _Features(CalibrationDataReader):
    def __init__(self, features: Iterable[np.ndarray]) -> None:
        self._features = iter(features)

    def get_next(self) -> dict[str, np.ndarray] | None:
        features = next(self._features, None)
        return None if features is None else {"features": features[None]}


def _store_in_int8(graph: onnx.GraphProto) -> None:
    """Puts the matrices of recurrent layers into int8, each behind a DequantizeLinear, with a scale for each output."""
    for name, axis in _recurrent(graph).items():
        stored = next(stored for stored in graph.initializer if stored.name == name)
        values = numpy_helper.to_array(stored)
        others = tuple(other for other in range(values.ndim) if other != axis)
        scale = np.maximum(np.abs(values).max(axis=others) / 127, np.float32(1e-12)).astype(np.float32)
        shape = [-1 if other == axis else 1 for other in range(values.ndim)]
        codes = np.round(values / scale.reshape(shape)).astype(np.int8)
        graph.initializer.remove(stored)
        graph.initializer.append(numpy_helper.from_array(codes, f"{name}_int8"))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        node = onnx.helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], axis=axis)
        graph.node.insert(0, node)


def _recurrent(graph: onnx.GraphProto) -> dict[str, int]:
    """Returns the names of recurrent layers' matrices, and the axis of their outputs.

    Of a GRU the second and third input, (directions, gates, inputs); of a Scan what its body multiplies by, (inputs,
    outputs).
    """
    found = {name: 1 for node in graph.node if node.op_type == "GRU" for name in node.input[1:3]}
    for scan in (node for node in graph.node if node.op_type == "Scan"):
        (body,) = (attribute.g for attribute in scan.attribute if attribute.name == "body")
        found |= {node.input[1]: 1 for node in body.node if node.op_type in ("Gemm", "MatMul")}
    return found
