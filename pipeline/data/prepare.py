"""Preparing a dataset: a folder that appears under its own name only when it is whole."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline.data.clip import Clip
from pipeline.data.manifest import DatasetInfo, Manifest, read_manifest, write_manifest
from pipeline.errors import TkdError
from pipeline.lock import only_one


def prepare(
    out: Path, recipe: dict, make: Callable[[Path], tuple[DatasetInfo, list[Clip]]], force: bool = False
) -> Manifest:
    """Returns the dataset at `out`: made in `<out>.partial`, and renamed when whole.

    Run again after an interruption, `make` finds in the folder what the last run left there, if `recipe` is the same.
    A dataset that is already there with the same recipe is returned as it is. With `force` it is made again from
    nothing, and takes the place of the one there only at the end.

    Raises:
        TkdError: `out` is something else than a dataset (with `force`, too), or another recipe's dataset, or cannot
            be written.
    """
    out = out.resolve()  # "." has a name, too
    recipe = json.loads(json.dumps(recipe))  # as it is read back
    if out.exists() and not (out / "dataset.json").is_file():
        raise TkdError(f"{out}: exists and is not a dataset. Give another --out.")
    if out.exists() and not force:
        there = read_manifest(out)
        if there.info.recipe != recipe:
            raise TkdError(
                f"{out}: holds a dataset of another recipe. Prepare again with --force, or give another --out."
            )
        return there
    with only_one(out):
        return _make(out, recipe, make, force)


def _make(out: Path, recipe: dict, make: Callable[[Path], tuple[DatasetInfo, list[Clip]]], force: bool) -> Manifest:
    work = out.with_name(out.name + ".partial")
    note = work / "recipe.json"
    try:
        if work.exists() and (force or _read(note) != recipe):
            shutil.rmtree(work)
        work.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(recipe), encoding="utf-8")
    except OSError as error:
        raise TkdError(f"{work}: cannot be written ({error.strerror}). Give another --out.") from error

    info, clips = make(work)
    write_manifest(work, info, clips)
    replaced = "replaced"
    if out.exists():
        out.rename(work / replaced)  # deleting could be interrupted, and leave half a dataset
    work.rename(out)
    shutil.rmtree(out / replaced, ignore_errors=True)
    (out / note.name).unlink()
    return read_manifest(out)


def _read(note: Path) -> dict | None:
    """Returns the recipe an unfinished dataset was begun with, None if that is not (wholly) written."""
    try:
        return json.loads(note.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
