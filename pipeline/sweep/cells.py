"""The cells of a grid, and how far each is."""

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache_schema import Cache
from pipeline.distill.config import TrainConfig
from pipeline.distill.naming import run_name
from pipeline.distill.run import begin_run, is_complete, read_run
from pipeline.distill.train import describe
from pipeline.errors import TkdError


@dataclass
class Cell:
    """One training: waiting, then running, then done or failed."""

    config: TrainConfig
    path: Path  # of its run
    started: float | None = None  # time.monotonic() where it runs
    first_epoch: int = 0  # finished when it was started
    metrics: dict[str, Any] | None = None  # where it is done
    failure: str | None = None  # the reason, where it failed

    @property
    def name(self) -> str:
        """That of its run."""
        return self.path.name

    @property
    def state(self) -> str:
        """waiting, running, done or failed."""
        if self.metrics is not None:
            return "done"
        if self.failure is not None:
            return "failed"
        return "waiting" if self.started is None else "running"

    def begin(self) -> None:
        """Notes that it runs from now on."""
        self.started, self.first_epoch = time.monotonic(), len(self.history())

    def end(self, metrics: dict[str, Any] | None, failure: str | None) -> None:
        """Notes what came of it, one of the two."""
        self.metrics, self.failure = metrics, failure and failure.removeprefix(f"{self.path}: ")

    def history(self) -> list[dict[str, Any]]:
        """Returns what its run has noted of each epoch so far."""
        try:
            return json.loads((self.path / "history.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []


class Cells:
    """All cells of a grid, in the order in which they are to be trained."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.all = list(cells)
        self._seeds = list(dict.fromkeys(cell.config.seed for cell in cells))

    @classmethod
    def of(cls, configs: Sequence[TrainConfig], out: Path, cache: Cache) -> "Cells":
        """Returns the cells whose runs are, or will be, in the folder `out`; complete ones are read.

        Raises:
            TkdError: something else bears the name of a run, or a run was begun with other settings.
        """
        cells = [Cell(config, out / run_name(config)) for config in configs]
        for cell in cells:
            if cell.path.exists():
                begin_run(cell.path, {**dataclasses.asdict(cell.config), **describe(cache)}, resume=True, force=False)
            if is_complete(cell.path):
                try:
                    cell.end(read_run(cell.path).metrics, None)
                except TkdError as error:
                    cell.end(None, f"{error} In a sweep: remove it, and run the same again.")
        return cls(cells)

    def by_state(self, state: str) -> list[Cell]:
        """Returns those that are waiting, running, done or failed."""
        return [cell for cell in self.all if cell.state == state]

    def next(self) -> Cell | None:
        """Returns which is to be trained next: of the first seed that has any, one of the student that takes longest.

        So the last to end are short ones. How long a student takes is known once one has ended; until then its cells
        come in the order given, before the others.
        """
        waiting, seconds = self.by_state("waiting"), self._seconds()
        if not waiting:
            return None
        return min(
            waiting,
            key=lambda cell: (self._seeds.index(cell.config.seed), -seconds.get(cell.config.student, float("inf"))),
        )

    def seconds_left(self, at_once: int) -> float | None:
        """Returns how long the rest takes, so many at once, by what those that are done took; None: not known yet."""
        known = self._seconds()
        if not known:
            return None
        mean = sum(known.values()) / len(known)
        left = [known.get(cell.config.student, mean) for cell in self.by_state("waiting")]
        for cell in self.by_state("running"):
            share = 1 - len(cell.history()) / cell.config.epochs
            left.append(share * known.get(cell.config.student, mean))
        return max(sum(left) / max(1, at_once), max(left, default=0.0))

    def _seconds(self) -> dict[str, float]:
        """The mean training time of each student, as far as known: of what is done, else from what runs."""
        found: dict[str, list[float]] = {}
        for cell in self.by_state("done"):
            found.setdefault(cell.config.student, []).append(cell.metrics["seconds"])
        for cell in self.by_state("running"):
            n_epochs = len(cell.history()) - cell.first_epoch
            if n_epochs > 0 and cell.config.student not in found:
                elapsed = (time.monotonic() - cell.started) / n_epochs * cell.config.epochs
                found[cell.config.student] = [elapsed]
        return {student: sum(values) / len(values) for student, values in found.items()}
