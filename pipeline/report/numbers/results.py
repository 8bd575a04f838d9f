"""The papers' tables as numbers: students x kd weights of one cache and one choice of all other settings."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from pipeline.distill.frame_weights import CONTROLS
from pipeline.report.numbers.evidence import Evidence
from pipeline.report.numbers.records import Record
from pipeline.report.numbers.settings import in_words
from pipeline.report.numbers.statistics import Difference, paired, spread
from students import STUDENTS


class Column(NamedTuple):
    """What a student was distilled from, and how strongly; runs at kd_weight 0 are of one column, `VANILLA`."""

    frame_weights: str
    kd_weight: float

    @property
    def name(self) -> str:
        """As in a table's head: "0.25" is from the rollout."""
        target = "" if self.frame_weights == "rollout" else f"{self.frame_weights} "
        return f"{target}{self.kd_weight:g}"

    @property
    def is_control(self) -> bool:
        """Whether the weights are not the teacher's."""
        return self.frame_weights in CONTROLS


VANILLA = Column("rollout", 0.0)


@dataclass(frozen=True)
class Cell:
    """The runs of one student and column, one a seed."""

    runs: list[Record]

    @property
    def tests(self) -> list[float]:
        """Test scores, 0 to 1, by seed."""
        return [run.metrics["test"] for run in self.runs]

    @property
    def mean(self) -> float:
        """Of the test scores."""
        return float(np.mean(self.tests))

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the test scores over seeds; None of one seed."""
        return spread(self.tests)

    def validation(self, seeds: Collection[int] = ()) -> float:
        """Returns the mean validation score of the runs of these seeds; without any, of all."""
        return float(np.mean([run.metrics["validation"] for run in self.runs if not seeds or run.seed in seeds]))

    def measure(self, name: str) -> float | None:
        """Returns the mean of an attention measure over the runs that have it."""
        values = [value for run in self.runs if (value := run.attention.get(name)) is not None]
        return float(np.mean(values)) if values else None


@dataclass(frozen=True)
class Results:
    """One table."""

    evidence: Evidence
    settings: dict[str, Any]
    differing: dict[str, Any]  # of the settings, in which the tables of a report differ
    cells: dict[tuple[str, Column], Cell]
    borrowed: bool  # vanilla runs of a table whose other settings change nothing without temporal KD
    chosen_at_home: dict[str, Column] | None = None  # of runs scored elsewhere

    @property
    def metric(self) -> str:
        """accuracy or mAP."""
        return next(iter(self.cells.values())).runs[0].metrics["metric"]

    @property
    def dataset(self) -> str:
        """Its name."""
        return next(iter(self.cells.values())).runs[0].metrics["dataset"]

    @property
    def teacher(self) -> dict[str, Any]:
        """What the runs note of the teacher."""
        return next(iter(self.cells.values())).runs[0].metrics["teacher"]

    @property
    def title(self) -> str:
        """Data set, length where known, and what is special about the settings."""
        words = [self.dataset, self.evidence.length_words, in_words(self.differing)]
        return ", ".join(word for word in words if word)

    @property
    def vanilla_words(self) -> str:
        """What the runs at kd_weight 0 are trained without."""
        return "without temporal distillation" if self.settings["logit_kd"] else "without distillation"

    @cached_property
    def students(self) -> list[str]:
        """In the order of the registry, the papers' first; others after them."""
        order = {name: place for place, name in enumerate(STUDENTS)}
        return sorted({student for student, _ in self.cells}, key=lambda name: (order.get(name, len(order)), name))

    @cached_property
    def columns(self) -> list[Column]:
        """Vanilla, the rollout by weight, other choices of the teacher's weights, controls."""
        columns = {column for _, column in self.cells}
        return sorted(columns, key=lambda it: (it != VANILLA, it.is_control, it.frame_weights != "rollout", *it))

    @property
    def papers_columns(self) -> list[Column]:
        """Vanilla and the rollout by weight: the columns of the papers' tables."""
        return [column for column in self.columns if column.frame_weights == "rollout"]

    @property
    def other_columns(self) -> list[Column]:
        """Other choices of the teacher's weights, and controls; before them the rollout at the same kd weights."""
        others = [column for column in self.columns if column.frame_weights != "rollout"]
        weights = {column.kd_weight for column in others}
        return [it for it in self.papers_columns if it.kd_weight in weights] + others

    @property
    def students_of_others(self) -> list[str]:
        """Those trained with anything but the rollout."""
        others = {student for student, column in self.cells if column.frame_weights != "rollout"}
        return [student for student in self.students if student in others]

    @cached_property
    def seeds(self) -> int:
        """Runs of most cells."""
        counts = [len(cell.runs) for cell in self.cells.values()]
        return max(set(counts), key=lambda count: (counts.count(count), count))

    @cached_property
    def differences(self) -> dict[tuple[str, Column], Difference]:
        """To vanilla, where a run of the same seed is there without KD."""
        found = {where: self.against(*where, VANILLA) for where in self.cells if where[1] != VANILLA}
        return {where: difference for where, difference in found.items() if difference}

    @cached_property
    def chosen(self) -> dict[str, Column]:
        """Each student's best column by mean validation score, vanilla and the teacher's weights; the weaker of equals.

        The test split has no say. Controls do not stand for election: they are there to be compared with. A student
        that has vanilla runs beside them and no other is not in it: there was nothing to choose.
        """
        if self.chosen_at_home is not None:
            return self.chosen_at_home
        distilled = {student for student, column in self.cells if column != VANILLA and not column.is_control}
        found = {student: self.best(student, self.columns) for student in self.students if student in distilled}
        return {student: column for student, column in found.items() if column is not None}

    def best(self, student: str, columns: Iterable[Column]) -> Column | None:
        """Returns of these columns the student's best by mean validation score, over the seeds that all of them have.

        Of columns that have no seed in common, those with the most seeds are compared. Controls are left out.
        """
        mine = {it: self.cells[student, it] for it in columns if (student, it) in self.cells and not it.is_control}
        if not mine:
            return None
        seeds = {column: {run.seed for run in cell.runs} for column, cell in mine.items()}
        common = set.intersection(*seeds.values())
        if not common:
            most = max(map(len, seeds.values()))
            mine = {column: cell for column, cell in mine.items() if len(seeds[column]) == most}
        return max(mine, key=lambda column: _or_worst(round(mine[column].validation(common), 9)))  # equal means are

    def pairs(self, student: str, ours: Column, other: Column) -> list[tuple[Record, Record]]:
        """Returns the runs of two columns that have the same seed."""
        runs = {run.seed: run for run in self.cells.get((student, other), Cell([])).runs}
        return [(run, runs[run.seed]) for run in self.cells[student, ours].runs if run.seed in runs]

    def against(self, student: str, ours: Column, other: Column) -> Difference | None:
        """Returns the paired difference of two columns; None without a seed that both have."""
        pairs = self.pairs(student, ours, other)
        if not pairs:
            return None
        differences = [mine.metrics["test"] - theirs.metrics["test"] for mine, theirs in pairs]
        scores = [[self.evidence.resampled(run) for run in pair] for pair in pairs]
        known = all(one is not None for pair in scores for one in pair)
        return paired(differences, [mine - theirs for mine, theirs in scores] if known else None)


def column_of(record: Record) -> Column:
    """Returns the column that a run stands in."""
    return Column(record.frame_weights, record.kd_weight) if record.kd_weight else VANILLA


def _or_worst(score: float) -> float:
    return -math.inf if math.isnan(score) else score
