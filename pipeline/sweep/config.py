"""The settings of a sweep; their defaults live here alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.distill.config import TrainConfig
from pipeline.errors import TkdError


@dataclass(frozen=True)
class SweepConfig:
    """What a grid is made of, besides its students.

    Raises:
        TkdError: it is empty somewhere.
    """

    kd_weights: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5)  # those of arXiv 2110.14131
    frame_weights: tuple[str, ...] = (TrainConfig.frame_weights,)
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if not values:
                raise TkdError(f"{name}: expected one at least.")

    def cells(self, students: Sequence[str], common: TrainConfig) -> list[TrainConfig]:
        """Returns the settings of every cell of the grid, each once, seed by seed.

        A sweep that is stopped so has whole seeds. Without distillation the frame weights teach nothing: that is one
        cell, whatever they are.

        Args:
            students: Their names.
            common: What all cells share.

        Raises:
            TkdError: the settings of a cell contradict each other.
        """
        cells = (
            replace(
                common,
                student=student,
                kd_weight=kd_weight,
                frame_weights=frame_weights if kd_weight else TrainConfig.frame_weights,
                seed=seed,
            )
            for seed in self.seeds
            for student in students
            for frame_weights in self.frame_weights
            for kd_weight in self.kd_weights
        )
        return list(dict.fromkeys(cells))


@dataclass(frozen=True)
class Workers:
    """Who trains: processes of this machine, or those of a scheduler of dask.distributed.

    Raises:
        TkdError: both are given, or a number is none.
    """

    workers: int | None = None  # 0: this process; None: one for each GPU, or for each core
    scheduler: str | None = None  # its address, as in tcp://node1:8786
    threads: int | None = None  # of each for torch; None: its share of the cores

    def __post_init__(self) -> None:
        if self.workers is not None and self.scheduler is not None:
            raise TkdError(
                f"workers {self.workers}, scheduler {self.scheduler}: expected workers of this machine or a scheduler "
                "that has its own."
            )
        if (self.workers or 0) < 0 or (self.threads is not None and self.threads < 1):
            raise TkdError(f"workers {self.workers}, threads {self.threads}: expected 0 and 1 or more.")
