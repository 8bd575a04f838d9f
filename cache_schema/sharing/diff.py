"""What differs between two caches, in words."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache_schema.errors import CacheError
from cache_schema.format.differences import differences
from cache_schema.format.schema import SPLITS, ArraySpec, required_arrays
from cache_schema.reader import Cache, cache_of
from cache_schema.stores import open_store
from cache_schema.stores.base import DIGESTS_ATTRIBUTE, Store
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


@dataclass(frozen=True)
class _Side:
    """One of the two: a finished cache, verified as it is read, or what an unfinished one was begun with."""

    store: Store
    cache: Cache | None  # None: unfinished

    @property
    def specs(self) -> dict[str, ArraySpec]:
        return required_arrays(self.store.layout())

    def read(self, name: str, partition: int | None = None) -> np.ndarray:
        """Stored values of all rows, or those of one partition."""
        if self.cache is not None:
            return self.cache.read(name, None if partition is None else [partition], decode=False)
        try:
            return self.store.read(name)
        except CacheError as error:
            where = f"{self.store.location}: {name}"
            raise CacheError(f"{where}: {error}. List every fault with tkd cache validate.") from error


def diff_caches(a: str | os.PathLike, b: str | os.PathLike) -> list[Problem]:
    """Everything in which two caches differ: provenance, sizes, rows and content; an empty list if nothing does.

    Clips are matched by clip_id. Unfinished caches are compared by what they were begun with. Content whose digests are
    equal is not read.

    Raises:
        CacheError: one of them is none, or damaged.
    """
    ours, theirs = _open(a), _open(b)
    return [*_metadata(ours.store.metadata, theirs.store.metadata), *_clips(ours, theirs)]


def _open(location: str | os.PathLike) -> _Side:
    store = open_store(location, unfinished=True)
    return _Side(store, cache_of(store) if store.metadata.get("complete") is True else None)


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


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _clips(ours: _Side, theirs: _Side) -> Iterator[Problem]:
    ids = [side.read("clip_id").tolist() for side in (ours, theirs)]
    places = [{clip: row for row, clip in enumerate(found)} for found in ids]
    for which, mine, other in (("first", ids[0], places[1]), ("second", ids[1], places[0])):
        alone = [clip for clip in mine if clip not in other]
        if alone:
            yield Problem("clips", f"{len(alone)} of {len(mine)} are in the {which} alone: {_list(alone)}")
    # the row in the second of each row of the first, -1 where there is none
    matches = np.array([places[1].get(clip, -1) for clip in ids[0]], int)
    common = matches[matches >= 0]
    if (np.diff(common) < 0).any():
        yield Problem("clips", "in another order")
    for which, mine, other in (("first", ours.specs, theirs.specs), ("second", theirs.specs, ours.specs)):
        for name in mine:
            if name not in other:
                yield Problem(name, f"in the {which} alone")
    finished = ours.cache is not None and theirs.cache is not None
    for name, spec in ours.specs.items():
        if name in ("clip_id", "partition_digest") or name not in theirs.specs or not len(common):
            continue
        if spec.written == "creation" or finished:
            yield from _values(ours, theirs, name, ids[0], matches)


def _values(ours: _Side, theirs: _Side, name: str, clips: list[str], matches: np.ndarray) -> Iterator[Problem]:
    """How an array differs in the clips that both have."""
    shapes = [side.specs[name].grid(side.store.layout()).shape[1:] for side in (ours, theirs)]
    if shapes[0] != shapes[1]:
        yield Problem(name, f"{shapes[0]} per clip in the first, {shapes[1]} in the second")
        return
    differing, largest, values = [], 0.0, None
    for rows, left, right in _pairs(ours, theirs, name, matches):
        unequal = left != right
        if left.dtype.kind == "f":
            unequal &= ~(np.isnan(left) & np.isnan(right))
            by = np.abs(left.astype(np.float32) - right.astype(np.float32))
            largest = max(largest, float(np.max(by, initial=0, where=unequal)))
        at = np.flatnonzero(unequal.reshape(len(rows), -1).any(axis=1))
        if len(at) and values is None:
            values = left[at[0]], right[at[0]]
        differing += [clips[row] for row in rows[at]]
    if not differing:
        return
    text = f"differs in {len(differing)} of {(matches >= 0).sum()} clips: {_list(differing)}"
    if name == "split":
        text += f"; {SPLITS[values[0]]} in the first, {SPLITS[values[1]]} in the second"
    elif ours.specs[name].dtype == "float16":
        text += f"; by up to {largest:.3g}"
    yield Problem(name, text)


def _pairs(
    ours: _Side, theirs: _Side, name: str, matches: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows of the first with their values in both caches; a partition at a time, and none whose digests are equal.

    Of the second those partitions are in memory that one partition of the first needs: one, if the clips are in one
    order and the partitions of one size.
    """
    if ours.specs[name].written == "creation":
        rows = np.flatnonzero(matches >= 0)
        yield rows, ours.read(name)[rows], theirs.read(name)[matches[rows]]
        return
    layout, other = ours.store.layout(), theirs.store.layout()
    digests = [side.cache.forms[name].attributes[DIGESTS_ATTRIBUTE] for side in (ours, theirs)]
    held: dict[int, np.ndarray] = {}
    for index in range(layout.n_partitions):
        part = layout.partition_rows(index)
        rows = part.start + np.flatnonzero(matches[part] >= 0)
        as_here = index < other.n_partitions and part == other.partition_rows(index)
        as_here = as_here and np.array_equal(matches[part], np.arange(part.start, part.stop))
        if as_here and digests[0][index] == digests[1][index]:
            continue
        if not len(rows):
            continue
        needed, inside = np.divmod(matches[rows], other.partition_size)
        held = {i: held[i] if i in held else theirs.read(name, i) for i in np.unique(needed).tolist()}
        right = np.stack([held[i][row] for i, row in zip(needed.tolist(), inside.tolist(), strict=True)])
        yield rows, ours.read(name, index)[rows - part.start], right


def _list(clips: list[str]) -> str:
    return ", ".join(clips[:_NAMED]) + (", ..." if len(clips) > _NAMED else "")
