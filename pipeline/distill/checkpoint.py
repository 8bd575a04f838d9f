"""Checkpoints: what a killed training needs to go on, on CPU bit for bit; safetensors files, renamed when whole."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    history: list[dict[str, Any]] = field(default_factory=list)  # of history.json: one entry an epoch


def save_checkpoint(out: Path, modules: dict[str, nn.Module], optimizer: Optimizer, progression: Progression) -> None:
    """Writes `checkpoint/state.safetensors`: modules, optimizer and random state (the CPU's), replacing the last."""
    tensors = {**_tensors(modules), "rng": torch.get_rng_state()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items() if value is not None}
    (out / "checkpoint").mkdir(exist_ok=True)
    described = {"progression": json.dumps(dataclasses.asdict(progression))}
    write_tensors(out / "checkpoint" / "state.safetensors", tensors, described)
    for file in (out / "checkpoint").glob("best-*.safetensors"):
        if file != _best(out, progression.best_epoch):
            file.unlink()


def load_checkpoint(out: Path, modules: dict[str, nn.Module], optimizer: Optimizer) -> Progression:
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
        _restore(tensors, modules)
        state = optimizer.state_dict()
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, field_ = name.split(".")
                state["state"].setdefault(int(index), {})[field_] = value
        optimizer.load_state_dict(state)
        torch.set_rng_state(tensors["rng"])
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise _damaged(file, error) from error
    return progression


def save_best(out: Path, module: nn.Module, epoch: int) -> None:
    """Writes `checkpoint/best-EPOCH.safetensors`: student and training-only parameters of the best epoch so far.

    That of the best epoch before goes with the next `save_checkpoint`, which until then may need it again.
    """
    (out / "checkpoint").mkdir(exist_ok=True)
    write_tensors(_best(out, epoch), _tensors({"best": module}))


def load_best(out: Path, module: nn.Module, epoch: int) -> None:
    """Restores what `save_best` wrote after that epoch.

    Raises:
        TkdError: it is damaged.
    """
    file = _best(out, epoch)
    try:
        _restore(load_file(file), {"best": module})
    except (SafetensorError, OSError, RuntimeError) as error:
        raise _damaged(file, error) from error


def _best(out: Path, epoch: int) -> Path:
    return out / "checkpoint" / f"best-{epoch}.safetensors"


def _damaged(file: Path, error: Exception) -> TkdError:
    return TkdError(f"{file}: damaged checkpoint ({str(error).splitlines()[0]}). Start over with --force.")


def _tensors(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    states = ((name, module.state_dict()) for name, module in modules.items())
    return {f"{name}/{key}": value for name, state in states for key, value in state.items()}


def _restore(tensors: dict[str, Tensor], modules: dict[str, nn.Module]) -> None:
    for name, module in modules.items():
        prefix = f"{name}/"
        module.load_state_dict({key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)})
