"""Scores with and without distillation against what tables differ in: clip length, share of the training clips."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.report.numbers.results import VANILLA, Results
from pipeline.report.numbers.settings import in_words, key_of
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
        lambda results: in_words(
            {name: value for name, value in results.differing.items() if name in results.settings}
        ),
    )


def compare_fractions(tables: list[Results]) -> list[Comparison]:
    """Returns scores against the share of the training clips: of as many epochs, and of as many clips heard in all."""

    def same_epochs(results: Results) -> tuple:
        rest = {name: value for name, value in results.settings.items() if name != "fraction"}
        return results.evidence.cache_id, key_of(rest)

    def same_clips_heard(results: Results) -> tuple:
        rest = {name: value for name, value in results.settings.items() if name not in ("fraction", "epochs")}
        return results.evidence.cache_id, round(results.settings["epochs"] * results.settings["fraction"]), key_of(rest)

    def epochs_words(results: Results) -> str:
        return f"{results.settings['epochs']} epochs each"

    def heard_words(results: Results) -> str:
        return (
            f"as many clips heard as in {results.settings['epochs'] * results.settings['fraction']:.0f} epochs of all"
        )

    stated = [it for it in tables if {"fraction", "epochs"} <= it.settings.keys()]
    return [
        found
        for same_of, words in ((same_epochs, epochs_words), (same_clips_heard, heard_words))
        for found in _compare(stated, lambda results: results.settings["fraction"], same_of, words)
    ]


def _compare(
    tables: list[Results],
    x_of: Callable[[Results], object],
    same_of: Callable[[Results], tuple],
    words_of: Callable[[Results], str],
) -> list[Comparison]:
    groups: dict[tuple, list[Results]] = {}
    for results in tables:
        if isinstance(x_of(results), int | float):
            groups.setdefault(same_of(results), []).append(results)
    found = []
    for group in itertools.chain.from_iterable(_unambiguous(alike, x_of) for alike in groups.values()):
        names = list(dict.fromkeys(student for results in group for student in results.students))
        students = {name: _points(group, name, x_of) for name in names}
        students = {name: points for name, points in students.items() if len(_places(points)) > 1}
        if students:
            metric, datasets = group[0].metric, ", ".join(dict.fromkeys(results.dataset for results in group))
            said = f"test {unit(metric)}, mean and standard deviation over seeds; of the weights that all of them have"
            places = sorted({float(x_of(results)) for results in group})
            caption = ", ".join(words for words in (datasets, words_of(group[0])) if words)
            found.append(Comparison(metric, places, students, f"{caption}: {said}."))
    return found


def _unambiguous(group: list[Results], x_of) -> list[list[Results]]:
    """Returns the group, if it has one table a place; else those of its teachers that have."""
    if len({x_of(results) for results in group}) == len(group):
        return [group]
    by_teacher: dict[str, list[Results]] = {}
    for results in group:
        by_teacher.setdefault(results.teacher["name"], []).append(results)
    return [one for one in by_teacher.values() if len({x_of(results) for results in one}) == len(one)]


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
