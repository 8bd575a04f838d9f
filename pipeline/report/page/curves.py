"""The page's parts that draw scores: over epochs, clip lengths, shares of the training data, and size."""

import functools
import math

from pipeline.report.drawing.charts import Series, chart
from pipeline.report.drawing.markup import Content, Markup, figure
from pipeline.report.drawing.svg import legend
from pipeline.report.numbers.records import Record
from pipeline.report.numbers.results import VANILLA, Column, Results
from pipeline.report.numbers.settings import key_of
from pipeline.report.page.section import DISTILLED, Section, column_legend, pair, style_of
from pipeline.report.text.words import student_name, unit
from students import STUDENTS, student_facts


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
    for run in _runs(results, student, column):
        for it in run.history:
            by_epoch.setdefault(_number(it.get("epoch")), []).append(scale * _number(it.get(name)))
    points = [(epoch, sum(values) / len(values)) for epoch, values in sorted(by_epoch.items())]
    colour, dashed = style_of(results, column)
    return Series(f"kd {column.name}", points, colour, width=1.4, dashed=dashed)


def by_length(tables: list[Results]) -> Section:
    """Returns scores against clip length, where the same data set was made in several."""
    return _against(
        "lengths",
        "Score against clip length",
        "clip length, s",
        tables,
        lambda results: results.evidence.seconds,
        lambda results: (results.metric, key_of(results.settings), results.evidence.series),
    )


def by_fraction(tables: list[Results]) -> Section:
    """Returns scores against the share of the training clips, where it was varied."""

    def same_epochs(results: Results) -> tuple:
        rest = {name: value for name, value in results.settings.items() if name != "fraction"}
        return results.evidence.cache_id, key_of(rest)

    def same_clips_heard(results: Results) -> tuple:
        rest = {name: value for name, value in results.settings.items() if name not in ("fraction", "epochs")}
        return results.evidence.cache_id, round(results.settings["epochs"] * results.settings["fraction"]), key_of(rest)

    stated = [it for it in tables if {"fraction", "epochs"} <= it.settings.keys()]
    title, x_label = "Score against the share of the training clips", "share of the training clips"
    parts = [
        _against("fractions", title, x_label, stated, lambda results: results.settings["fraction"], same).content
        for same in (same_epochs, same_clips_heard)
    ]
    return Section("fractions", title, [part for part in parts if part])


def _against(name: str, title: str, x_label: str, tables: list[Results], x_of, same_of) -> Section:
    groups: dict[tuple, list[Results]] = {}
    for results in tables:
        if isinstance(x_of(results), int | float):
            groups.setdefault(same_of(results), []).append(results)
    parts: list[Content] = []
    for group in groups.values():
        ticks = sorted({float(x_of(results)) for results in group})
        students = list(dict.fromkeys(student for results in group for student in results.students))
        charts = []
        for student in students:
            found: dict[str, list] = {}
            ours = [results for results in group if student in results.students]
            in_all = set.intersection(*({it for name, it in results.cells if name == student} for results in ours))
            for results in sorted(ours, key=x_of):
                for column in pair(results, student, [it for it in results.columns if it in in_all]):
                    cell = results.cells[student, column]
                    scale = 100 if results.metric == "accuracy" else 1
                    bar = None if cell.deviation is None else scale * cell.deviation
                    role = "without KD" if column == VANILLA else DISTILLED
                    found.setdefault(role, []).append((float(x_of(results)), scale * cell.mean, bar))
            if len({x for places in found.values() for x, *_ in places}) < 2:
                continue
            series = [
                Series(
                    role,
                    [(x, y) for x, y, _ in places],
                    "v" if role == "without KD" else "k2",
                    marks=2.4,
                    bars=tuple(bar for *_, bar in places),
                )
                for role, places in found.items()
            ]
            charts.append(
                chart(
                    student_name(student),
                    "Mean and standard deviation over seeds.",
                    series,
                    x_label,
                    unit(group[0].metric),
                    x_ticks=ticks,
                )
            )
        if not charts:
            continue
        names = legend([("without KD", "v", False), (DISTILLED, "k2", False)])
        said = "; of the weights that all of them have" if len(group) > 1 else ""
        datasets = ", ".join(dict.fromkeys(results.dataset for results in group))
        caption = f"{datasets}: test {unit(group[0].metric)}, mean and standard deviation over seeds{said}."
        parts.append([names, figure(charts, caption)])
    return Section(name, title, parts)


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
