"""An exported student, used without torch: what it hears in recordings of any length, and when."""

import json
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from pipeline.errors import TkdError

_PROPERTY = "tkd"  # of the graph: `Card` as JSON
_APART = 0.5  # s: what is nearer to each other is one thing heard twice
_BATCH = 8  # windows


@dataclass(frozen=True)
class Card:
    """What there is to know of a model."""

    labels: tuple[str, ...]
    task: str  # single_label or multi_label
    sample_rate: int  # Hz
    n_samples: int  # that it takes at once
    frame_hop: float  # samples from one frame of its attention to the next
    frame_offset: float  # sample at which frame 0 is centred
    precision: str  # float32 or int8
    student: str
    run: dict  # of its metrics.json: where it comes from


@dataclass(frozen=True)
class Detection:
    """Something heard."""

    label: str
    seconds: float  # from the start of the recording: where the attention was largest
    probability: float


class Model:
    """A file that `tkd export` wrote."""

    def __init__(self, content: bytes, name: str) -> None:
        """Loads a model; `name` is what errors call it.

        Raises:
            TkdError: it is not an ONNX graph, or not one of `tkd export`.
        """
        try:
            self._session = session(content)
        except Exception as error:  # onnxruntime's own have no other class in common
            reason = str(error).strip().splitlines()[0]
            raise TkdError(f"{name}: not a model that can be loaded ({reason}). Make one with tkd export.") from error
        try:
            card = json.loads(self._session.get_modelmeta().custom_metadata_map[_PROPERTY])
            self.card = Card(**card | {"labels": tuple(card["labels"])})
        except (KeyError, TypeError, ValueError) as error:
            raise TkdError(
                f"{name}: an ONNX graph, but not one of tkd export, which says its labels. Make one with that."
            ) from error

    def __call__(self, waveforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns probabilities (batch, n_classes) and attention (batch, T) of samples (batch, n_samples), float32."""
        probabilities, attention = self._session.run(None, {"waveform": waveforms})
        return probabilities, attention

    def detect(self, waveform: np.ndarray, threshold: float, hop_seconds: float) -> list[Detection]:
        """Returns what is heard in a recording, in the order of time.

        The model hears one window after the other. What several of them hear at the same place is one detection, the
        most probable; of labels that exclude each other also what they hear as different ones. Labels such as
        `_silence_` and `_unknown_` are no detections.

        Args:
            waveform: (n_samples,) float32, mono, at the card's rate; a shorter one is repeated until it fills a window.
            threshold: The least probability.
            hop_seconds: From one window to the next.
        """
        card = self.card
        named = [index for index, label in enumerate(card.labels) if not label.startswith("_")]
        heard = []
        for start, probabilities, peak in self._windows(waveform, round(hop_seconds * card.sample_rate)):
            at = start + (card.frame_offset + card.frame_hop * peak) % len(waveform)  # of one that was repeated
            heard += [
                Detection(card.labels[index], float(at / card.sample_rate), float(probabilities[index]))
                for index in named
                if probabilities[index] >= threshold
            ]
        return _merged(heard, card.task == "single_label")

    def _windows(self, waveform: np.ndarray, hop: int) -> Iterator[tuple[int, np.ndarray, int]]:
        """Yields start, probabilities and the attention's largest frame of every window."""
        n = self.card.n_samples
        if len(waveform) < n:
            waveform = np.resize(waveform, n)
        last = len(waveform) - n
        starts = [*range(0, last, hop), last]
        for first in range(0, len(starts), _BATCH):
            batch = starts[first : first + _BATCH]
            probabilities, attention = self(np.stack([waveform[start : start + n] for start in batch]))
            yield from zip(batch, probabilities, attention.argmax(axis=1), strict=True)


def read_model(path: Path) -> Model:
    """Returns the model in a file.

    Raises:
        TkdError: see `Model`, or there is no such file.
    """
    if not path.is_file():
        what = "a directory" if path.is_dir() else "no such file"
        raise TkdError(f"{path}: {what}, expected a model. Make one with tkd export RUN.")
    return Model(path.read_bytes(), str(path))


def session(content: bytes) -> onnxruntime.InferenceSession:
    """Returns a graph that can be run, on one thread of the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def stated(card: Card) -> dict[str, str]:
    """Returns the properties of a graph that hold its card."""
    return {_PROPERTY: json.dumps(asdict(card), ensure_ascii=False)}


def _merged(heard: list[Detection], exclusive: bool) -> list[Detection]:
    """Returns the most probable of detections that are less than `_APART` from each other, in the order of time.

    Args:
        heard: In any order.
        exclusive: Whether there is one label at a time; else only detections of the same label are one.
    """
    kept: list[Detection] = []
    taken: dict[str, list[float]] = defaultdict(list)  # seconds, in order
    for new in sorted(heard, key=lambda one: -one.probability):
        times = taken["" if exclusive else new.label]
        place = bisect(times, new.seconds)
        if all(abs(time - new.seconds) >= _APART for time in times[max(0, place - 1) : place + 1]):
            times.insert(place, new.seconds)
            kept.append(new)
    return sorted(kept, key=lambda one: one.seconds)
