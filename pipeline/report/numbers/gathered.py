"""Runs gathered into tables: those that may be compared, in the order in which a reader looks for them."""

import dataclasses
from collections import Counter

from pipeline.report.numbers.evidence import Evidence
from pipeline.report.numbers.records import Record
from pipeline.report.numbers.results import VANILLA, Cell, Column, Results, column_of
from pipeline.report.numbers.settings import NOT_STATED, differing, key_of, same_vanilla, settings_of


def results_of(records: list[Record], evidence: dict[str, Evidence]) -> tuple[list[Results], list[str]]:
    """Returns the tables of a report, and remarks on runs that repeat another.

    Lengths of one data set follow each other, the shortest first; of one cache the table of the most runs comes first.

    Args:
        records: All runs.
        evidence: What is known of each cache, by cache_id.
    """
    grouped: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        grouped.setdefault((record.metrics["cache_id"], key_of(settings_of(record))), []).append(record)
    settings = {key: settings_of(group[0]) for key, group in grouped.items()}
    named = dict(zip(grouped, differing([settings[key] for key in grouped]), strict=True))
    remarks, tables = [], []
    for key, group in grouped.items():
        cells: dict[tuple[str, Column], dict[int, Record]] = {}
        # Without KD the rollout's first: to other frame weights augmentation keeps other stretches of the clips.
        for record in sorted(group, key=lambda it: not it.kd_weight and it.frame_weights != "rollout"):
            _put(cells, record, remarks)
        borrowed = False
        lacking = {student for student, _ in cells} - {student for student, column in cells if column == VANILLA}
        for other_key, others in grouped.items():
            same_cache = other_key != key and other_key[0] == key[0]
            if same_cache and same_vanilla(settings[other_key]) == same_vanilla(settings[key]):
                borrowed |= _borrow(cells, lacking, others)
        whole = {where: Cell([runs[seed] for seed in sorted(runs)]) for where, runs in cells.items()}
        tables.append(Results(evidence[key[0]], settings[key], named[key], whole, borrowed))
    tables = _in_order(_told_apart(tables))
    return tables, remarks + [said for table in tables for said in _made_differently(table)]


def _made_differently(table: Results) -> list[str]:
    """Returns a sentence for each version, device or number of processes in which a table's runs differ."""
    made = [run.made_with for cell in table.cells.values() for run in cell.runs]
    said = []
    for name in dict.fromkeys(name for it in made for name in it):
        counts = Counter(str(it.get(name, NOT_STATED)) for it in made)
        if len(counts) > 1:
            values = ", ".join(f"{value} ({n} run{'s' if n > 1 else ''})" for value, n in counts.items())
            said.append(f"{table.title}: its runs were not all made with the same {name}: {values}.")
    return said


def _told_apart(tables: list[Results]) -> list[Results]:
    """Returns the tables with titles of their own: data sets of one name by their teachers, or else their caches."""
    alike: dict[str, list[Results]] = {}
    for table in tables:
        alike.setdefault(table.title, []).append(table)
    told = {}
    for group in alike.values():
        teachers = {table.teacher["name"] for table in group}
        for table in group if len(group) > 1 else ():
            by_teacher = len(teachers) == len(group)
            more = {"teacher": table.teacher["name"]} if by_teacher else {"cache": table.evidence.cache_id[:8]}
            told[id(table)] = dataclasses.replace(table, differing={**table.differing, **more})
    return [told.get(id(table), table) for table in tables]


def _in_order(tables: list[Results]) -> list[Results]:
    names: dict[str, str] = {}  # the first of a series'
    for table in sorted(tables, key=lambda table: table.dataset):
        names.setdefault(table.evidence.series, table.dataset)

    def place(table: Results) -> tuple:
        it, n_runs = table.evidence, sum(len(cell.runs) for cell in table.cells.values())
        return names[it.series], it.series, it.seconds or 0, table.dataset, it.cache_id, -n_runs

    return sorted(tables, key=place)


def _put(cells: dict, record: Record, remarks: list[str]) -> None:
    runs = cells.setdefault((record.student, column_of(record)), {})
    if record.seed in runs:
        counted = runs[record.seed]
        but = "" if record.frame_weights == counted.frame_weights else ", but for the frame weights"
        remarks.append(
            f"Counted once: {record.path} has the settings and the seed of {counted.path}{but}, which counts."
        )
    runs.setdefault(record.seed, record)


def _borrow(cells: dict, lacking: set[str], others: list[Record]) -> bool:
    """Adds another table's vanilla runs of students of which this one has none; returns whether it did."""
    found = [record for record in others if not record.kd_weight and record.student in lacking]
    for record in found:
        cells.setdefault((record.student, VANILLA), {}).setdefault(record.seed, record)
    return bool(found)
