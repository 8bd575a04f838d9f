"""Runs scored on the test split of a cache that they were not trained from: other noise, another room."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cache_schema import Cache, CacheError
from pipeline.distill.data import Split, load_splits
from pipeline.distill.run import read_run
from pipeline.distill.score import require_heard, score, score_teacher
from pipeline.errors import TkdError
from pipeline.progress import track
from pipeline.report.numbers.evidence import Evidence
from pipeline.report.numbers.records import Record
from pipeline.report.numbers.results import Cell, Results


@dataclass(frozen=True)
class EvidenceElsewhere(Evidence):
    """A cache that runs were scored on, not trained from.

    Attributes:
        outputs: Their logits on its test split, by run.
    """

    outputs: dict[Path, np.ndarray] = field(default_factory=dict)
    trained_from: ClassVar[bool] = False

    def logits(self, record: Record) -> np.ndarray | None:
        """Returns a run's logits on the test split, (n_test, n_classes)."""
        return self.outputs.get(record.path)


def score_elsewhere(tables: list[Results], cache: Cache) -> tuple[list[Results], list[str]]:
    """Returns the same tables with scores on another cache's test split, and remarks on runs that it does not suit.

    Of runs on clips of several lengths those of the cache's own are scored, if there are any.

    Validation scores stay those of the runs, so that the weight chosen is the one that would have been deployed.

    Args:
        tables: Of the runs, on the caches they were trained from.
        cache: Another, of the same labels and features.
    """
    evidence = EvidenceElsewhere(cache.metadata["cache_id"], cache)
    splits: dict[bool, tuple[Split, dict[str, Any]]] = {}
    dataset = cache.metadata["dataset"]["name"]
    alike = [results for results in tables if results.evidence.seconds == evidence.seconds]
    left_out = sorted({_home(it) for it in tables} - {_home(it) for it in alike}) if alike else []
    tables = alike or tables
    every = {run.path: run for results in tables for cell in results.cells.values() for run in cell.runs}
    records = {path: run for path, run in every.items() if run.metrics["cache_id"] != evidence.cache_id}
    scored = {}
    remarks = [f"Not scored on {dataset}: runs on {'; '.join(left_out)}, of another length."] if left_out else []
    if len(records) < len(every):
        remarks.append(
            f"Not scored on {dataset}: runs trained from that very cache, whose scores are in its own table."
        )
    for path in track(records, f"scoring on {dataset}", len(records), "runs"):
        try:
            scored[path] = _score(records[path], evidence, splits)
        except (TkdError, CacheError) as error:
            remarks.append(f"Not scored on {dataset}: {error}")
    there = [_with_scores(results, evidence, scored) for results in tables]
    return [results for results in there if results.cells], list(dict.fromkeys(remarks))


def _score(record: Record, evidence: EvidenceElsewhere, splits: dict[bool, tuple[Split, dict[str, Any]]]) -> Record:
    run = read_run(record.path)
    distillation = run.on(evidence.cache)
    drop = distillation.config.first_frame == "drop"
    if drop not in splits:
        split = load_splits(evidence.cache, drop, names=("test",))["test"]
        splits[drop] = split, _of_cache(split)
    split, of_cache = splits[drop]
    require_heard(split, run.student)
    scores = score(distillation, split)
    evidence.outputs[record.path] = scores.logits.numpy()
    of_run = {"test": scores.value, "attention": scores.attention, "attention_in_event": scores.attention["in_event"]}
    teacher = {"teacher": record.metrics["teacher"] | of_cache["teacher"]}
    return dataclasses.replace(record, metrics=record.metrics | of_cache | of_run | teacher)


def _of_cache(split: Split) -> dict[str, Any]:
    """Returns what the metrics of every run state of a cache's test split."""
    metadata, (teacher, uniform) = split.cache.metadata, score_teacher(split)
    attention = {"attention_in_event": teacher.attention["in_event"], "attention": teacher.attention}
    return {
        "dataset": metadata["dataset"]["name"],
        "cache_id": metadata["cache_id"],
        "uniform_attention_in_event": uniform,
        "teacher": {"name": metadata["teacher"]["name"], "test": teacher.value, **attention},
    }


def _with_scores(results: Results, evidence: EvidenceElsewhere, scored: dict[Path, Record]) -> Results:
    cells = {
        where: [scored[run.path] for run in cell.runs if run.path in scored] for where, cell in results.cells.items()
    }
    return dataclasses.replace(
        results,
        evidence=evidence,
        differing={"trained on": _home(results), **results.differing},
        cells={where: Cell(runs) for where, runs in cells.items() if runs},
        chosen_at_home=results.chosen,
    )


def _home(results: Results) -> str:
    """Returns what a table's runs were trained on."""
    return ", ".join(word for word in (results.dataset, results.evidence.length_words) if word)
