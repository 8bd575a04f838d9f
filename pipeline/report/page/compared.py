"""Scores with and without distillation against what tables differ in: clip length, share of the training clips."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.report.numbers.results import VANILLA, Results
from pipeline.report.numbers.settings import key_of
from pipeline.report.page.section import DISTILLED, WITHOUT, pair
from pipeline.report.text.words import unit


@dataclass(frozen=True)
class Comparison:
    """Tables that differ in one number x, as 4 s and 8 s.

    Attributes:
        metric: Of all of them.
        places: The x of any table, from the smallest.
        students: Of each that has two places or more, by what it was trained with (`WITHOUT`, `DISTILLED`): x, mean
            test score and standard deviation over seeds (None: one seed), in %, if it is accuracy.
        caption: What is compared.
    """

    metric: str
    places: list[float]
    students: dict[str, dict[str, list[tuple[float, float, float | None]]]]
    caption: str


def compare_lengths(tables: list[Results]) -> list[Comparison]:
    """Returns scores against clip length in seconds, of data sets that were made in several."""
    return _compare(
        tables,
        lambda results: results.evidence.seconds,
        lambda results: (results.metric, key_of(results.settings), results.evidence.series),
    )


def compare_fractions(tables: list[Results]) -> list[Comparison]:
    """Returns scores against the share of the training clips: of as many epochs, and of as many clips heard in all."""

    def same_epochs(results: Results) -> tuple:
        rest = {name: value for name, value in results.settings.items() if name != "fraction"}
        return results.evidence.cache_id, key_of(rest)

    def same_clips_heard(results: Results) -> tuple:
        rest = {name: value for name, value in results.settings.items() if name not in ("fraction", "epochs")}
        return results.evidence.cache_id, round(results.settings["epochs"] * results.settings["fraction"]), key_of(rest)

    stated = [it for it in tables if {"fraction", "epochs"} <= it.settings.keys()]
    return [
        found
        for same_of in (same_epochs, same_clips_heard)
        for found in _compare(stated, lambda results: results.settings["fraction"], same_of)
    ]


def _compare(
    tables: list[Results], x_of: Callable[[Results], object], same_of: Callable[[Results], tuple]
) -> list[Comparison]:
    groups: dict[tuple, list[Results]] = {}
    for results in tables:
        if isinstance(x_of(results), int | float):
            groups.setdefault(same_of(results), []).append(results)
    found = []
    for group in groups.values():
        names = list(dict.fromkeys(student for results in group for student in results.students))
        students = {name: _points(group, name, x_of) for name in names}
        students = {name: points for name, points in students.items() if len(_places(points)) > 1}
        if students:
            metric, datasets = group[0].metric, ", ".join(dict.fromkeys(results.dataset for results in group))
            said = f"test {unit(metric)}, mean and standard deviation over seeds; of the weights that all of them have"
            places = sorted({float(x_of(results)) for results in group})
            found.append(Comparison(metric, places, students, f"{datasets}: {said}."))
    return found


def _points(group: list[Results], student: str, x_of) -> dict[str, list[tuple[float, float, float | None]]]:
    ours = [results for results in group if student in results.students]
    in_all = set.intersection(*({column for name, column in results.cells if name == student} for results in ours))
    points: dict[str, list] = {}
    for results in sorted(ours, key=x_of):
        for column in pair(results, student, [it for it in results.columns if it in in_all]):
            cell = results.cells[student, column]
            scale = 100 if results.metric == "accuracy" else 1
            bar = None if cell.deviation is None else scale * cell.deviation
            role = WITHOUT if column == VANILLA else DISTILLED
            points.setdefault(role, []).append((float(x_of(results)), scale * cell.mean, bar))
    return points


def _places(points: dict[str, list[tuple[float, float, float | None]]]) -> set[float]:
    return {x for found in points.values() for x, *_ in found}
