"""What the page's parts have in common."""

from collections.abc import Collection
from dataclasses import dataclass

from pipeline.report.drawing.markup import Content, Markup
from pipeline.report.drawing.svg import legend
from pipeline.report.numbers.results import VANILLA, Column, Results

_WEIGHTS, _MAPS = ("k0", "k1", "k2", "k3"), ("m0", "m1", "m2")
WITHOUT, DISTILLED = "without KD", "with KD, as validation likes it best"


@dataclass(frozen=True)
class Section:
    """A part of the page; without content it is not shown."""

    name: str  # of its anchor
    title: str
    content: Content


def style_of(results: Results, column: Column) -> tuple[str, bool]:
    """Returns the colour of a column in every chart, and whether its lines are dashed: those of controls."""
    if column == VANILLA:
        return "v", False
    if column.is_control:
        return {"uniform": "uniform", "shuffled": "shuffled", "event": "true"}[column.frame_weights], True
    if column.frame_weights == "rollout":
        weights = [other for other in results.columns if other.frame_weights == "rollout" and other != VANILLA]
        place = weights.index(column)
        return _WEIGHTS[round(place * 3 / max(1, len(weights) - 1)) if len(weights) > 1 else 1], False
    maps = sorted({other.frame_weights for other in results.columns if not other.is_control} - {"rollout"})
    return _MAPS[maps.index(column.frame_weights) % 3], False


def column_legend(results: Results, columns: list[Column]) -> Markup:
    """Returns the names of the colours of columns."""
    return legend([(WITHOUT if it == VANILLA else f"kd {it.name}", *style_of(results, it)) for it in columns])


def pair(results: Results, student: str, among: Collection[Column] | None = None) -> list[Column]:
    """Returns what is compared where there is room for two: vanilla, and the KD column that validation likes best.

    Args:
        results: The table.
        student: Of it.
        among: The columns to choose from; None for all.
    """
    distilled = [column for column in (results.columns if among is None else among) if column != VANILLA]
    best = results.best(student, distilled)
    return [column for column in (VANILLA, best) if column is not None and (student, column) in results.cells]
