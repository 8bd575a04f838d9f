"""Recordings where they lie: each read once, and what cannot be used named with its place and the reason."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.audio import Recording, survey
from pipeline.data.clip import SAMPLE_RATE
from pipeline.errors import TkdError
from pipeline.progress import say, track

SHORTEST = 640  # samples: one frame of features
_LOUDEST = 2  # full scale is 1; decoders overshoot it a little, integers stored as floats far


@dataclass(frozen=True)
class LeftOut:
    """Something that was listed and cannot be used."""

    file: str  # as it was listed: a recording, or a line of a table
    reason: str  # begins with the place


@dataclass(frozen=True)
class Checked:
    """A recording that can be used."""

    recording: Recording
    sha256: bytes  # of the file


def files_below(folder: Path) -> list[Path]:
    """Returns the files in a folder and those below it, sorted; links to folders are followed, unless they lead up."""
    found = []
    for where, folders, files in os.walk(folder, followlinks=True):
        if os.path.islink(where) and os.path.realpath(where) in map(os.path.realpath, Path(where).parents):
            folders.clear()
        else:
            found += [Path(where, name) for name in files]
    return sorted(found)


def hidden(path: Path, folder: Path) -> bool:
    """Returns whether a file, or a folder on the way to it from `folder`, has a name that begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def unreadable_name(path: Path | str) -> bool:
    """Returns whether the path holds bytes that are not UTF-8."""
    return any("\udc80" <= character <= "\udcff" for character in os.fspath(path))  # how Python carries them


def check_recordings(paths: Iterable[Path]) -> dict[Path, Checked | TkdError]:
    """Returns for each of `paths` what it is, or why it cannot be used; several are read at a time, by threads.

    Cannot be used: what `read_audio` refuses, silence, integers stored as floats, less than a frame.
    """
    paths = list(dict.fromkeys(paths))
    pool = ThreadPoolExecutor(os.cpu_count() or 1)  # decoding and hashing leave the interpreter to the others
    try:
        results = track(pool.map(_check, paths), "reading recordings", len(paths), "files")
        return dict(zip(paths, results, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)


def too_short(path: Path, n_samples: int) -> TkdError | None:
    """Returns the error of a clip of fewer than SHORTEST samples, None for a longer one."""
    if n_samples >= SHORTEST:
        return None
    return TkdError(
        f"{path}: {n_samples} samples at {SAMPLE_RATE} Hz, one frame takes {SHORTEST}. Replace or remove it."
    )


def report(left_out: list[LeftOut], n_listed: int, what: str, place: object, strict: bool) -> None:
    """Says what is left out, one line each.

    Args:
        left_out: What cannot be used.
        n_listed: How many there were with the usable ones.
        what: What they are, as in "recordings".
        place: The folder or table that lists them.
        strict: Whether to stop if there is any.

    Raises:
        TkdError: `strict`, and there is one.
    """
    for each in left_out:
        say(f"left out: {each.reason}")
    if left_out and strict:
        raise TkdError(f"{place}: {len(left_out)} of {n_listed} {what} cannot be used (listed above).")


def names_and_sizes(paths: Iterable[Path], root: Path) -> str:
    """Returns a digest of the files' names, relative to `root`, and sizes: other recordings have another."""
    listing = sorted(f"{path.relative_to(root).as_posix()} {path.stat().st_size}" for path in paths)
    return hashlib.sha256("\n".join(listing).encode(errors="surrogateescape")).hexdigest()


def _check(path: Path) -> Checked | TkdError:
    if not path.is_file():
        return TkdError(f"{path}: no such file. Put it there, or take it off the list.")
    try:
        recording = survey(path)
        if error := too_short(path, recording.n_samples):
            return error
        if np.rint(32768 * recording.peak) == 0:
            return TkdError(f"{path}: all samples are zero. Replace or remove it.")
        if recording.peak > _LOUDEST:
            return TkdError(f"{path}: samples of up to {recording.peak:.5g}, full scale is 1. Rescale or remove it.")
        return Checked(recording, _sha256(path))
    except TkdError as error:
        return error
    except OSError as error:
        return TkdError(f"{path}: cannot be read ({error.strerror}). Replace or remove it.")


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
