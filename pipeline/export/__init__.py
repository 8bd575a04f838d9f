"""From a run to a model for a device: an ONNX graph that takes recordings, and its use without torch."""
