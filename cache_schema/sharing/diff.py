"""What differs between two caches, in words."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cache_schema.errors import CacheError
from cache_schema.format.schema import SPLITS, required_arrays
from cache_schema.stores import is_url, open_store
from cache_schema.stores.base import Store
from cache_schema.stores.working import working_path
from cache_schema.validate import Problem

_SECTIONS = {  # in the order of telling, with their names there
    "format_version": "format",
    "complete": "complete",
    "teacher": "teacher",
    "dataset": "data set",
    "features": "front end",
    "pooling": "pooling",
    "layout": "layout",
    "software": "software (not part of the cache_id)",
}
_NAMED = 5  # clips named of a difference


def diff_caches(a: str | os.PathLike, b: str | os.PathLike) -> list[Problem]:
    """Everything in which two caches differ: provenance, sizes, rows and content; an empty list if nothing does.

    Clips are matched by clip_id. Unfinished caches are compared by what they were begun with.

    Raises:
        CacheError: one of them is none, or damaged.
    """
    ours, theirs = _open(a), _open(b)
    found = [*_metadata(ours.metadata, theirs.metadata)]
    found += _clips(ours, theirs)
    return found


def _open(location: str | os.PathLike) -> Store:
    unfinished = not is_url(location) and not Path(location).exists() and working_path(location).exists()
    return open_store(working_path(location) if unfinished else location)


def _metadata(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Problem]:
    for section in {**_SECTIONS, **ours, **theirs}:
        if section == "cache_id":
            continue  # it differs because something else does
        place = _SECTIONS.get(section, section)
        left, right = ours.get(section), theirs.get(section)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            for path, one, other in differences(left, right):
                yield Problem(place, f"{path} is {_shown(one)} in the first, {_shown(other)} in the second")
        elif left != right:
            yield Problem(place, f"{_shown(left)} in the first, {_shown(right)} in the second")


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Each leaf in which two JSON objects differ: its path, and both values (None where there is none)."""
    for key in {**ours, **theirs}:
        left, right = ours.get(key), theirs.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            yield from differences(left, right, f"{prefix}{key}.")
        elif left != right:
            yield f"{prefix}{key}", left, right


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _clips(ours: Store, theirs: Store) -> Iterator[Problem]:
    ids = [_read(store, "clip_id").tolist() for store in (ours, theirs)]
    places = [{clip: row for row, clip in enumerate(found)} for found in ids]
    for which, mine, other in (("first", ids[0], places[1]), ("second", ids[1], places[0])):
        alone = [clip for clip in mine if clip not in other]
        if alone:
            yield Problem("clips", f"{len(alone)} of {len(mine)} are in the {which} alone: {_list(alone)}")
    common = [clip for clip in ids[0] if clip in places[1]]
    rows = [np.array([place[clip] for clip in common], int) for place in places]
    if len(rows[0]) and not np.array_equal(np.argsort(rows[0]), np.argsort(rows[1])):
        yield Problem("clips", "in another order")
    specs = [required_arrays(store.layout()) for store in (ours, theirs)]
    for which, mine, other in (("first", *specs), ("second", *specs[::-1])):
        for name in mine:
            if name not in other:
                yield Problem(name, f"in the {which} alone")
    unfinished = not (ours.metadata["complete"] and theirs.metadata["complete"])
    for name, spec in specs[0].items():
        if name in ("clip_id", "partition_digest") or name not in specs[1] or not common:
            continue
        if unfinished and spec.written != "creation":
            continue
        yield from _values(name, common, _read(ours, name)[rows[0]], _read(theirs, name)[rows[1]])


def _values(name: str, clips: list[str], ours: np.ndarray, theirs: np.ndarray) -> Iterator[Problem]:
    if ours.shape != theirs.shape:
        yield Problem(name, f"{ours.shape[1:]} per clip in the first, {theirs.shape[1:]} in the second")
        return
    unequal = (ours != theirs).reshape(len(clips), -1).any(axis=1)
    if not unequal.any():
        return
    at = np.flatnonzero(unequal)
    text = f"differs in {len(at)} of {len(clips)} clips: {_list([clips[i] for i in at])}"
    if name == "split":
        text += f"; {SPLITS[ours[at[0]]]} in the first, {SPLITS[theirs[at[0]]]} in the second"
    elif ours.dtype.kind == "f":
        text += f"; by up to {np.abs(ours.astype(np.float32) - theirs.astype(np.float32)).max():.3g}"
    yield Problem(name, text)


def _list(clips: list[str]) -> str:
    return ", ".join(clips[:_NAMED]) + (", ..." if len(clips) > _NAMED else "")


def _read(store: Store, name: str) -> np.ndarray:
    try:
        return store.read(name)
    except CacheError as error:
        raise CacheError(f"{store.location}: {name}: {error}. List every fault with tkd cache validate.") from error
