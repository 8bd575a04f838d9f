"""`folder`: your own recordings, one folder per label.

    recordings/
        lamp/     a.wav b.flac ...
        lights/   ...

Any format libsndfile reads, any rate, any number of channels. 80 / 10 / 10 % for training, validation and test: of the
speakers, where recordings are named as in Speech Commands (`SPEAKER_nohash_0.wav`), of each label's recordings where
they are not.
"""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.audio import read_audio
from pipeline.data.manifest import SAMPLE_RATE, SPLITS, Clip, DatasetInfo
from pipeline.errors import TkdError
from pipeline.progress import say, track

SHORTEST = 640  # samples: one frame of features
LONGEST = 600  # seconds a clip
_LOUDEST = 2  # full scale is 1; decoders overshoot it a little, integers stored as floats far
_HELDOUT = 0.1  # of the recordings, each for validation and test


@dataclass(frozen=True)
class FolderConfig:
    """`length_seconds`: every clip is cut (its middle kept) or padded to it; None: as long as its recording."""

    root: str
    length_seconds: float | None = None
    seed: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        shortest = SHORTEST / SAMPLE_RATE
        if self.length_seconds is not None and not shortest <= self.length_seconds <= LONGEST:  # not: NaN is outside
            raise TkdError(f"length {self.length_seconds} s: use {shortest} (one frame) to {LONGEST} s.")

    def recipe(self) -> dict:
        """Returns what `dataset.json` says of how the clips were made; other recordings in `root` make it another.

        Raises:
            TkdError: no such folder, or no recordings in it.
        """
        listing = [f"{path.relative_to(_root(self))} {path.stat().st_size}" for path in _files(self) if path.is_file()]
        return {
            "kind": "folder",
            "folder": _root(self).name,
            "names_and_sizes_sha256": hashlib.sha256("\n".join(listing).encode(errors="surrogateescape")).hexdigest(),
            "length_seconds": self.length_seconds,
            "seed": self.seed,
        }


def read_folder(config: FolderConfig) -> tuple[DatasetInfo, list[Clip]]:
    """Returns the dataset in the folder `config.root`; the recordings stay where they are.

    Every recording is read once. Those that cannot be used are reported, one line each, and left out; or, if
    `config.strict`, end the work.

    Raises:
        TkdError: no such folder, no recordings in it, too few to split, or (strict) one that cannot be used.
    """
    root, files = _root(config), _files(config)
    usable: dict[Path, int] = {}
    by_content: dict[bytes, Path] = {}
    left_out, digest = [], hashlib.sha256()
    for path in track(files, "reading recordings", len(files), "files"):
        try:
            n_samples = _n_samples(path)
            content = hashlib.sha256(path.read_bytes()).digest()
            if content in by_content:
                raise TkdError(f"{path}: the same recording as {by_content[content].relative_to(root)}. Remove one.")
        except TkdError as error:
            left_out.append({"file": str(path.relative_to(root)), "reason": str(error)})
            say(f"left out: {error}")
        else:
            usable[path], by_content[content] = n_samples, path
            digest.update(path.relative_to(root).as_posix().encode() + content)
    if left_out and config.strict:
        raise TkdError(f"{config.root}: {len(left_out)} of {len(files)} recordings cannot be used (listed above).")

    labels = tuple(sorted({path.parent.name for path in usable}))
    if len(labels) < 2:
        raise TkdError(f"{config.root}: usable recordings of {len(labels)} labels; a classifier needs two or more.")
    splits = _split(list(usable), root, config.seed)
    for label in labels:
        if not any(path.parent.name == label and split == "train" for path, split in splits.items()):
            raise TkdError(
                f"{config.root}: no recording of {label} is left to train on; a speaker's recordings stay together. "
                "Add speakers, or give another --seed."
            )
    info = DatasetInfo(
        name=root.name,
        task="single_label",
        labels=labels,
        licence="unknown",
        recipe=config.recipe(),
        audio_root=str(root),
        sources=[{"n_files": len(usable), "sha256": digest.hexdigest(), "left_out": left_out}],
    )
    return info, [_clip(path, root, usable[path], labels, split, config) for path, split in splits.items()]


def _root(config: FolderConfig) -> Path:
    return Path(config.root).resolve()


def _files(config: FolderConfig) -> list[Path]:
    """Returns everything in the folders of the labels that is not hidden, audio or not."""
    root = _root(config)
    if not root.is_dir():
        raise TkdError(f"{config.root}: no such folder. Give --root a folder with one folder of recordings per label.")
    files = sorted(root.glob("[!.]*/[!.]*"))
    if not any(path.is_file() for path in files):
        raise TkdError(f"{config.root}: no recordings found. Expected LABEL/FILE, as in lamp/a.wav and lights/b.flac.")
    return files


def _n_samples(path: Path) -> int:
    """Returns the length of a recording at SAMPLE_RATE, or raises TkdError if it cannot be used."""
    if not path.is_file():
        raise TkdError(f"{path}: not a file. Recordings lie directly in the folder of their label.")
    if any("\udc80" <= character <= "\udcff" for character in str(path)):  # how Python carries bytes that are not text
        raise TkdError(f"{path}: its name is not UTF-8. Rename or remove it.")
    waveform = read_audio(path)
    if len(waveform) < SHORTEST:
        raise TkdError(
            f"{path}: {len(waveform)} samples at {SAMPLE_RATE} Hz, one frame takes {SHORTEST}. Replace or remove it."
        )
    peak = np.abs(waveform).max()
    if np.rint(32768 * peak) == 0:
        raise TkdError(f"{path}: all samples are zero. Replace or remove it.")
    if peak > _LOUDEST:
        raise TkdError(f"{path}: samples of up to {peak:.5g}, full scale is 1. Rescale or remove it.")
    return len(waveform)


def _split(recordings: list[Path], root: Path, seed: int) -> dict[Path, str]:
    """Deals speakers, and recordings of no known speaker label by label, in the order of a hash of their names."""
    strata: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in recordings:
        if speaker := _speaker(path):
            strata["speakers"][speaker].append(path)
        else:
            strata[f"recordings of {path.parent.name}"][path.relative_to(root).as_posix()].append(path)
    dealt = {}
    for what, groups in strata.items():
        if len(groups) < len(SPLITS):
            raise TkdError(f"{root}: {len(groups)} {what}; train, validation and test need one each. Add some.")
        ranked = sorted(groups, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
        n_heldout = max(1, round(_HELDOUT * len(ranked)))
        for rank, name in enumerate(ranked):
            split = "validation" if rank < n_heldout else "test" if rank < 2 * n_heldout else "train"
            dealt |= dict.fromkeys(groups[name], split)
    return dealt


def _speaker(path: Path) -> str | None:
    name, marked, _ = path.name.partition("_nohash_")
    return name if marked and name else None


def _clip(path: Path, root: Path, n_recorded: int, labels: tuple[str, ...], split: str, config: FolderConfig) -> Clip:
    n_samples = n_recorded if config.length_seconds is None else round(config.length_seconds * SAMPLE_RATE)
    return Clip(
        clip_id=path.relative_to(root).as_posix(),
        split=split,
        labels=(labels.index(path.parent.name),),
        n_samples=n_samples,
        speech_file=path.relative_to(root).as_posix(),
        speech_offset=min(0, (n_samples - n_recorded) // 2),
        speaker=_speaker(path),
    )
