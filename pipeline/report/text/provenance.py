"""The command that makes a run again."""

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from pipeline.distill.config import TrainConfig

_ALWAYS = ("student", "kd_weight", "seed")


def train_command(config: dict[str, Any], out: str, threads: int | None = None, processes: int = 1) -> str:
    """Returns the `tkd train` of a run's config.json: the settings that are not today's defaults.

    Places below the working directory are given from there, so that a page can be passed on and its commands typed
    in a tree of the same layout. A comment behind it names settings that there are no more, and those that an earlier
    version did not state.

    Args:
        config: The content of config.json.
        out: Run directory.
        threads: That its operations used: with others a CPU rounds otherwise. None where the run does not say.
        processes: Each with a share of every batch.
    """
    program = "tkd" if processes == 1 else f"torchrun --nproc_per_node {processes} -m pipeline.cli.main"
    words, gone = [*program.split(), "train", "--cache", place(str(config.get("cache", "CACHE")))], []
    known = {field.name: field.default for field in fields(TrainConfig)}
    for name, value in config.items():
        if name in ("cache", "cache_id", "labels", "features"):
            continue
        if name not in known:
            gone.append(f"{name}={value}")
        elif name in _ALWAYS or value != _as_read(known[name]):
            words += _option(name, value)
    unstated = [name for name in known if name not in config]
    if unstated:
        gone.append(f"not stated: {', '.join(unstated)}")
    words += ["--threads", str(threads)] if threads else []
    command = shlex.join([*words, "--out", place(out)])
    return f"{command}  # {'; '.join(gone)}" if gone else command


def place(path: str) -> str:
    """Returns a path as it is typed in the working directory; a URL, and what is not below it, as it is."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if "://" not in path and Path(path).is_relative_to(here) else path


def _option(name: str, value: Any) -> list[str]:
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    if isinstance(value, list):
        return [f"--{option}", ",".join(map(str, value)) or "none"]
    return [f"--{option}", f"{value!r}".removesuffix(".0") if isinstance(value, float) else str(value)]


def _as_read(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default
