"""`folder`: your own recordings, one folder per label.

    recordings/
        lamp/     a.wav b.flac ...
        lights/   ...

Any format libsndfile reads, any rate, any number of channels. Recordings named as in Speech Commands
(`SPEAKER_nohash_0.wav`) are split by speaker, others by file within their label: 80 / 10 / 10 %.
"""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import soundfile

from pipeline.data.audio import read_audio
from pipeline.data.manifest import SAMPLE_RATE, SPLITS, Clip, DatasetInfo
from pipeline.errors import TkdError
from pipeline.progress import say, track

SHORTEST = 640  # samples: one frame of features
_HELDOUT = 0.1  # of the recordings, each for validation and test


@dataclass(frozen=True)
class FolderConfig:
    """`length_seconds`: every clip is cut (its middle kept) or padded to it; None: as long as its recording."""

    root: str
    length_seconds: float | None = None
    seed: int = 0
    strict: bool = False

    def recipe(self) -> dict:
        """Returns what `dataset.json` says of how the clips were made."""
        root = str(Path(self.root).resolve())
        return {"kind": "folder", "root": root, "length_seconds": self.length_seconds, "seed": self.seed}


def read_folder(config: FolderConfig) -> tuple[DatasetInfo, list[Clip]]:
    """Returns the dataset in the folder `config.root`; the recordings stay where they are.

    Every recording is read once. Those that cannot be used are reported, one line each, and left out; or, if
    `config.strict`, end the work.

    Raises:
        TkdError: no such folder, no recordings in it, too few to split, or (strict) one that cannot be used.
    """
    root = Path(config.root).resolve()
    if not root.is_dir():
        raise TkdError(f"{config.root}: no such folder. Give --root a folder with one folder of recordings per label.")
    extensions = {f".{name.lower()}" for name in soundfile.available_formats()} | {".aif", ".oga", ".opus"}
    files = [path for path in sorted(root.glob("*/*")) if path.suffix.lower() in extensions]
    if not files:
        raise TkdError(f"{config.root}: no recordings found. Expected LABEL/FILE, as in lamp/a.wav and lights/b.flac.")

    usable, left_out, digest = {}, [], hashlib.sha256()
    for path in track(files, "reading recordings", len(files), "files"):
        try:
            usable[path] = _n_samples(path)
            digest.update(path.relative_to(root).as_posix().encode() + hashlib.sha256(path.read_bytes()).digest())
        except TkdError as error:
            left_out.append({"file": str(path.relative_to(root)), "reason": str(error)})
            say(f"left out: {error}")
    if left_out and config.strict:
        raise TkdError(f"{config.root}: {len(left_out)} of {len(files)} recordings cannot be used (listed above).")

    labels = tuple(sorted({path.parent.name for path in usable}))
    if len(labels) < 2:
        raise TkdError(f"{config.root}: usable recordings of {len(labels)} labels; a classifier needs two or more.")
    clips = [
        _clip(path, root, n_samples, labels, split, config)
        for path, (split, n_samples) in _split(usable, root, config.seed).items()
    ]
    info = DatasetInfo(
        name=root.name,
        task="single_label",
        labels=labels,
        licence="unknown",
        recipe=config.recipe(),
        sources=[{"root": str(root), "n_files": len(usable), "sha256": digest.hexdigest(), "left_out": left_out}],
    )
    return info, clips


def _n_samples(path: Path) -> int:
    waveform = read_audio(path)
    if len(waveform) < SHORTEST:
        raise TkdError(
            f"{path}: {len(waveform)} samples at {SAMPLE_RATE} Hz, one frame takes {SHORTEST}. Replace or remove it."
        )
    if not waveform.any():
        raise TkdError(f"{path}: all samples are zero. Replace or remove it.")
    return len(waveform)


def _split(usable: dict[Path, int], root: Path, seed: int) -> dict[Path, tuple[str, int]]:
    """Deals speakers, or the files of each label, to the splits, in the order of a hash of their names."""
    by_speaker = all("_nohash_" in path.name for path in usable)
    strata: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in usable:
        if by_speaker:
            strata["speakers"][path.name.split("_nohash_")[0]].append(path)
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
            dealt |= {path: (split, usable[path]) for path in groups[name]}
    return dealt


def _clip(path: Path, root: Path, n_recorded: int, labels: tuple[str, ...], split: str, config: FolderConfig) -> Clip:
    n_samples = n_recorded if config.length_seconds is None else round(config.length_seconds * SAMPLE_RATE)
    return Clip(
        clip_id=path.relative_to(root).as_posix(),
        split=split,
        labels=(labels.index(path.parent.name),),
        n_samples=n_samples,
        speech_file=str(path),
        speech_offset=min(0, (n_samples - n_recorded) // 2),
        speaker=path.name.split("_nohash_")[0] if "_nohash_" in path.name else None,
    )
