"""The page's parts that draw scores: over epochs, clip lengths, shares of the training data, and size."""

import functools
import math

from pipeline.report.drawing.charts import Series, chart
from pipeline.report.drawing.markup import Content, Markup, figure
from pipeline.report.drawing.svg import legend
from pipeline.report.numbers.records import Record
from pipeline.report.numbers.results import VANILLA, Column, Results
from pipeline.report.page.compared import Comparison, compare_fractions, compare_lengths
from pipeline.report.page.section import DISTILLED, WITHOUT, Section, column_legend, pair, style_of
from pipeline.report.text.words import student_name, unit
from students import STUDENTS, student_facts

_COLOURS = {WITHOUT: "v", DISTILLED: "k2"}


def learning_curves(tables: list[Results]) -> Section:
    """Returns validation score and attention by epoch, the mean over seeds."""
    parts: list[Content] = []
    for results in tables:
        for students, columns in (
            (results.students, results.papers_columns),
            (results.students_of_others, results.other_columns),
        ):
            whats = {"validation": unit(results.metric), "attention_in_event": "attention in event"}
            found = {what: _curves(results, students, columns, what, label) for what, label in whats.items()}
            if found["validation"]:
                parts.append(column_legend(results, columns))
                caption = f"{results.title}: validation score by epoch, mean over seeds."
                parts.append(figure(found["validation"], caption))
            if found["attention_in_event"]:
                caption = f"{results.title}: share of the student's attention inside the event, validation split."
                parts.append(figure(found["attention_in_event"], caption))
    return Section("curves", "Learning curves", parts)


def _curves(results: Results, students: list[str], columns: list[Column], what: str, label: str) -> list[Markup]:
    scale, charts = 100 if what == "validation" and results.metric == "accuracy" else 1, []
    for student in students:
        series = [_curve(results, student, column, what, scale) for column in columns]
        series = [one for one in series if any(not math.isnan(y) for _, y in one.points)]
        if series:
            description = f"{student_name(student)} on the validation split, by epoch."
            charts.append(chart(student_name(student), description, series, "epoch", label))
    return charts


def _curve(results: Results, student: str, column: Column, name: str, scale: float) -> Series:
    by_epoch: dict[float, list[float]] = {}
    histories = [run.history for run in _runs(results, student, column) if run.history]
    for history in histories:
        for it in history:
            by_epoch.setdefault(_number(it.get("epoch")), []).append(scale * _number(it.get(name)))
    in_all = {epoch: values for epoch, values in by_epoch.items() if len(values) == len(histories)}  # some stop early
    points = [(epoch, sum(values) / len(values)) for epoch, values in sorted(in_all.items())]
    colour, dashed = style_of(results, column)
    return Series(f"kd {column.name}", points, colour, width=1.4, dashed=dashed)


def by_length(tables: list[Results]) -> Section:
    """Returns scores against clip length, where the same data set was made in several."""
    parts = [_against(it, "clip length, s") for it in compare_lengths(tables)]
    return Section("lengths", "Score against clip length", parts)


def by_fraction(tables: list[Results]) -> Section:
    """Returns scores against the share of the training clips, where it was varied."""
    parts = [_against(it, "share of the training clips") for it in compare_fractions(tables)]
    return Section("fractions", "Score against the share of the training clips", parts)


def _against(comparison: Comparison, x_label: str) -> Content:
    charts = []
    for student, points in comparison.students.items():
        series = [
            Series(
                role, [(x, y) for x, y, _ in places], _COLOURS[role], marks=2.4, bars=tuple(bar for *_, bar in places)
            )
            for role, places in points.items()
        ]
        description, metric = "Mean and standard deviation over seeds.", unit(comparison.metric)
        name = student_name(student)
        charts.append(chart(name, description, series, x_label, metric, x_ticks=comparison.places))
    drawn = {role for points in comparison.students.values() for role in points}
    names = legend([(role, colour, False) for role, colour in _COLOURS.items() if role in drawn])
    return [names, figure(charts, comparison.caption)]


def costs(tables: list[Results]) -> Section:
    """Returns score against parameters and against multiply-accumulates, of students of the registry."""
    parts: list[Content] = []
    for results in tables:
        run = next(iter(results.cells.values())).runs[0]
        features, n_classes = run.config["features"], len(run.config["labels"])
        try:
            seconds = [features[name] / features["sample_rate"] for name in ("hop_length", "win_length")]
            facts = [
                _facts(name, *seconds, n_classes, features["n_mels"]) for name in results.students if name in STUDENTS
            ]
        except (KeyError, ValueError):  # features of another kind
            continue
        if len(facts) < 2:
            continue
        charts = []
        for title, x_label, size in (
            ("Parameters", "parameters", "n_parameters"),
            ("Work", "multiply-accumulates a second of audio", "macs_per_second"),
        ):
            series = [one for fact in facts for one in _places(results, fact.name, getattr(fact, size))]
            charts.append(
                chart(
                    title,
                    f"Rings without KD, dots {DISTILLED}.",
                    series,
                    x_label,
                    unit(results.metric),
                    log_x=True,
                )
            )
        parts.append(figure(charts, f"{results.title}: rings are vanilla students, dots the same {DISTILLED}."))
    return Section("costs", "Size and work against score", parts)


_facts = functools.cache(student_facts)  # a second each, and every table asks for the same


def _places(results: Results, student: str, size: float) -> list[Series]:
    scale = 100 if results.metric == "accuracy" else 1
    places = [(column, scale * results.cells[student, column].mean) for column in pair(results, student)]
    series = [Series(student_name(student), [(size, y) for _, y in places], "v", width=1)]
    for n, (column, y) in enumerate(places):
        said = f"{student_name(student)}, kd {column.name}: {y:g}"
        vanilla = column == VANILLA
        last = n == len(places) - 1
        series.append(
            Series(
                said,
                [(size, y)],
                "v" if vanilla else "k2",
                marks=3.6,
                hollow=vanilla,
                names=(student_name(student),) if last else (),
            )
        )
    return series


def _runs(results: Results, student: str, column: Column) -> list[Record]:
    cell = results.cells.get((student, column))
    return cell.runs if cell else []


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
