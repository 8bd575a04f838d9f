"""The settings of teacher training; their defaults live here alone."""

import math
from dataclasses import dataclass

from pipeline.errors import TkdError

READOUTS = ("first_token", "mean")  # the paper's c_1; the mean over valid frames


@dataclass(frozen=True)
class TeacherConfig:
    """How a teacher is trained. `crops` come first: (seconds, epochs) each; then `epochs` of whole clips.

    An update takes batch_size x gradient_accumulation_steps clips on each GPU.
    """

    base: str | None = None  # None: `default_base` of the dataset
    readout: str = "first_token"
    crops: tuple[tuple[float, int], ...] = ()
    epochs: int = 5
    patience: int | None = None  # epochs of whole clips without a better validation score, then it stops
    batch_size: int = 32  # clips that are in memory together
    gradient_accumulation_steps: int = 1
    learning_rate: float = 3e-5
    warmup: float = 0.1  # share of all updates
    weight_decay: float = 0.01
    freeze_feature_encoder: bool | None = None  # the convolutions; None: if the base is a model's name or a folder
    freeze_encoder_steps: int = 0  # first so many updates of the classifier alone
    remix: bool = True  # mix speech and noise afresh for every epoch
    bfloat16: bool = False
    float16: bool = False
    gradient_checkpointing: bool = False
    half: bool = False  # save the weights as float16
    workers: int = 0  # processes that decode and mix; 0: in turn with the training
    seed: int = 0

    def __post_init__(self) -> None:
        if self.readout not in READOUTS:
            raise TkdError(f"readout {self.readout}: no such readout. Known: {', '.join(READOUTS)}.")
        if self.epochs < 1 or not all(0 < seconds < math.inf and epochs >= 1 for seconds, epochs in self.crops):
            raise TkdError(f"epochs {self.epochs}, crops {self.crops}: lengths and numbers of epochs are positive.")
        if not 0 < self.learning_rate < math.inf:
            raise TkdError(f"learning_rate {self.learning_rate}: expected a positive number.")
        if not 0 <= self.seed < 2**32:
            raise TkdError(f"seed {self.seed}: expected 0 to {2**32 - 1}.")
        if self.bfloat16 and self.float16:
            raise TkdError("bfloat16 and float16: mixed precision is one of them. Give bfloat16 where the GPU has it.")
