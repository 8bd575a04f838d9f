"""The page's parts that state scores: in words, and the papers' tables."""

from pipeline.report.drawing.markup import Content, element, table
from pipeline.report.numbers.published import published
from pipeline.report.numbers.results import VANILLA, Column, Results
from pipeline.report.numbers.settings import in_words
from pipeline.report.page.section import Section
from pipeline.report.text.tables import marked_difference, notes, target_name
from pipeline.report.text.verdict import verdict
from pipeline.report.text.words import cell_text, score, student_name


def summary(tables: list[Results]) -> Section:
    """Returns the verdicts."""
    return Section("summary", "What the numbers say", _verdicts(tables))


def elsewhere(tables: list[Results], first: int) -> Section:
    """Returns verdicts and tables on test splits of other caches than the runs were trained from.

    Args:
        tables: Of these scores.
        first: Number of the first.
    """
    said = (
        "Students scored on clips of another data set than they were trained on; the weight is the one chosen at home."
    )
    scores = [_score_table(number, it) for number, it in enumerate(tables, first)]
    content = [element("p", said), _verdicts(tables), scores] if tables else []
    return Section("elsewhere", "On other recordings", content)


def _verdicts(tables: list[Results]) -> Content:
    return [
        element(
            "div",
            element("h3", results.title),
            element("ul", [element("li", sentence) for sentence in verdict(results)]),
            class_="verdict",
        )
        for results in tables
    ]


def score_tables(tables: list[Results]) -> Section:
    """Returns the papers' tables, each difference to vanilla under its score."""
    return Section("tables", "Scores", [_score_table(number, it) for number, it in enumerate(tables, 1)])


def _score_table(number: int, results: Results) -> Content:
    said, settings = notes(results), in_words(results.settings)
    caption = [element("b", f"Table {number}. {results.title}."), " ", said[0]]
    framed = "Framed: the best validation score." if results.chosen else ""
    return [
        _papers_table(results, caption) if results.papers_columns else None,
        _targets_table(results, number) if results.other_columns else None,
        element("p", " ".join([framed, *said[1:]]), class_="note"),
        element("details", element("summary", "Settings"), element("p", settings, class_="note")),
    ]


def _papers_table(results: Results, caption: Content) -> Content:
    paper, columns = published(results.dataset, results.evidence), results.papers_columns
    rows: list[list[Content]] = [
        [student_name(student), *(_score_cell(results, student, column, paper) for column in columns)]
        for student in results.students
    ]
    head = ["student", *("0 (vanilla)" if column == VANILLA else column.name for column in columns)]
    return table(head, rows, caption)


def _targets_table(results: Results, number: int) -> Content:
    students = results.students_of_others
    rows: list[list[Content]] = [
        [target_name(column), *(_score_cell(results, student, column, None) for student in students)]
        for column in results.other_columns
    ]
    caption = [element("b", f"Table {number}, continued."), " Other frame weights, and the rollout at their weight."]
    return table(["frame weights, kd weight", *map(student_name, students)], rows, caption)


def _score_cell(results: Results, student: str, column: Column, paper) -> Content:
    cell = results.cells.get((student, column))
    if cell is None:
        return ""
    words = cell_text(results.metric, cell, results.seeds)
    chosen = results.chosen.get(student) == column
    parts: list[Content] = [element("span", words, class_="chosen" if chosen else None)]
    difference = results.differences.get((student, column))
    if difference:
        judged = {1: "good", -1: "bad", 0: None}[difference.sign]
        parts.append(element("small", marked_difference(results, student, column), class_=judged))
    if paper and column.frame_weights == "rollout" and column.kd_weight in paper[1].get(student, {}):
        value = score(results.metric, paper[1][student][column.kd_weight])
        parts.append(element("small", f"published {value}", class_="paper"))
    return parts
