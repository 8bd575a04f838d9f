"""What a sweep came to, as a table: mean and spread over the seeds."""

import statistics
from collections.abc import Sequence

from pipeline.markdown import markdown_table
from pipeline.sweep.cells import Cell
from pipeline.sweep.overview import weight_of


def summary(cells: Sequence[Cell]) -> str:
    """Returns a Markdown table of the test scores of what is done: students by weights, mean ± standard deviation.

    The deviation is that of the seeds (n - 1); where some are missing, their number stands behind.
    """
    done: dict[tuple[str, str], list[float]] = {}
    for cell in cells:
        scores = done.setdefault((cell.config.student, weight_of(cell)), [])
        if cell.metrics is not None:
            scores.append(cell.metrics["test"])
    n_seeds = len({cell.config.seed for cell in cells})
    students, weights = (list(dict.fromkeys(names)) for names in zip(*done, strict=True))
    metric = next((cell.metrics["metric"] for cell in cells if cell.metrics is not None), "score")
    rows = [
        [student, *(_spread(done.get((student, weight), []), n_seeds) for weight in weights)] for student in students
    ]
    return markdown_table([f"test {metric}", *weights], rows)


def _spread(scores: list[float], n_seeds: int) -> str:
    if not scores:
        return ""
    text = f"{statistics.mean(scores):.4f}"
    if len(scores) > 1:
        text += f" ± {statistics.stdev(scores):.4f}"
    return text if len(scores) == n_seeds else f"{text} (n={len(scores)})"
