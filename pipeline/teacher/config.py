"""The settings of teacher training; their defaults live here alone."""

import math
from dataclasses import dataclass

from pipeline.errors import TkdError

READOUTS = ("first_token", "mean")  # the paper's c_1; the mean over valid frames


@dataclass(frozen=True)
class TeacherConfig:
    """How a teacher is trained. `crops` come first: (seconds, epochs) each; then `epochs` of whole clips."""

    base: str = "bundled"
    readout: str = "first_token"
    crops: tuple[tuple[float, int], ...] = ()
    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 3e-5
    warmup: float = 0.1  # share of all steps
    weight_decay: float = 0.01
    remix: bool = True  # mix speech and noise afresh for every epoch
    bfloat16: bool = False
    half: bool = False  # save the weights as float16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.readout not in READOUTS:
            raise TkdError(f"readout {self.readout}: no such readout. Known: {', '.join(READOUTS)}.")
        if self.epochs < 1 or not all(0 < seconds < math.inf and epochs >= 1 for seconds, epochs in self.crops):
            raise TkdError(f"epochs {self.epochs}, crops {self.crops}: lengths and numbers of epochs are positive.")
