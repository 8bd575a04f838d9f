"""Results as Markdown, CSV and LaTeX."""

import csv
import io
from typing import Any

from pipeline.markdown import markdown_table
from pipeline.report.numbers.published import NSCV2_NOTE, SOURCE, published
from pipeline.report.numbers.records import Record
from pipeline.report.numbers.results import VANILLA, Column, Results
from pipeline.report.numbers.settings import in_words, settings_of
from pipeline.report.text.provenance import place
from pipeline.report.text.verdict import verdict
from pipeline.report.text.words import (
    cell_text,
    difference_text,
    methods,
    score,
    seeds_text,
    student_name,
    target_words,
    unit,
)


def score_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """Returns head and rows of the papers' table, as text: students x kd weights of the rollout.

    Where the data set is the paper's, a student has a second row: what is published.
    """
    paper, columns = published(results.dataset, results.evidence), results.papers_columns
    head, rows = ["student", *(column.name for column in columns), "chosen on validation"], []
    for student in results.students:
        row = [student_name(student)]
        for column in columns:
            cell = results.cells.get((student, column))
            row.append(cell_text(results.metric, cell, results.seeds) if cell else "")
        chosen = results.chosen.get(student)
        rows.append([*row, "" if chosen is None else "vanilla" if chosen == VANILLA else target_words(chosen)])
        if paper and student in paper[1]:
            values = [score(results.metric, paper[1][student].get(column.kd_weight)) for column in columns]
            values = ["" if value == "n/a" else value for value in values]
            rows.append([f"{student_name(student)}, published", *values, ""])
    return head, rows


def difference_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """Returns head and rows of the papers' table of differences to vanilla, as text; what excludes zero has a `*`."""
    columns = [column for column in results.papers_columns if column != VANILLA]
    rows = [
        [student_name(student), *(marked_difference(results, student, column) for column in columns)]
        for student in results.students
    ]
    return ["student", *(column.name for column in columns)], rows


def target_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """Returns head and rows of the table of other frame weights, as text: these x students, with the differences."""
    students = results.students_of_others
    head, rows = ["frame weights, kd weight", *map(student_name, students)], []
    for column in results.other_columns:
        row = [target_name(column)]
        for student in students:
            cell, difference = results.cells.get((student, column)), marked_difference(results, student, column)
            words = cell_text(results.metric, cell, results.seeds) if cell else ""
            row.append(f"{words} ({difference})" if difference else words)
        rows.append(row)
    return head, rows


def target_name(column: Column) -> str:
    """Returns what a column is called among others that are not of the rollout: "rollout 0.25"."""
    return f"rollout {column.name}" if column.frame_weights == "rollout" else column.name


def marked_difference(results: Results, student: str, column: Column) -> str:
    """Returns a cell's difference to vanilla, with a `*` where its intervals exclude zero; "" without one."""
    found = results.differences.get((student, column))
    return f"{difference_text(results.metric, found, results.seeds)}{'*' if found.sign else ''}" if found else ""


def notes(results: Results) -> list[str]:
    """Returns what a reader of a table must know, one sentence each."""
    metric, teacher = results.metric, results.teacher
    said = [
        f"Test {unit(metric)}: mean ± standard deviation over {seeds_text(results.seeds)}, other numbers of seeds as "
        f"(n=...). Columns are what was distilled and kd_weight, of the rollout where nothing else is said; 0 is "
        f"vanilla{' but for the logits' if results.settings['logit_kd'] else ''}. Teacher "
        f"{teacher['name']}: {score(metric, teacher['test'])}.",
    ]
    if results.differences:
        said.append(
            f"Differences are to vanilla of the same seed, with 95 % intervals ({methods(results)}); * all exclude 0."
        )
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
    parts = [f"## {results.title}", "\n".join(f"- {said}" for said in verdict(results)).replace("*", "\\*")]
    if results.papers_columns:
        parts.append(_markdown(*score_rows(results)))
    if results.differences and set(results.papers_columns) - {VANILLA}:
        parts += ["Difference to vanilla:", _markdown(*difference_rows(results))]
    if results.other_columns:
        parts += ["Other frame weights (difference to vanilla):", _markdown(*target_rows(results))]
    said = [note.replace("*", "\\*") for note in notes(results)]
    return "\n\n".join([*parts, *said, f"Settings: {in_words(results.settings)}."])


def latex(results: Results) -> str:
    """Returns the tables for booktabs."""
    parts, said = [], notes(results)
    if results.papers_columns:
        parts.append(_latex(*score_rows(results), caption=f"{results.title}. {said[0]}"))
    if results.differences and set(results.papers_columns) - {VANILLA}:
        parts.append(_latex(*difference_rows(results), caption=f"{results.title}: difference to vanilla. {said[1]}"))
    if results.other_columns:
        caption = f"{results.title}, other frame weights (difference to vanilla). {' '.join(said[:2])}"
        parts.append(_latex(*target_rows(results), caption=caption))
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


def runs_csv(records: list[Record], elsewhere: list[Results]) -> str:
    """Returns one row a run, with all of its settings; and one for each other cache that it was scored on.

    `cache_id` is of the cache that it was scored on, `trained_on` of its own.
    """
    rows = []
    scored = {
        (run.metrics["cache_id"], run.path): run for it in elsewhere for cell in it.cells.values() for run in cell.runs
    }
    for record in [*records, *scored.values()]:
        row = {
            "run": place(str(record.path)),
            "dataset": record.metrics["dataset"],
            "cache_id": record.metrics["cache_id"],
            "trained_on": record.config["cache_id"],
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
    row |= {"test": cell.mean, "test_deviation": cell.deviation, "validation": cell.validation()}
    for name in ("mean", "low", "high", "n_seeds", "method"):
        row[f"difference_{name}"] = getattr(difference, name) if difference else None
    over_clips = (difference and difference.over_clips) or (None, None)
    row |= {f"difference_over_clips_{name}": bound for name, bound in zip(("low", "high"), over_clips, strict=True)}
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
    head, *rows = [[cell.replace("|", "\\|").replace("*", "\\*") for cell in row] for row in (head, *rows)]
    return markdown_table(head, rows)


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
