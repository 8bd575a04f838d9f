"""What a run's cache adds to its numbers, where it is at hand: the test split's labels and events, its recipe."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cache_schema import Cache, CacheError, open_cache
from pipeline.errors import TkdError
from pipeline.report.numbers.records import Record, test_outputs
from pipeline.report.numbers.settings import key_of
from pipeline.report.numbers.statistics import resampled_scores


@dataclass(frozen=True)
class Evidence:
    """A cache of the runs of a report.

    Attributes:
        cache_id: As the runs note it.
        cache: None where it is not at hand.
        remarks: Why something is missing; added to while a report is made.
        trained_from: False where the runs were only scored on it.
    """

    cache_id: str
    cache: Cache | None
    remarks: list[str] = field(default_factory=list)
    _resampled: dict[Path, np.ndarray | None] = field(default_factory=dict, repr=False)
    trained_from: ClassVar[bool] = True

    @property
    def task(self) -> str:
        """single_label or multi_label."""
        return self.cache.task

    @property
    def recipe(self) -> dict[str, Any]:
        """How its data set was made; empty where that is not known."""
        return self.cache.metadata["dataset"].get("recipe", {}) if self.cache else {}

    @property
    def series(self) -> str:
        """What data sets have in common that differ in length alone; their names, such as mini-8s, may say so, too."""
        return key_of({name: value for name, value in self.recipe.items() if name not in ("length_seconds", "name")})

    @cached_property
    def seconds(self) -> float | None:
        """Length of all its clips; None where they differ or it is not known."""
        return self.recipe.get("length_seconds")

    @property
    def length_words(self) -> str:
        """As "4 s"; empty where it is not known."""
        return f"{self.seconds:g} s" if self.seconds else ""

    @cached_property
    def rows(self) -> np.ndarray:
        """Of the test split, ascending."""
        return self.cache.split_rows("test")

    @cached_property
    def clip_id(self) -> np.ndarray:
        """(n_test,) strings."""
        return self.cache.read("clip_id")[self.rows]

    @cached_property
    def labels(self) -> np.ndarray:
        """(n_test,) classes, or (n_test, n_classes) of 0 and 1."""
        return self.cache.read("label" if self.task == "single_label" else "labels")[self.rows]

    @cached_property
    def events(self) -> np.ndarray:
        """(n_test, 2) int64, first sample and the one after the last; -1 unknown."""
        return np.stack([self.cache.read(name)[self.rows] for name in ("event_start", "event_stop")], axis=1)

    def logits(self, record: Record) -> np.ndarray | None:
        """Returns a run's logits on the test split, (n_test, n_classes); None, with a remark, where there are none."""
        if self.cache is None:
            return None
        try:
            return test_outputs(record, len(self.rows), len(self.cache.labels))
        except TkdError as error:
            if str(error) not in self.remarks:
                self.remarks.append(str(error))
            return None

    def resampled(self, record: Record) -> np.ndarray | None:
        """Returns a run's scores on resamples of the test split, (n_resamples,); None where its logits are missing."""
        if record.path not in self._resampled:
            logits = self.logits(record)
            scores = None if logits is None else resampled_scores(self.task, logits, self.labels)
            self._resampled[record.path] = scores
        return self._resampled[record.path]


def find_evidence(records: list[Record]) -> dict[str, Evidence]:
    """Returns what is known of each cache that runs were trained from, by cache_id."""
    places: dict[str, list[str]] = {}
    for record in records:
        known = places.setdefault(record.metrics["cache_id"], [])
        if record.config.get("cache") and record.config["cache"] not in known:
            known.append(record.config["cache"])
    return {cache_id: _look(cache_id, known) for cache_id, known in places.items()}


def _look(cache_id: str, places: list[str]) -> Evidence:
    said = []
    for place in places:
        try:
            cache = open_cache(place)
            if cache.metadata["cache_id"] == cache_id:
                return _read(Evidence(cache_id, cache))
            said.append(f"{place}: another cache now (cache_id {cache.metadata['cache_id'][:12]}).")
        except (CacheError, OSError) as error:
            said.append(str(error))
    reason = " ".join(said) or "The runs do not say where it was."
    return Evidence(cache_id, None, [f"Cache {cache_id[:12]} is not at hand: {reason}"])


def _read(evidence: Evidence) -> Evidence:
    """Reads the small columns that everything is compared with, so that a damaged one is known now."""
    _ = evidence.clip_id, evidence.labels, evidence.events, evidence.cache.read("view")
    return evidence
