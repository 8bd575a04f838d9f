"""From recordings that are listed, in folders or in a table, to the clips of a dataset."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.data.audio import n_resampled
from pipeline.data.clip import SAMPLE_RATE, Clip
from pipeline.data.manifest import DatasetInfo
from pipeline.data.mixing import LONGEST
from pipeline.data.own.dealing import Dealt, deal
from pipeline.data.recordings import (
    SHORTEST,
    Checked,
    LeftOut,
    check_recordings,
    names_and_sizes,
    report,
    too_short,
)
from pipeline.errors import TkdError
from pipeline.progress import say

_OVERSHOOT = 1.05  # full scale is 1; decoders go a little beyond, which is cut off
_ROUNDED_SECONDS = 0.01  # by how much an end may lie beyond the recording's: lengths are written down rounded


@dataclass(frozen=True)
class RecordingsConfig:
    """How your own recordings become clips.

    `length_seconds`: every clip is cut (its middle kept) or padded at its end to it; None: as long as its recording, or
    part of one. `strict`: stop if anything that is listed cannot be used.
    """

    length_seconds: float | None = None
    seed: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        shortest = SHORTEST / SAMPLE_RATE
        if self.length_seconds is not None and not shortest <= self.length_seconds <= LONGEST:  # not: NaN is outside
            raise TkdError(f"length {self.length_seconds} s: use {shortest} (one frame) to {LONGEST} s.")


@dataclass(frozen=True)
class Row:
    """One clip as it is listed; times in seconds of the recording."""

    path: Path
    labels: tuple[str, ...]
    split: str | None = None
    speaker: str | None = None
    start: float = 0.0
    end: float | None = None  # None: the recording's end
    event: tuple[float, float] | None = None
    clip_id: str | None = None
    place: str | None = None  # file:line of the table, where there is one


@dataclass(frozen=True)
class Listing:
    """What is listed, before any recording was read."""

    kind: str  # folder, csv or audiofolder
    name: str
    place: str  # the folder or table as it was given, for messages
    root: Path  # what the recordings' names in the manifest are relative to
    task: str
    rows: list[Row]
    left_out: list[LeftOut]  # what is listed and cannot be a row
    tables_sha256: str | None = None

    def recipe(self, config: RecordingsConfig) -> dict:
        """Returns what `dataset.json` says of how the clips were made; other recordings or rows make it another."""
        tables = {} if self.tables_sha256 is None else {"tables_sha256": self.tables_sha256}
        return {
            "kind": self.kind,
            "folder": self.root.name,
            "names_and_sizes_sha256": names_and_sizes({row.path for row in self.rows}, self.root),
            **tables,
            "length_seconds": config.length_seconds,
            "seed": config.seed,
        }


def read_listing(listing: Listing, config: RecordingsConfig) -> tuple[DatasetInfo, list[Clip]]:
    """Returns the dataset that is listed; the recordings stay where they are.

    Every recording is read once. What cannot be used is reported, one line each, and left out; or, if `config.strict`,
    ends the work.

    Raises:
        TkdError: too little to make a dataset of, a speaker in two splits, or (strict) something that cannot be used.
    """
    checked = check_recordings(row.path for row in listing.rows)
    left_out = list(listing.left_out)
    usable = _usable(_filled(listing), checked, left_out)
    what = "recordings" if listing.tables_sha256 is None else "recordings and lines"
    report(left_out, len(listing.rows) + len(listing.left_out), what, listing.place, config.strict)

    labels = tuple(sorted({label for row in usable for label in row.labels}))
    if len(labels) < 2:
        raise TkdError(f"{listing.place}: usable recordings of {len(labels)} labels; a classifier needs two or more.")
    asked = [Dealt(_relative(row.path, listing.root), row.speaker, row.labels, row.split) for row in usable]
    splits = deal(asked, listing.place, listing.task == "single_label", config.seed)
    index = {label: number for number, label in enumerate(labels)}
    clips = [
        _clip(row, split, checked[row.path], listing.root, index, config)
        for row, split in zip(usable, splits, strict=True)
    ]
    digest = hashlib.sha256()
    for path in sorted({row.path for row in usable}):
        digest.update(_relative(path, listing.root).encode() + checked[path].sha256)
    info = DatasetInfo(
        name=listing.name,
        task=listing.task,
        labels=labels,
        licence="unknown",
        recipe=listing.recipe(config),
        audio_root=str(listing.root),
        sources=[
            {
                "n_files": len({row.path for row in usable}),
                "sha256": digest.hexdigest(),
                "left_out": [{"file": each.file, "reason": each.reason} for each in left_out],
            }
        ],
    )
    return info, clips


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _filled(listing: Listing) -> Listing:
    """Returns the listing with train for the rows that name no split, if others do."""
    n_unsaid = sum(row.split is None for row in listing.rows)
    if n_unsaid in (0, len(listing.rows)):
        return listing
    say(f"{listing.place}: {n_unsaid} of {len(listing.rows)} name no split: taken for train")
    return replace(listing, rows=[replace(row, split=row.split or "train") for row in listing.rows])


def _usable(listing: Listing, checked: dict[Path, Checked | TkdError], left_out: list[LeftOut]) -> list[Row]:
    """Returns the rows whose clips can be made; adds to `left_out` what the others lack, a recording's fault once."""
    usable, named, by_content, by_part, splits, ids = [], set(), {}, {}, {}, {}
    for row in listing.rows:
        found = checked[row.path]
        if isinstance(found, Checked):
            first = by_content.setdefault(found.sha256, row.path)
            if first != row.path:
                found = TkdError(f"{row.path}: the same recording as {_relative(first, listing.root)}. Remove one.")
        if isinstance(found, TkdError):
            if row.path not in named:
                left_out.append(LeftOut(_relative(row.path, listing.root), _placed(row, str(found))))
            named.add(row.path)
            continue
        fault = _part_fault(row, found)
        if not fault and (first := by_part.setdefault((row.path, *_part(row, found)), row)) is not row:
            fault = f"the same recording, or part of one, as {first.place}. Remove one."
        if not fault and (first := splits.setdefault(row.path, row)).split != row.split:
            fault = (
                f"{row.path} is in {row.split} here, in {first.split} at {first.place}. Keep a recording in one split."
            )
        clip_id = _clip_id(row, found, listing.root)
        if not fault and (first := ids.setdefault(clip_id, row)) is not row:
            fault = f"the clip_id {clip_id} is that of {first.place or first.path}, too. Give it another."
        if fault:
            left_out.append(LeftOut(_relative(row.path, listing.root), _placed(row, fault)))
        else:
            usable.append(row)
    return usable


