"""Preparing a dataset: a folder that appears under its own name only when it is whole."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline.data.manifest import Clip, DatasetInfo, Manifest, read_manifest, write_manifest
from pipeline.errors import TkdError


def prepare(
    out: Path, recipe: dict, make: Callable[[Path], tuple[DatasetInfo, list[Clip]]], force: bool = False
) -> Manifest:
    """Makes a dataset in `<out>.partial`, writes its manifest, and renames the folder to `out`.

    Run again after an interruption, `make` finds in the folder what the last run left there, if `recipe` is the same.
    A dataset that is already there with the same recipe is returned as it is.

    Raises:
        TkdError: something else is at `out`, or another recipe's dataset.
    """
    recipe = json.loads(json.dumps(recipe))  # as it is read back
    if out.exists() and not force:
        if not (out / "dataset.json").is_file():
            raise TkdError(f"{out}: exists and is not a dataset. Give another --out.")
        there = read_manifest(out)
        if there.info.recipe != recipe:
            raise TkdError(
                f"{out}: holds a dataset of another recipe. Prepare again with --force, or give another --out."
            )
        return there
    work = out.with_name(out.name + ".partial")
    note = work / "recipe.json"
    if work.exists() and (force or not note.exists() or json.loads(note.read_text(encoding="utf-8")) != recipe):
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(recipe, ensure_ascii=False), encoding="utf-8")

    info, clips = make(work)
    write_manifest(work, info, clips)
    note.unlink()
    if out.exists():
        shutil.rmtree(out)
    work.rename(out)
    return read_manifest(out)
