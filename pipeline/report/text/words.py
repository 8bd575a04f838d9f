"""Numbers and names as every table and sentence of a report writes them."""

import math

from pipeline.report.numbers.published import PAPER_NAMES
from pipeline.report.numbers.results import Cell, Column, Results
from pipeline.report.numbers.statistics import Difference

MINUS = "\N{MINUS SIGN}"
_METHODS = {
    "t": "paired t over seeds; not printed: where outputs were kept, a paired bootstrap over the test clips",
    "bootstrap": "one seed, or the same difference in each: paired bootstrap over the test clips, which says nothing "
    "of other seeds",
    "": "one seed, or the same difference in each: no interval",
}


def student_name(name: str) -> str:
    """Returns the paper's name of a student; the registry's for others."""
    return PAPER_NAMES.get(name, name)


def score(metric: str, value: float | None) -> str:
    """Returns a score of 0 to 1 as the papers print it: accuracy in %, mAP as it is."""
    if value is None or math.isnan(value):
        return "n/a"
    return f"{100 * value:.2f}" if metric == "accuracy" else f"{value:.4f}"


def unit(metric: str) -> str:
    """Returns what the metric's column is headed."""
    return "accuracy, %" if metric == "accuracy" else metric


def change(metric: str, value: float) -> str:
    """Returns a difference of scores with its sign, where it does not round to zero."""
    if math.isnan(value):
        return "n/a"
    size = score(metric, abs(value))
    return size if not float(size) else f"{'+' if value > 0 else MINUS}{size}"


def cell_text(metric: str, cell: Cell, usual: int) -> str:
    """Returns "88.73 ± 0.41", with the number of seeds where it is not the `usual` one."""
    deviation = "" if cell.deviation is None else f" ± {score(metric, cell.deviation)}"
    seeds = "" if len(cell.runs) == usual else f" (n={len(cell.runs)})"
    return f"{score(metric, cell.mean)}{deviation}{seeds}"


def difference_text(metric: str, difference: Difference, usual: int) -> str:
    """Returns "+1.23 [0.40, 2.06]"."""
    text = change(metric, difference.mean)
    if difference.low is not None:
        low, high = (change(metric, bound) for bound in (difference.low, difference.high))
        text += f" [{low}, {high}]"
    return text if difference.n_seeds == usual else f"{text} (n={difference.n_seeds})"


def methods(results: Results) -> str:
    """Returns how the intervals of a table were made, in words."""
    used = {difference.method for difference in results.differences.values()}
    return "; ".join(text for method, text in _METHODS.items() if method in used)


def target_words(column: Column) -> str:
    """Returns what a column is as it stands in a sentence: "weight 0.25", "learned at weight 0.25"."""
    target = "" if column.frame_weights == "rollout" else f"{column.frame_weights} at "
    return f"{target}weight {column.kd_weight:g}"


def seeds_text(n: int) -> str:
    """Returns "one seed" or "3 seeds"."""
    return "one seed" if n == 1 else f"{n} seeds"
