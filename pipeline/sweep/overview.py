"""How far a sweep is: the grid, refreshed in place on a terminal; elsewhere a line now and then, and for each cell."""

import os
import shutil
import sys
import time

from pipeline.progress import say
from pipeline.sweep.cells import Cell, Cells

_MARKS = {"done": "#", "running": ">", "waiting": ".", "failed": "!"}
_LINE_SECONDS = 60  # between plain lines
_LEGEND = "a mark a seed: # done  > running  . waiting  ! failed; the mean of test {metric} where one is done"


class Overview:
    """Shows cells while they are trained; a context manager.

    Args:
        cells: All of them.
        live: Draw the grid, if standard error is a terminal.
    """

    def __init__(self, cells: Cells, live: bool = True) -> None:
        self.cells, self.n_workers, self._drawn = cells, 1, 0
        self._live = live and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._plain, self._last_line = live and not self._live, time.monotonic()

    def __enter__(self) -> "Overview":
        n_done, n_all = len(self.cells.by_state("done")), len(self.cells.all)
        say(f"{n_all} cells{f', {n_done} of them done already' if n_done else ''}")
        return self

    def __exit__(self, *_exc) -> None:
        self.refresh()

    def ended(self, cell: Cell) -> None:
        """Says what came of a cell."""
        self._erase()
        if cell.failure is not None:
            say(f"{cell.name}: failed: {cell.failure}")
        elif not self._live:
            m = cell.metrics
            say(
                f"{cell.name}: test {m['metric']} {m['test']:.4f}, validation {m['validation']:.4f}, "
                f"{m['seconds']:.0f} s ({self._counts()})"
            )

    def refresh(self) -> None:
        """Draws the grid again, in the place of the last; not on a terminal, says now and then what runs."""
        if self._live:
            self._erase()
            size = shutil.get_terminal_size()
            lines = self.lines()[-(size.lines - 1) :]  # a line above the screen could not be drawn again
            sys.stderr.write("".join(f"{line[: size.columns - 1]}\n" for line in lines))
            sys.stderr.flush()
            self._drawn = len(lines)
        elif self._plain and time.monotonic() - self._last_line > _LINE_SECONDS:
            self._last_line = time.monotonic()
            say(
                "; ".join(
                    [*(f"{cell.name}: {_progress(cell)}" for cell in self.cells.by_state("running")), self._counts()]
                )
            )

    def lines(self) -> list[str]:
        """Returns the grid, what runs, and how much is left."""
        groups: dict[tuple[str, str], list[Cell]] = {}
        for cell in self.cells.all:
            groups.setdefault((cell.config.student, weight_of(cell)), []).append(cell)
        students, weights = (list(dict.fromkeys(names)) for names in zip(*groups, strict=True))
        rows = [["", *weights]]
        rows += [[student, *(_marks(groups.get((student, weight), [])) for weight in weights)] for student in students]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        done = self.cells.by_state("done")
        lines.append(_LEGEND.format(metric=done[0].metrics["metric"] if done else "score"))
        for cell in self.cells.by_state("running"):
            lines.append(f"{cell.name}: {_progress(cell)}")
        return [*lines, self._counts()]

    def _counts(self) -> str:
        counts = [f"{len(self.cells.by_state('done'))} of {len(self.cells.all)} done"]
        if failed := self.cells.by_state("failed"):
            counts.append(f"{len(failed)} failed")
        if (seconds := self.cells.seconds_left(self.n_workers)) and seconds > 0:
            counts.append(f"about {_duration(seconds)} left")
        return ", ".join(counts)

    def _erase(self) -> None:
        if self._drawn:
            sys.stderr.write(f"\x1b[{self._drawn}F\x1b[J")  # up to its first line, and clear from there
            self._drawn = 0


def weight_of(cell: Cell) -> str:
    """Returns the column of a cell: its kd_weight, and its frame weights where they are not the rollout."""
    config = cell.config
    return f"{config.kd_weight:g}" + ("" if config.frame_weights == "rollout" else f" {config.frame_weights}")


def _marks(cells: list[Cell]) -> str:
    scores = [cell.metrics["test"] for cell in cells if cell.metrics is not None]
    mean = f" {sum(scores) / len(scores):.3f}" if scores else ""
    return "".join(_MARKS[cell.state] for cell in cells) + mean


def _progress(cell: Cell) -> str:
    history = cell.history()
    epoch = f"epoch {min(len(history) + 1, cell.config.epochs)} of {cell.config.epochs}"
    since = _duration(time.monotonic() - cell.started)
    scores = [record["validation"] for record in history if isinstance(record.get("validation"), int | float)]
    return f"{epoch}, {since}" + (f", validation {scores[-1]:.4f}" if scores else "")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
