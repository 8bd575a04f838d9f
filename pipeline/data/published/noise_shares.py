"""Noise recordings shared out to the splits: whole where there are many, in stretches where there are few."""

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.audio import noise_crop
from pipeline.data.clip import SAMPLE_RATE, SPLITS
from pipeline.data.mixing import NoiseRegion, is_silent
from pipeline.data.recordings import (
    Checked,
    LeftOut,
    check_recordings,
    files_below,
    hidden,
    report,
    unreadable_name,
)
from pipeline.errors import TkdError

MANY = 15  # recordings: each is one split's alone; fewer are each cut in three
HELDOUT = 0.2  # of the recordings, or of every recording, each for validation and test
SHORTEST_STRETCH = SAMPLE_RATE  # samples: what is left of a shorter one, repeated, is a buzz
_SUFFIXES = (".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".w64", ".wav")


@dataclass(frozen=True)
class NoiseShares:
    """Which stretches of which recordings are noise for which split; no sample is in two."""

    regions: dict[str, list[NoiseRegion]]
    source: dict  # what `dataset.json` says of the recordings


def noise_files(folder: Path) -> list[Path]:
    """Returns the recordings in the folder and those below it, sorted.

    Raises:
        TkdError: no such folder, or no recordings in it.
    """
    if not folder.is_dir():
        raise TkdError(f"{folder}: no such folder. Give --noise a folder of recordings of noise.")
    paths = (path for path in files_below(folder) if path.suffix.lower() in _SUFFIXES and not hidden(path, folder))
    if not (found := sorted(paths)):
        raise TkdError(f"{folder}: no recordings of noise in it ({', '.join(_SUFFIXES)}). Give another --noise.")
    return found


def share_noise(folder: Path, prefix: str, seed: int, strict: bool) -> NoiseShares:
    """Returns the noise of each split, from the recordings in `folder`.

    MANY recordings or more are dealt, HELDOUT of them to validation and to test each, by a hash of name and seed. Of
    fewer, which would leave kinds of noise out of a split, every one is cut: its first part is for training, then one
    for validation, the last for test.

    Args:
        folder: Where the recordings are; those that cannot be used, or are there twice, are reported and left out.
        prefix: What leads to them from the dataset's audio_root, as in "noise/".
        seed: Another one deals anew.
        strict: Stop if a recording cannot be used.

    Raises:
        TkdError: no such folder, no recordings that can be used, or (strict) one that cannot.
    """
    names = {path.relative_to(folder).as_posix(): path for path in noise_files(folder)}
    checked = check_recordings(names.values())
    usable: dict[str, Checked] = {}
    left_out, by_content = [], {}
    for name, path in names.items():
        found = checked[path]
        if unreadable_name(path):
            found = TkdError(f"{path}: its name is not UTF-8. Rename or remove it.")
        if isinstance(found, Checked) and (first := by_content.setdefault(found.sha256, name)) != name:
            found = TkdError(f"{path}: the same recording as {first}. Remove one.")
        if isinstance(found, TkdError):
            left_out.append(LeftOut(name, str(found)))
        else:
            usable[name] = found
    cut = len(usable) < MANY
    for name, found in list(usable.items()):
        n_samples = int(HELDOUT * found.recording.n_samples) if cut else found.recording.n_samples
        if n_samples < SHORTEST_STRETCH:
            shared = ", shared by three splits (a fifth each for validation and test)" if cut else ""
            left_out.append(
                LeftOut(
                    name,
                    f"{names[name]}: {found.recording.n_samples / SAMPLE_RATE:.2f} s{shared}; every split needs "
                    f"{SHORTEST_STRETCH / SAMPLE_RATE:g} s of it. Give longer recordings, or {MANY} and more.",
                )
            )
            del usable[name]
        elif silent := [] if not cut else _silent(names[name], found.recording.n_samples):
            left_out.append(
                LeftOut(name, f"{names[name]}: nothing is heard in its stretch for {silent[0]}. Cut or remove it.")
            )
            del usable[name]
    report(left_out, len(names), "recordings of noise", folder, strict)
    if not usable or (not cut and len(usable) < len(SPLITS)):
        raise TkdError(f"{folder}: {len(usable)} recordings of noise that can be used. Add some.")
    regions = _cut(usable, prefix) if cut else _dealt(usable, prefix, seed)
    digest = hashlib.sha256()
    for name, found in usable.items():
        digest.update(name.encode() + b"\0" + found.sha256)
    return NoiseShares(
        regions,
        {
            "noise": folder.name,
            "shared": "in stretches" if cut else "by recording",
            "n_files": len(usable),
            "sha256": digest.hexdigest(),
            "left_out": [{"file": each.file, "reason": each.reason} for each in left_out],
        },
    )


def _cut(usable: dict[str, Checked], prefix: str) -> dict[str, list[NoiseRegion]]:
    regions: dict[str, list[NoiseRegion]] = {split: [] for split in SPLITS}
    for name, found in usable.items():
        for split, (start, stop) in _stretches(found.recording.n_samples).items():
            regions[split].append(NoiseRegion(prefix + name, start, stop))
    return regions


def _stretches(n_samples: int) -> dict[str, tuple[int, int]]:
    n_heldout = int(HELDOUT * n_samples)
    borders = (0, n_samples - 2 * n_heldout, n_samples - n_heldout, n_samples)
    return dict(zip(SPLITS, itertools.pairwise(borders), strict=True))


def _silent(path: Path, n_samples: int) -> list[str]:
    """Returns the splits whose stretch of a recording holds nothing that can be made louder."""
    stretches = _stretches(n_samples).items()
    return [split for split, (start, stop) in stretches if is_silent(noise_crop(path, start, stop - start))]


def _dealt(usable: dict[str, Checked], prefix: str, seed: int) -> dict[str, list[NoiseRegion]]:
    ranked = sorted(usable, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    n_heldout = max(1, int(HELDOUT * len(ranked)))
    shares = ranked[2 * n_heldout :], ranked[:n_heldout], ranked[n_heldout : 2 * n_heldout]
    return {
        split: [NoiseRegion(prefix + name, 0, usable[name].recording.n_samples) for name in sorted(share)]
        for split, share in zip(SPLITS, shares, strict=True)
    }
