"""The settings of stage two; their defaults live here alone."""

from dataclasses import dataclass

from pipeline.distill.frame_weights import FrameWeights
from pipeline.errors import TkdError

FIRST_FRAME = ("drop", "keep")
COMBINATIONS = ("convex", "additive")
SCHEDULES = ("constant", "decay", "rise")
ATTENTIONS = ("query", "own")
ALIGNMENTS = ("area", "linear")
OPTIMIZERS = ("adamw", "sgd")
CLASS_WEIGHTS = ("none", "balanced")

_CHOICES = {
    "first_frame": FIRST_FRAME,
    "combination": COMBINATIONS,
    "kd_schedule": SCHEDULES,
    "attention": ATTENTIONS,
    "alignment": ALIGNMENTS,
    "optimizer": OPTIMIZERS,
    "class_weights": CLASS_WEIGHTS,
}


@dataclass(frozen=True)
class TrainConfig:
    """How a student is trained."""

    student: str = "crnn"

    # What it learns from the teacher.
    kd_weight: float = 0.25  # lambda of arXiv 2110.14131: of the temporal loss; 0 trains without the teacher
    logit_kd: float = 0.0  # weight of the teacher's logits (arXiv 1503.02531)
    temperature: float = 4.0  # of the logits, teacher's and student's
    combination: str = "convex"  # (1 - w) * task + w * KL, or additive: task + w * KL
    kd_schedule: str = "constant"  # or the weights decay to 0, or rise from 0, over the training
    frame_weights: str = "rollout"  # layers:2,3 heads:3.0,3.2 learned, and as controls uniform shuffled event
    first_frame: str = "drop"  # of the rollout: the readout's own place, kept by the residual; drop or keep
    attention: str = "query"  # the student's is read by an added query, or is its own
    alignment: str = "area"  # of teacher frames to student frames; or linear

    # How it is optimised.
    epochs: int = 20
    patience: int | None = None  # epochs without a better validation score; None: all epochs
    batch_size: int = 32
    optimizer: str = "adamw"  # or sgd, with Nesterov momentum 0.9
    learning_rate: float = 1e-3  # peak; one warm-up epoch, then cosine to a hundredth
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema: float = 0.0  # decay of the moving average of the weights that is scored and kept; 0: the weights themselves
    class_weights: str = "none"  # or balanced: rare classes count more
    bfloat16: bool = False  # autocast

    # What it hears.
    augment: tuple[str, ...] = ("shift", "crop", "speed", "noise", "gain")  # in this order; docs/augmentation.md
    views: bool = True  # each epoch takes one of a clip's views, at random; False: always the clip itself
    fraction: float = 1.0  # of the training clips
    seed: int = 0

    def __post_init__(self) -> None:
        FrameWeights.parse(self.frame_weights)
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise TkdError(f"{name} {getattr(self, name)}: expected {' or '.join(known)}.")
        for name in ("kd_weight", "logit_kd"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise TkdError(f"{name} {getattr(self, name)}: expected 0 or more.")
        if self.combination == "convex" and not self.kd_weight + self.logit_kd < 1:
            raise TkdError(
                f"kd_weight {self.kd_weight:g} + logit_kd {self.logit_kd:g}: expected less than 1 in sum, so that the "
                "task has a part. Lower them, or give --combination additive."
            )
        if not 0 < self.temperature < float("inf"):
            raise TkdError(f"temperature {self.temperature}: expected a positive number.")
        for name in ("epochs", "batch_size", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TkdError(f"{name} {value}: expected 1 or more.")
        if not 0 <= self.ema < 1:
            raise TkdError(f"ema {self.ema}: expected 0 <= ema < 1, as in ema * average + (1 - ema) * weights.")
        if not 0 < self.fraction <= 1:
            raise TkdError(f"fraction {self.fraction}: expected 0 < fraction <= 1.")
        if not 0 <= self.seed < 2**32:
            raise TkdError(f"seed {self.seed}: expected 0 to {2**32 - 1}.")
        for name in ("learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise TkdError(f"{name} {getattr(self, name)}: expected a positive number.")
        if not 0 <= self.weight_decay < float("inf"):
            raise TkdError(f"weight_decay {self.weight_decay}: expected 0 or more.")

    @property
    def distils(self) -> bool:
        """Whether the frame weights teach the student at all."""
        return self.kd_weight > 0
