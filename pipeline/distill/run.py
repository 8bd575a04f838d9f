"""The run directory: what a training leaves behind, and what makes it whole.

config.json (settings), checkpoint/ (for resuming), history.json (a record an epoch), TensorBoard events; when complete
also model.safetensors (the deployable student alone), distillation.safetensors (the training-only parameters: query,
mixture and its reader), test.safetensors (its logits on the test split) and, last, metrics.json.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from cache_schema import Cache
from pipeline.distill.config import TrainConfig
from pipeline.distill.distillation import Distillation
from pipeline.errors import TkdError, nearest
from pipeline.tasks import METRICS
from students import STUDENTS, Student


@dataclass(frozen=True)
class Run:
    """A complete run, read back."""

    path: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    history: list[dict[str, Any]]  # one record an epoch
    student: Student  # in eval mode
    training_only: dict[str, Tensor]  # of distillation.safetensors; "query": (n_channels,)

    @property
    def task(self) -> str:
        """single_label or multi_label."""
        return next(task for task, metric in METRICS.items() if metric == self.metrics["metric"])

    @property
    def query(self) -> Tensor | None:
        """What reads the student's frames, (n_channels,); None where attention of its own was taught.

        Raises:
            TkdError: it is missing.
        """
        if self.config.get("attention") == "own":
            return None
        query = self.training_only.get("query")
        if query is None or query.shape != (self.student.n_channels,):
            raise TkdError(
                f"{self.path}: damaged run (no query of {self.student.n_channels} channels in "
                "distillation.safetensors). Train it again with --force."
            )
        return query

    def on(self, cache: Cache) -> Distillation:
        """Returns the student as it can be scored on a cache, in eval mode.

        Raises:
            TkdError: it was trained for other labels or another task or on other features, or its query is missing.
        """
        for what in ("labels", "features"):
            trained, given = self.config[what], cache.labels if what == "labels" else cache.metadata["features"]
            if trained != given:
                raise TkdError(
                    f"{self.path}: trained with {what} {trained}; {cache.path} has {given}. Give a cache like its own."
                )
        metric = self.metrics.get("metric")
        if metric != METRICS[cache.task]:
            raise TkdError(
                f"{self.path}: trained for {metric}; {cache.path} is {cache.task}, scored by {METRICS[cache.task]}. "
                "Give a cache like its own."
            )
        settings = {key: value for key, value in self.config.items() if key in TrainConfig.__dataclass_fields__}
        config = TrainConfig(**settings | {"frame_weights": "rollout", "augment": ()})  # what scoring asks for
        distillation = Distillation(self.student, config, cache)
        if self.query is not None:
            distillation.query.data.copy_(self.query)
        return distillation.eval()


def begin_run(path: Path, settings: dict[str, Any], resume: bool, force: bool) -> None:
    """Makes the run directory, or checks that the one there is to be continued.

    Raises:
        TkdError: it is there already, or was begun with other settings.
    """
    settings = json.loads(json.dumps(settings))  # as it is read back
    begun = _begun(path)
    if begun is not None and force:
        _remove(path)
        begun = None
    if begun is not None:
        if not resume:
            state = "a complete run" if is_complete(path) else "an unfinished run; go on with --resume"
            raise TkdError(f"{path}: {state}. Start over with --force, or give another --out.")
        differing = [key for key in settings if key != "cache" and begun.get(key) != settings[key]]
        if differing:
            changes = ", ".join(f"{key} was {begun.get(key)}, is {settings[key]}" for key in differing)
            raise TkdError(
                f"{path}: begun with other settings ({changes}). Repeat those, give another --out, or start over with "
                "--force."
            )
        return
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "config.json", settings)


def _begun(path: Path) -> dict[str, Any] | None:
    """Returns the settings of the run at `path`; None if nothing is there, or no more than a start that was killed."""
    if not path.exists() or (path.is_dir() and {file.name for file in path.iterdir()} <= {"config.json.partial"}):
        return None
    try:
        begun = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        begun = {}
    if not isinstance(begun, dict) or not {"student", "cache_id"} <= begun.keys():  # other tools write one, too
        raise TkdError(f"{path}: exists and is not a run. Give another --out.")
    return begun


def _remove(path: Path) -> None:
    """Removes a run; what a removal that is cut short leaves is an unfinished run, not a complete or a nameless one."""
    (path / "metrics.json").unlink(missing_ok=True)
    for entry in path.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != "config.json":
            entry.unlink()
    shutil.rmtree(path)


def is_complete(path: Path) -> bool:
    """Returns whether a run has finished: metrics.json is written last."""
    return (path / "metrics.json").is_file()


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file that is there whole or not at all."""
    text = f"{json.dumps(content, indent=2, ensure_ascii=False)}\n"
    write_whole(path, text.encode(errors="backslashreplace"))  # file names may be bytes


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file that is there whole or not at all."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_whole(path, save(plain, metadata))  # safetensors' own save_file hides the errno of a full disk


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that is there whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # else a power cut could leave the name, and nothing in it
    os.replace(partial, path)


def read_run(path: Path, student: type[Student] | None = None) -> Run:
    """Returns a complete run.

    Args:
        path: The run directory.
        student: The class of its student, where that is not one of `STUDENTS`.

    Raises:
        TkdError: no such run, an unfinished one, damaged files, or a student of one's own that is not given.
    """
    if (path / "zarr.json").is_file() or path.is_file():
        raise TkdError(f"{path}: {'a cache' if path.is_dir() else 'a file'}, expected the directory of a run.")
    if not (path / "config.json").is_file():
        below, beside = (sorted(it.parent.name for it in at.glob("*/config.json")) for at in (path, path.parent))
        if below:
            raise TkdError(f"{path}: a folder of runs, expected one of them: {', '.join(below[:8])}.")
        hint = f"{nearest(path.name, beside)} " if beside else ""
        raise TkdError(f"{path}: no run here (config.json is missing). {hint}Make one with tkd train --out {path}.")
    if not is_complete(path):
        raise TkdError(f"{path}: the run is not complete. Finish it: the same tkd train with --resume.")
    try:
        config, metrics, history = (
            json.loads((path / name).read_text(encoding="utf-8"))
            for name in ("config.json", "metrics.json", "history.json")
        )
        if not isinstance(metrics, dict) or not isinstance(history, list):
            raise ValueError("metrics.json or history.json holds something else")
        if student is None and config["student"] not in STUDENTS:
            raise TkdError(
                f"{path}: its student {config['student']} is a class of its own. Give it: read_run(path, student=...)."
            )
        student = student or STUDENTS[config["student"]]
        built = student(len(config["labels"]), config["features"]["n_mels"])
        built.load_state_dict(load_file(path / "model.safetensors"))
        training_only = load_file(path / "distillation.safetensors")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TkdError(f"{path}: damaged run ({reason}). Train it again with --force.") from error
    return Run(path, config, metrics, history, built.eval(), training_only)
