"""Results as Markdown, CSV and LaTeX."""

import csv
import io
from typing import Any

from pipeline.report.numbers.published import NSCV2_NOTE, SOURCE, published
from pipeline.report.numbers.records import Record
from pipeline.report.numbers.results import VANILLA, Column, Results
from pipeline.report.numbers.settings import in_words, settings_of
from pipeline.report.text.provenance import place
from pipeline.report.text.verdict import verdict
from pipeline.report.text.words import cell_text, difference_text, methods, score, seeds_text, student_name, unit


def score_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """Returns head and rows of the papers' table, as text: students x what they were distilled from.

    Where the data set is the paper's, a student has a second row: what is published.
    """
    paper = published(results.dataset, results.evidence)
    head, rows = ["student", *(column.name for column in results.columns), "chosen on validation"], []
    for student in results.students:
        row = [student_name(student)]
        for column in results.columns:
            cell = results.cells.get((student, column))
            row.append(cell_text(results.metric, cell, results.seeds) if cell else "")
        rows.append([*row, results.chosen[student].name if student in results.chosen else ""])
        if paper and student in paper[1]:
            values = [
                score(results.metric, paper[1][student].get(column.kd_weight))
                if column.frame_weights == "rollout" and column.kd_weight in paper[1][student]
                else ""
                for column in results.columns
            ]
            rows.append([f"{student_name(student)}, published", *values, ""])
    return head, rows


def difference_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """Returns head and rows of the table of differences to vanilla, as text; what excludes zero is marked `*`."""
    columns = [column for column in results.columns if column != VANILLA]
    rows = []
    for student in results.students:
        row = [student_name(student)]
        for column in columns:
            found = results.differences.get((student, column))
            mark = "*" if found and found.sign else ""
            row.append(difference_text(results.metric, found, results.seeds) + mark if found else "")
        rows.append(row)
    return ["student", *(column.name for column in columns)], rows


def notes(results: Results) -> list[str]:
    """Returns what a reader of a table must know, one sentence each."""
    metric, teacher = results.metric, results.teacher
    said = [
        f"Test {unit(metric)}: mean ± standard deviation over {seeds_text(results.seeds)}, other numbers of seeds as "
        f"(n=...). Columns are kd_weight, from the rollout where nothing else is said; 0 is vanilla. Teacher "
        f"{teacher['name']}: {score(metric, teacher['test'])}.",
    ]
    if results.differences:
        said.append(f"Differences are to vanilla of the same seed, 95 % intervals ({methods(results)}); * excludes 0.")
    if any(column.is_control for column in results.columns):
        said.append("Controls: uniform weights, the rollout of another clip (shuffled), the true event (event).")
    if results.borrowed:
        said.append(
            "The vanilla runs are those of another table: they differ in settings that change nothing without KD."
        )
    paper = published(results.dataset, results.evidence)
    if paper:
        note = f" {NSCV2_NOTE}" if results.dataset == "nscv2" else ""
        said.append(f"Published: {SOURCE}, one run each, teacher {score(metric, paper[0])}.{note}")
    said.append(f"Cache {results.evidence.cache_id[:12]}.")
    return said


def markdown(results: Results) -> str:
    """Returns the verdict, both tables and their notes."""
    parts = [f"## {results.title}", " ".join(verdict(results)).replace("*", "\\*"), _markdown(*score_rows(results))]
    if results.differences:
        parts += ["Difference to vanilla:", _markdown(*difference_rows(results))]
    said = [note.replace("*", "\\*") for note in notes(results)]
    return "\n\n".join([*parts, *said, f"Settings: {in_words(results.settings)}."])


def latex(results: Results) -> str:
    """Returns both tables for booktabs."""
    parts = [_latex(*score_rows(results), caption=f"{results.title}. {notes(results)[0]}")]
    if results.differences:
        caption = f"{results.title}: difference to vanilla. {notes(results)[1]}"
        parts.append(_latex(*difference_rows(results), caption=caption))
    return "\n\n".join(parts)


def cells_csv(tables: list[Results]) -> str:
    """Returns one row a cell: student, column, scores, difference, interval."""
    rows: list[dict[str, Any]] = []
    for results in tables:
        paper = published(results.dataset, results.evidence)
        for student in results.students:
            for column in results.columns:
                if (student, column) in results.cells:
                    rows.append(_cell_row(results, student, column, paper))
    return _csv(rows)


def runs_csv(records: list[Record]) -> str:
    """Returns one row a run, with all of its settings."""
    rows = []
    for record in records:
        row = {
            "run": place(str(record.path)),
            "dataset": record.metrics["dataset"],
            "cache_id": record.metrics["cache_id"],
        }
        row |= {"student": record.student, "kd_weight": record.kd_weight, "frame_weights": record.frame_weights}
        row |= {"seed": record.seed, "metric": record.metrics["metric"]}
        row |= {name: record.metrics[name] for name in ("validation", "test", "best_epoch", "n_params", "seconds")}
        row |= {f"attention_{name}": value for name, value in record.attention.items()}
        rows.append(row | {f"setting_{name}": value for name, value in settings_of(record).items()})
    return _csv(rows)


def _cell_row(results: Results, student: str, column: Column, paper) -> dict[str, Any]:
    cell, difference = results.cells[student, column], results.differences.get((student, column))
    row = {"dataset": results.dataset, "seconds": results.evidence.seconds, "cache_id": results.evidence.cache_id}
    row |= {"settings": in_words(results.differing), "student": student, "kd_weight": column.kd_weight}
    row |= {"frame_weights": column.frame_weights, "metric": results.metric, "seeds": len(cell.runs)}
    row |= {"test": cell.mean, "test_deviation": cell.deviation, "validation": cell.validation}
    for name in ("mean", "low", "high", "n_seeds", "method"):
        row[f"difference_{name}"] = getattr(difference, name) if difference else None
    row["chosen_on_validation"] = int(results.chosen.get(student) == column)
    of_paper = paper[1].get(student, {}) if paper and column.frame_weights == "rollout" else {}
    return row | {"published": of_paper.get(column.kd_weight)}


def _csv(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    rows = [[cell.replace("|", "\\|").replace("*", "\\*") for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * max(3, width) for width in widths]
    lines = [rows[0], rule, *rows[1:]]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in lines
    )


def _latex(head: list[str], rows: list[list[str]], caption: str) -> str:
    lines = [" & ".join(map(_escape, row)) + r" \\" for row in (head, *rows)]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{_escape(caption)}}}",
            f"  \\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"    \toprule",
            f"    {lines[0]}",
            r"    \midrule",
            *(f"    {line}" for line in lines[1:]),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    )


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"}
_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"±": r"$\pm$", "\N{MINUS SIGN}": "$-$", "<": "$<$", ">": "$>$"}


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
