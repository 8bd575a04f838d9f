"""The page's parts that are about which clips are got wrong: confusions, classes, noise."""

from itertools import pairwise

import numpy as np
import torch

from pipeline.report.drawing.charts import Series, chart, heat_map
from pipeline.report.drawing.markup import Content, element, figure, table
from pipeline.report.drawing.svg import legend
from pipeline.report.examples import Recordings
from pipeline.report.numbers.records import Record
from pipeline.report.numbers.results import VANILLA, Column, Results
from pipeline.report.page.section import DISTILLED, WITHOUT, Section, pair
from pipeline.report.text.words import student_name, unit
from pipeline.tasks import mean_average_precision

_LEAST_CLIPS = 10  # in a bin of SNR


def confusions(tables: list[Results]) -> Section:
    """Returns confusion matrices, or where clips have several labels the classes' average precisions."""
    parts: list[Content] = []
    for results in tables:
        if results.evidence.cache is None:
            continue
        outputs = {student: _outputs(results, student) for student in results.students}
        if results.evidence.task == "single_label":
            parts += _confusion_figures(results, outputs)
        else:
            charts = [_precisions(student, two, results.evidence) for student, two in outputs.items() if len(two) == 2]
            caption = f"{results.title}: average precision of each class, without and with KD, one seed; a dot a class."
            parts += [figure(charts, caption)] if charts else []
    return Section("errors", "Errors, class by class", parts)


def _outputs(results: Results, student: str) -> list[tuple[Column, Record, np.ndarray]]:
    """Returns the logits of a student's first seed, without KD and with it, where they were kept."""
    runs = [(column, results.cells[student, column].runs[0]) for column in pair(results, student)]
    found = [(column, run, results.evidence.logits(run)) for column, run in runs]
    return [one for one in found if one[2] is not None]


def _confusion_figures(results: Results, outputs: dict[str, list]) -> list[Content]:
    parts = []
    for distilled, said in ((False, WITHOUT), (True, DISTILLED)):
        charts = [
            _confusion(f"{student_name(student)}, {_called(column)}", run, logits, results.evidence)
            for student, found in outputs.items()
            for column, run, logits in found
            if (column != VANILLA) == distilled
        ]
        if charts:
            caption = (
                f"{results.title}, {said}, one seed: share in % of the test clips of a label (row) that are taken for "
                "another (column)."
            )
            parts.append(figure(charts, caption))
    return parts


def _confusion(title: str, run: Record, logits: np.ndarray, evidence) -> Content:
    names = evidence.cache.labels
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (evidence.labels, logits.argmax(axis=1)), 1)
    totals = counts.sum(axis=1)
    cells = {}
    for row, column in zip(*counts.nonzero(), strict=True):  # empty ones are left out: there may be many
        share = counts[row, column] / totals[row]
        said = f"{names[row]} taken for {names[column]}: {counts[row, column]} of {totals[row]}"
        cells[int(row), int(column)] = (share, f"{100 * share:.0f}", said)
    return heat_map(title, f"Confusion matrix of {run.path.name}.", names, names, cells, "taken for")


def _precisions(student: str, outputs: list, evidence) -> Content:
    labels = torch.from_numpy(evidence.labels)
    values = [
        [
            mean_average_precision(torch.from_numpy(logits[:, [n]]), labels[:, [n]])
            for n in range(len(evidence.cache.labels))
        ]
        for *_, logits in outputs
    ]
    dots = [
        Series(f"{name}: {x:.3f} to {y:.3f}", [(x, y)], "k2", marks=2.2)
        for name, x, y in zip(evidence.cache.labels, *values, strict=True)
    ]
    diagonal = Series("equal", [(0.0, 0.0), (1.0, 1.0)], "v", width=0.8, dashed=True)
    description = "Above the line a class gains from KD."
    y_label = f"AP, {_called(outputs[1][0])}"
    return chart(student_name(student), description, [diagonal, *dots], "AP without KD", y_label)


def by_noise(tables: list[Results], recordings: Recordings | None) -> Section:
    """Returns accuracy by SNR, of clips whose SNR the data set notes; mean over seeds."""
    parts: list[Content] = []
    for results in tables if recordings is not None else []:
        evidence = results.evidence
        if evidence.cache is None or evidence.task != "single_label" or not recordings.are_of(evidence.cache):
            continue
        rows = [recordings.clips.get(str(name)) for name in evidence.clip_id]
        snr = np.array([np.nan if row is None or row.snr_db is None else row.snr_db for row in rows])
        bins = _bins(snr)
        if not bins:
            continue
        charts, numbers = [], []
        for student in results.students:
            series = []
            for column in pair(results, student):
                logits = [evidence.logits(run) for run in results.cells[student, column].runs]
                logits = [values for values in logits if values is not None]
                if logits:
                    right = np.mean([values.argmax(axis=1) == evidence.labels for values in logits], axis=0)
                    points = [(float(snr[inside].mean()), 100 * float(right[inside].mean())) for inside in bins]
                    colour = "v" if column == VANILLA else "k2"
                    series.append(Series(_called(column), points, colour, marks=2.4))
                    numbers.append([student_name(student), column.name, *(f"{y:.2f}" for _, y in points)])
            if series:
                description = "Share of the test clips got right, by signal-to-noise ratio."
                charts.append(chart(student_name(student), description, series, "SNR, dB", unit(results.metric)))
        if charts:
            sizes = f"{min(int(i.sum()) for i in bins)} to {max(int(i.sum()) for i in bins)}"
            caption = (
                f"{results.title}: test accuracy by SNR, mean over seeds; {len(bins)} bins of {sizes} clips that have "
                "one (silence has none). No stretch of noise is in two splits: that of these clips was not trained on."
            )
            names = legend([(WITHOUT, "v", False), (DISTILLED, "k2", False)])
            parts.append([names, figure(charts, caption)])
            head = ["student", "kd", *(f"{snr[inside].min():.0f} to {snr[inside].max():.0f} dB" for inside in bins)]
            parts.append(element("details", element("summary", "The same in numbers"), table(head, numbers)))
    return Section("noise", "Accuracy by signal-to-noise ratio", parts)


def _bins(snr: np.ndarray) -> list[np.ndarray]:
    """Returns which clips are in each of up to six bins of equal width, (n,) bool; bins of few clips are left out."""
    known = snr[~np.isnan(snr)]
    if not len(known) or known.min() == known.max():
        return []
    edges = np.linspace(known.min(), known.max(), 7)
    edges[-1] = np.inf
    found = [(snr >= low) & (snr < high) for low, high in pairwise(edges)]
    return [inside for inside in found if inside.sum() >= _LEAST_CLIPS]


def _called(column: Column) -> str:
    return WITHOUT if column == VANILLA else f"kd {column.name}"
