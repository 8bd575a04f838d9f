"""What an augmentation is: it says what becomes of features, weights, labels and events, or it cannot be registered."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.distill.augment.axes import Axes, normalised, valid_frames
from pipeline.distill.data import Clips
from pipeline.errors import TkdError, nearest

Draws = dict[str, Tensor]  # what chance decides; the first dimension of each tensor is the clip

_KNOWN: dict[str, "Augmentation"] = {}
AUGMENTATIONS: Mapping[str, "Augmentation"] = MappingProxyType(_KNOWN)  # by `register` alone

_STATED = ("to_weights", "to_labels", "to_events")
_DONE = ("draw", "features", "weights", "labels", "events")


@dataclass(frozen=True)
class Augmentation(ABC):
    """One augmentation and its settings.

    Every method gets the clips as they were and returns new tensors, or those of the clips where nothing changes. What
    chance decides is drawn first, so that the same change can be made to the recording.

    Attributes:
        to_weights: In words, what becomes of the frame weights.
        to_labels: What becomes of labels and of the teacher's logits.
        to_events: What becomes of the events' times.
    """

    to_weights: ClassVar[str]
    to_labels: ClassVar[str]
    to_events: ClassVar[str]

    @abstractmethod
    def draw(self, clips: Clips, axes: Axes, generator: torch.Generator) -> Draws:
        """Returns what chance decides for a batch; `generator` is on the CPU, and the only source of chance."""

    @abstractmethod
    def features(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        """Returns features (n, n_mels, T_feature) and their lengths (n,); what lies beyond those does not matter."""

    @abstractmethod
    def weights(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        """Returns frame weights (n, T_teacher) or (n, n_maps, T_teacher), >= 0, of any sum, and their lengths (n,)."""

    @abstractmethod
    def labels(self, clips: Clips, drawn: Draws) -> tuple[Tensor, Tensor]:
        """Returns labels, as `task_loss` takes them, and the teacher's logits (n, n_classes)."""

    @abstractmethod
    def events(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        """Returns event_start and event_stop (n,) in samples; -1 stays -1."""


def register(name: str, augmentation: Augmentation) -> None:
    """Makes an augmentation known by a name.

    Raises:
        TkdError: the name is taken, or the augmentation does not say what it does to weights, labels and events.
    """
    if name in AUGMENTATIONS:
        raise TkdError(f"augmentation {name}: there is one of this name. Choose another.")
    kind = augmentation if isinstance(augmentation, type) else type(augmentation)
    silent = [stated for stated in _STATED if not getattr(kind, stated, "")]
    own = {done: getattr(kind, done, None) for done in _DONE}
    silent += [f"{done}()" for done, method in own.items() if method is None or method is getattr(Augmentation, done)]
    if silent:
        raise TkdError(f"augmentation {name}: does not say {', '.join(silent)}. Every Augmentation states all of them.")
    if not isinstance(augmentation, Augmentation):
        raise TkdError(f"augmentation {name}: is a {kind.__name__}, expected an instance of an Augmentation.")
    _KNOWN[name] = augmentation


def check_augmentations(names: Iterable[str]) -> None:
    """Checks that the augmentations are known and each is named once.

    Raises:
        TkdError: they are not.
    """
    names = list(names)
    for position, name in enumerate(names):
        if name not in AUGMENTATIONS:
            raise TkdError(f"augmentation {name}: not known. {nearest(name, AUGMENTATIONS)}")
        if name in names[:position]:
            raise TkdError(f"augmentation {name}: named twice. Name each once.")


def augment(clips: Clips, names: Iterable[str], axes: Axes, generator: torch.Generator) -> Clips:
    """Returns the batch with augmentations made, one after the other; the batch given is not changed.

    Args:
        clips: The batch, as the cache has it.
        names: Of `AUGMENTATIONS`, in the order in which they are to be made.
        axes: The cache's.
        generator: On the CPU; the same state gives the same batch.

    Raises:
        TkdError: an augmentation is not known.
    """
    names = tuple(names)
    check_augmentations(names)
    for name in names:
        augmentation = AUGMENTATIONS[name]
        drawn = augmentation.draw(clips, axes, generator)
        clips = apply(augmentation, clips, drawn, axes)
    return clips


def apply(augmentation: Augmentation, clips: Clips, drawn: Draws, axes: Axes) -> Clips:
    """Returns the batch with one augmentation made as drawn."""
    drawn = {name: values.to(clips.features.device) for name, values in drawn.items()}
    features, lengths = augmentation.features(clips, drawn, axes)
    weights, weight_lengths = augmentation.weights(clips, drawn, axes)
    labels, teacher_logits = augmentation.labels(clips, drawn)
    event_start, event_stop = augmentation.events(clips, drawn, axes)
    return dataclasses.replace(
        clips,
        features=(features * valid_frames(lengths, features)).to(clips.features.dtype),
        lengths=lengths,
        labels=labels,
        weights=normalised(weights, weight_lengths),
        weight_lengths=weight_lengths,
        event_start=event_start,
        event_stop=event_stop,
        teacher_logits=teacher_logits,
    )
