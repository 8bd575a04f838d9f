"""Runs as a report reads them: their numbers and settings, without their networks."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from pipeline.errors import TkdError

_METRICS = {"student", "dataset", "cache_id", "kd_weight", "seed", "metric", "validation", "test", "n_params"}
_METRICS |= {"epochs", "best_epoch", "seconds", "attention_in_event", "uniform_attention_in_event", "teacher"}
_TEACHER = {"name", "n_params", "test", "attention_in_event", "imported"}


@dataclass(frozen=True)
class Record:
    """A complete run, its files read back; the network stays on the disk."""

    path: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    history: list[dict[str, Any]]  # one an epoch; empty for a run that kept none

    @property
    def student(self) -> str:
        """Its name."""
        return self.metrics["student"]

    @property
    def kd_weight(self) -> float:
        """Weight of the temporal KD term; 0: vanilla."""
        return self.metrics["kd_weight"]

    @property
    def frame_weights(self) -> str:
        """What it was distilled from; before there was a choice it was the rollout."""
        return self.config.get("frame_weights", "rollout")

    @property
    def seed(self) -> int:
        """What everything random of it was drawn from."""
        return self.metrics["seed"]

    @property
    def attention(self) -> dict[str, float | None]:
        """Where it looks on the test split, measure by measure; the share in the event alone for older runs."""
        return self.metrics.get("attention") or {"in_event": self.metrics["attention_in_event"]}

    @property
    def made_with(self) -> dict[str, str | int]:
        """Versions, device and number of processes that it was trained with; empty for older runs."""
        return self.metrics.get("made_with", {})


def read_records(paths: list[Path]) -> tuple[list[Record], list[str]]:
    """Returns the complete runs among `paths` and in the folders below them, by path, and remarks on what was left out.

    Raises:
        TkdError: there are none, or a path is no folder.
    """
    absent = [str(path) for path in paths if not path.is_dir()]
    if absent:
        raise TkdError(f"{', '.join(absent)}: no such folder. Give run directories, or folders of them.")
    found = {file.parent.resolve() for path in paths for file in path.rglob("metrics.json")}
    records, remarks = [], []
    for path in sorted(found):
        try:
            records.append(read_record(path))
        except TkdError as error:
            remarks.append(f"Not counted: {error}")
    unfinished = sorted(_unfinished(paths))
    if unfinished:
        remarks.append(
            f"Not counted: {len(unfinished)} unfinished run{'s' if len(unfinished) > 1 else ''} "
            f"({', '.join(str(path) for path in unfinished[:5])}{', ...' if len(unfinished) > 5 else ''}). "
            "Finish with the same tkd train and --resume."
        )
    if not records:
        more = f" {remarks[0]}" if remarks else ""
        raise TkdError(f"{', '.join(map(str, paths))}: no complete runs (metrics.json). Make one with tkd train.{more}")
    return records, remarks


def read_record(path: Path) -> Record:
    """Returns a complete run.

    Raises:
        TkdError: its files are damaged, or of something else.
    """
    try:
        config, metrics = (_object(path / name) for name in ("config.json", "metrics.json"))
        missing = sorted(({"student", "cache_id", "labels", "features"} - config.keys()) | (_METRICS - metrics.keys()))
        if missing:
            raise ValueError(f"{', '.join(missing)}: not there")
        _check_types(config, metrics)
        history = path / "history.json"
        epochs = json.loads(history.read_text(encoding="utf-8")) if history.is_file() else []
        if not (isinstance(epochs, list) and all(isinstance(epoch, dict) for epoch in epochs)):
            raise ValueError("history.json is no list of epochs")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise TkdError(f"{path}: damaged run ({str(error).splitlines()[0]}). Train it again with --force.") from error
    return Record(path, config, metrics, epochs)


def _check_types(config: dict[str, Any], metrics: dict[str, Any]) -> None:
    teacher, attention = metrics["teacher"], metrics.get("attention") or {}
    texts = [metrics[name] for name in ("student", "cache_id", "dataset", "metric")]
    texts += [config["student"], config.get("frame_weights", ""), config.get("cache", ""), *config["labels"]]
    made_with = metrics.get("made_with", {})
    objects = (config["features"], teacher, attention, made_with)
    numbers = [metrics[name] for name in ("kd_weight", "validation", "test", "n_params", "seconds")]
    if not all(isinstance(it, str) for it in texts) or not all(isinstance(it, dict) for it in objects):
        raise ValueError("a name, a label, features, teacher, attention or made_with: of another type")
    if not isinstance(made_with.get("processes", 1), int):
        raise ValueError("made_with: processes is not a number")
    if not teacher.keys() >= _TEACHER:
        raise ValueError(f"teacher: {', '.join(sorted(_TEACHER - teacher.keys()))}: not there")
    shares = (metrics["attention_in_event"], metrics["uniform_attention_in_event"], teacher["attention_in_event"])
    numbers += [teacher["test"], *(it for it in (*shares, *attention.values()) if it is not None)]
    if not isinstance(metrics["seed"], int) or not all(isinstance(number, int | float) for number in numbers):
        raise ValueError("a score, a size, the seed or a measure of attention: not a number")


def test_outputs(record: Record, n_clips: int, n_classes: int) -> np.ndarray | None:
    """Returns a run's logits on the test split, (n_clips, n_classes) float32; None for a run that kept none.

    Raises:
        TkdError: the file is damaged, or of another test split.
    """
    file = record.path / "test.safetensors"
    if not file.is_file():
        return None
    try:
        logits = load_file(file)["logits"]
    except (OSError, KeyError, TypeError, SafetensorError) as error:  # TypeError: numbers that numpy has not
        raise TkdError(f"{file}: damaged ({str(error).splitlines()[0]}). Train the run again with --force.") from error
    if logits.shape != (n_clips, n_classes):
        raise TkdError(f"{file}: logits of shape {logits.shape}, its cache's test split has {(n_clips, n_classes)}.")
    return logits


def _object(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} is no JSON object")
    return content


def _unfinished(paths: list[Path]) -> set[Path]:
    """Returns the runs that were begun and are not complete; other tools write a config.json, too."""
    begun = set()
    for file in {file.resolve() for path in paths for file in path.rglob("config.json")}:
        if not (file.parent / "metrics.json").is_file():
            try:
                if {"student", "cache_id"} <= _object(file).keys():
                    begun.add(file.parent)
            except (OSError, ValueError, RecursionError):
                continue
    return begun
