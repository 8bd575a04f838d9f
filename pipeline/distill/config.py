"""The settings of stage two; their defaults live here alone."""

from dataclasses import dataclass

from pipeline.errors import TkdError

FIRST_FRAME = ("drop", "keep")


@dataclass(frozen=True)
class TrainConfig:
    """How a student is trained."""

    student: str = "crnn"
    kd_weight: float = 0.25  # lambda of arXiv 2110.14131; 0 trains without the teacher
    first_frame: str = "drop"  # of the rollout: the readout's own place, kept by the residual; drop or keep
    epochs: int = 12
    batch_size: int = 32
    learning_rate: float = 3e-3  # peak; AdamW, one warm-up epoch, then cosine to a hundredth
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    bfloat16: bool = False  # autocast
    views: bool = True  # each epoch takes one of a clip's views, at random; False: always the clip itself
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.kd_weight < 1:
            raise TkdError(f"kd_weight {self.kd_weight}: expected 0 <= kd_weight < 1, as in (1 - w) * task + w * KL.")
        if self.epochs < 1 or self.batch_size < 1:
            raise TkdError(f"epochs {self.epochs}, batch_size {self.batch_size}: both are at least 1.")
        if self.first_frame not in FIRST_FRAME:
            raise TkdError(f"first_frame {self.first_frame}: expected {' or '.join(FIRST_FRAME)}.")
        if not 0 <= self.seed < 2**32:
            raise TkdError(f"seed {self.seed}: expected 0 to {2**32 - 1}.")
        if not self.learning_rate > 0:
            raise TkdError(f"learning_rate {self.learning_rate}: expected a positive number.")