def _placed(row: Row, fault: str) -> str:
    return f"{row.place}: {fault}" if row.place else fault


def _part_fault(row: Row, found: Checked) -> str | None:
    seconds = found.recording.n_frames / found.recording.sample_rate
    if row.end is not None and row.end > seconds + _ROUNDED_SECONDS:
        return f"ends at {row.end:g} s, {row.path} is {seconds:.3f} s long. Mend or remove the line."
    if row.event is not None and row.event[1] > seconds + _ROUNDED_SECONDS:
        return f"the event ends at {row.event[1]:g} s, {row.path} is {seconds:.3f} s long. Mend or remove the line."
    start, stop = _part(row, found)
    error = too_short(row.path, n_resampled(max(0, stop - start), found.recording.sample_rate))
    return str(error) if error else None


def _part(row: Row, found: Checked) -> tuple[int, int]:
    """Returns the first sample of the clip's part of the recording, and the one after it, at its own rate."""
    rate, n_frames = found.recording.sample_rate, found.recording.n_frames
    return round(row.start * rate), n_frames if row.end is None else min(round(row.end * rate), n_frames)


def _clip_id(row: Row, found: Checked, root: Path) -> str:
    (start, stop), file = _part(row, found), _relative(row.path, root)
    whole = (start, stop) == (0, found.recording.n_frames)
    return row.clip_id or (file if whole else f"{file}#{start}-{stop}")


def _clip(row: Row, split: str, found: Checked, root: Path, index: dict[str, int], config: RecordingsConfig) -> Clip:
    rate, file = found.recording.sample_rate, _relative(row.path, root)
    start, stop = _part(row, found)
    whole = (start, stop) == (0, found.recording.n_frames)
    n_recorded = n_resampled(stop - start, rate)
    n_samples = n_recorded if config.length_seconds is None else round(config.length_seconds * SAMPLE_RATE)
    offset = min(0, (n_samples - n_recorded) // 2)
    event = (-1, -1)
    if row.event is not None:
        moved = [round((seconds - start / rate) * SAMPLE_RATE) + offset for seconds in row.event]
        last = min(n_samples, offset + n_recorded)
        heard = tuple(min(max(sample, 0), last) for sample in moved)
        event = heard if heard[0] < heard[1] else event
    return Clip(
        clip_id=_clip_id(row, found, root),
        split=split,
        labels=tuple(sorted(index[label] for label in row.labels)),
        n_samples=n_samples,
        speech_file=file,
        speech_offset=offset,
        speech_gain=1.0 if found.recording.peak <= _OVERSHOOT else float(np.float32(1 / found.recording.peak)),
        speaker=row.speaker,
        event_start=event[0],
        event_stop=event[1],
        speech_start=0 if whole else start,
        speech_stop=None if whole else stop,
    )


def speaker_of(path: Path) -> str | None:
    """Returns SPEAKER of a file named `SPEAKER_nohash_N.wav`, as in Speech Commands; None of another."""
    name, marked, _ = path.name.partition("_nohash_")
    return name if marked and name else None
