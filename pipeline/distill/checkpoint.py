"""Checkpoints: what a killed training needs to go on, on CPU bit for bit; one safetensors file, renamed when whole."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.distill.run import write_tensors
from pipeline.errors import TkdError


@dataclass(frozen=True)
class Progression:
    """How far a training is."""

    epoch: int = 0  # finished
    best: float = -1.0  # of the metric, on the validation split
    best_epoch: int = 0
    seconds: float = 0.0


def save_checkpoint(
    out: Path, student: nn.Module, query: Tensor, optimizer: Optimizer, progression: Progression
) -> None:
    """Writes `checkpoint/state.safetensors`: student, query, optimizer and random state, replacing the last."""
    tensors = {**_tensors(student, query), "rng": torch.get_rng_state()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    (out / "checkpoint").mkdir(exist_ok=True)
    described = {"progression": json.dumps(dataclasses.asdict(progression))}
    write_tensors(out / "checkpoint" / "state.safetensors", tensors, described)


def load_checkpoint(out: Path, student: nn.Module, query: Tensor, optimizer: Optimizer) -> Progression:
    """Restores what `save_checkpoint` wrote, if anything, and returns how far it is.

    Raises:
        TkdError: the checkpoint is damaged.
    """
    file = out / "checkpoint" / "state.safetensors"
    if not file.exists():
        return Progression()
    try:
        with safe_open(file, "pt") as opened:
            progression = Progression(**json.loads(opened.metadata()["progression"]))
        tensors = load_file(file)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise TkdError(f"{file}: damaged checkpoint ({error}). Start over with --force.") from error
    _restore(tensors, student, query)
    state = optimizer.state_dict()
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, field = name.split(".")
            state["state"].setdefault(int(index), {})[field] = value
    optimizer.load_state_dict(state)
    torch.set_rng_state(tensors["rng"])
    return progression


def save_best(out: Path, student: nn.Module, query: Tensor) -> None:
    """Writes `checkpoint/best.safetensors`: the student and query of the best epoch so far."""
    (out / "checkpoint").mkdir(exist_ok=True)
    write_tensors(out / "checkpoint" / "best.safetensors", _tensors(student, query))


def load_best(out: Path, student: nn.Module, query: Tensor) -> None:
    """Restores what `save_best` wrote last."""
    tensors = load_file(out / "checkpoint" / "best.safetensors")
    _restore(tensors, student, query)


def _tensors(student: nn.Module, query: Tensor) -> dict[str, Tensor]:
    return {"query": query, **{f"student.{name}": value for name, value in student.state_dict().items()}}


def _restore(tensors: dict[str, Tensor], student: nn.Module, query: Tensor) -> None:
    prefix = "student."
    student.load_state_dict({name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)})
    query.data.copy_(tensors["query"])
