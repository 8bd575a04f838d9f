"""Augmentations of stage two: what becomes of a clip's features becomes of its targets."""

from pipeline.distill.augment.augmentation import (
    AUGMENTATIONS,
    Augmentation,
    apply,
    augment,
    check_augmentations,
    register,
)
from pipeline.distill.augment.axes import Axes, axes_of
from pipeline.distill.augment.level import Gain, Mixup, Noise
from pipeline.distill.augment.masks import SpecAugment
from pipeline.distill.augment.timing import Crop, Speed, TimeShift
from pipeline.distill.config import TrainConfig

for _name, _augmentation in {
    "shift": TimeShift(),
    "crop": Crop(),
    "speed": Speed(),
    "gain": Gain(),
    "noise": Noise(),
    "specaugment": SpecAugment(),
    "mixup": Mixup(),
}.items():
    register(_name, _augmentation)

# Their weights agree with the live teacher's at a mean cosine of 0.9 or more, each alone and all in this order. mixup
# and specaugment do alone, and not on top of the others: docs/augmentation.md has the figures.
DEFAULT_AUGMENTATIONS = TrainConfig.augment

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "Axes",
    "DEFAULT_AUGMENTATIONS",
    "apply",
    "augment",
    "axes_of",
    "check_augmentations",
    "register",
]
