"""What an interrupted training leaves behind, and when it may be gone on with."""

import dataclasses
import json
import shutil
from pathlib import Path

from cache_schema import discard
from pipeline.data.manifest import Manifest
from pipeline.errors import TkdError
from pipeline.progress import say
from pipeline.teacher.base import is_fresh, weights_sha256
from pipeline.teacher.config import TeacherConfig
from pipeline.teacher.model import Teacher

_FREE = ("workers",)  # settings that change nothing in what comes out


def settings_of(manifest: Manifest, config: TeacherConfig, teacher: Teacher, n_processes: int) -> dict:
    """Returns everything that decides what comes out, as it reads back from JSON; the teacher is untrained."""
    encoder = json.loads(teacher.encoder.config.to_json_string())
    encoder.pop("transformers_version", None)
    settings = {
        **{name: value for name, value in dataclasses.asdict(config).items() if name not in _FREE},
        "dataset": manifest.sha256(),
        "encoder": encoder,
        "base_weights": None if is_fresh(config.base) else weights_sha256(teacher),
        "do_normalize": teacher.do_normalize,
        "n_processes": n_processes,
    }
    return json.loads(json.dumps(settings))


def claim(work: Path, settings: dict, force: bool) -> None:
    """Makes the working folder, or takes over the one of an interrupted training with the same settings.

    Raises:
        TkdError: the folder holds something else, or checkpoints of other settings.
    """
    note = work / "settings.json"
    if work.exists() and not note.exists() and any(work.iterdir()):
        raise TkdError(f"{work}: in the way, and no interrupted training. Remove it, or give another --out.")
    if note.exists():
        try:
            begun = json.loads(note.read_text(encoding="utf-8"))
        except ValueError:  # killed while it was written
            begun = {}
        differing = sorted(key for key in {**begun, **settings} if begun.get(key) != settings.get(key))
        if differing and not force and any(work.glob("checkpoint-*")):
            raise TkdError(
                f"{work}: an interrupted training with other settings: {', '.join(differing)}. "
                "Repeat those it had, or start over with --force."
            )
        if differing:
            discard(work, work)
    work.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(settings), encoding="utf-8")


def drop_broken_checkpoints(work: Path, n_processes: int) -> None:
    """The Trainer's checkpoints are not atomic; each process writes its rng_state, and trainer_state.json is last."""
    states = [f"rng_state_{i}.pth" for i in range(n_processes)] if n_processes > 1 else ["rng_state.pth"]
    for checkpoint in work.glob("checkpoint-*"):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
            whole = all((checkpoint / state).is_file() for state in states)
        except (OSError, ValueError):
            whole = False
        if not whole:
            say(f"{checkpoint}: half-written, removed")
            shutil.rmtree(checkpoint)


def find_best_checkpoint(work: Path) -> None:
    """Lets the last checkpoint name the best one where it is now: the Trainer notes an absolute path."""
    if (last := _last_checkpoint(work)) is None:
        return
    file = last / "trainer_state.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    noted = state.get("best_model_checkpoint")
    best = work.absolute() / Path(noted or "").name
    if noted and noted != str(best) and best.is_dir():
        partial = file.with_name("trainer_state.json.partial")
        partial.write_text(json.dumps({**state, "best_model_checkpoint": str(best)}), encoding="utf-8")
        partial.replace(file)


def _last_checkpoint(work: Path) -> Path | None:
    return max(work.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]), default=None)


def epochs_if_over(work: Path) -> int | None:
    """Returns after how many epochs the training ended, if it did: by itself, by early stopping; else None.

    The Trainer would train on from the checkpoint of one that was stopped early.
    """
    if (last := _last_checkpoint(work)) is None:
        return None
    state = json.loads((last / "trainer_state.json").read_text(encoding="utf-8"))
    stopped = state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"]
    return round(state["epoch"]) if stopped else None
