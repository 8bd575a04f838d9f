"""The manifest: one row is one clip, and a clip is a pure function of its row.

A prepared dataset is a folder with `manifest.parquet` (the rows), `dataset.json` (what they are rows of) and, where
the data is made rather than recorded elsewhere, the recordings. `dataset.json` is written last: a folder without it
is unfinished.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.clip import SAMPLE_RATE, SPLITS, Clip
from pipeline.errors import TkdError

_SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.int32()), nullable=False),
        pa.field("speaker", pa.string()),
        pa.field("speech_file", pa.string()),
        pa.field("speech_offset", pa.int64(), nullable=False),
        pa.field("speech_gain", pa.float32(), nullable=False),
        pa.field("noise_file", pa.string()),
        pa.field("noise_offset", pa.int64(), nullable=False),
        pa.field("noise_gain", pa.float32(), nullable=False),
        pa.field("snr_db", pa.float32()),
        pa.field("n_samples", pa.int64(), nullable=False),
        pa.field("event_start", pa.int64(), nullable=False),
        pa.field("event_stop", pa.int64(), nullable=False),
        pa.field("speech_start", pa.int64(), nullable=False),
        pa.field("speech_stop", pa.int64()),
        pa.field("speed_percent", pa.int32(), nullable=False),
        pa.field("view", pa.uint8(), nullable=False),
        pa.field("noise_start", pa.int64(), nullable=False),
        pa.field("noise_stop", pa.int64()),
    ]
)


@dataclass(frozen=True)
class DatasetInfo:
    """What a manifest is a manifest of; the content of `dataset.json`."""

    name: str
    task: str  # single_label or multi_label
    labels: tuple[str, ...]
    licence: str
    recipe: dict = field(default_factory=dict)  # every setting the rows were drawn with
    sources: list[dict] = field(default_factory=list)  # where the recordings come from, with checksums
    sample_rate: int = SAMPLE_RATE
    audio_root: str = "."  # where the recordings are: relative to the dataset folder, or absolute


@dataclass(frozen=True)
class Manifest:
    """A prepared dataset: its folder, its description and its clips, in split order."""

    root: Path
    info: DatasetInfo
    clips: tuple[Clip, ...]

    @property
    def audio_root(self) -> Path:
        """The folder that the clips' files are relative to."""
        return self.root / self.info.audio_root

    def split(self, name: str) -> list[Clip]:
        """Returns the clips of one split."""
        return [clip for clip in self.clips if clip.split == name]

    def sha256(self) -> str:
        """Returns the digest of rows and labels: equal when two datasets ask for the same clips, wherever they lie."""
        digest = hashlib.sha256(json.dumps(self.info.labels).encode())
        for clip in self.clips:
            digest.update(json.dumps(dataclasses.astuple(clip)).encode())
        return digest.hexdigest()


def in_order(clips: Iterable[Clip]) -> list[Clip]:
    """Returns the clips as a manifest has them: by split, and within it by the digests of their ids.

    So any stretch of them is a fair sample of its split: a cache larger than memory is read in stretches, and ids often
    begin with a label.
    """
    return sorted(clips, key=lambda clip: (SPLITS.index(clip.split), hashlib.sha256(clip.clip_id.encode()).digest()))


def write_manifest(root: Path, info: DatasetInfo, clips: list[Clip]) -> None:
    """Writes `manifest.parquet`, then `dataset.json`, into the folder `root`, each under another name until whole.

    Raises:
        TkdError: rows that contradict each other or `info`; all of them are counted, the first named.
    """
    _check(root, info, clips)
    rows = [{**dataclasses.asdict(clip), "labels": list(clip.labels)} for clip in in_order(clips)]
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), root / "manifest.parquet.partial")
    os.replace(root / "manifest.parquet.partial", root / "manifest.parquet")
    text = json.dumps(dataclasses.asdict(info), indent=2, ensure_ascii=False)
    (root / "dataset.json.partial").write_bytes(f"{text}\n".encode(errors="backslashreplace"))  # file names in bytes
    os.replace(root / "dataset.json.partial", root / "dataset.json")


def read_manifest(root: Path | str) -> Manifest:
    """Returns the dataset prepared in the folder `root`.

    Raises:
        TkdError: no such folder, not (or not completely) prepared, or damaged.
    """
    root = Path(root)
    if not root.is_dir():
        raise TkdError(f"{root}: no such dataset folder. Make one with tkd data prepare NAME --out {root}.")
    if not (root / "dataset.json").is_file() or not (root / "manifest.parquet").is_file():
        raise TkdError(
            f"{root}: no prepared dataset (dataset.json and manifest.parquet are expected). "
            f"Make one with tkd data prepare NAME --out {root}."
        )
    try:
        described = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
        described["labels"] = tuple(described["labels"])
        info = DatasetInfo(**described)
        stored = pq.read_schema(root / "manifest.parquet").names  # an earlier version's lack what clips then had not
        known = pa.schema([column for column in _SCHEMA if column.name in stored])
        rows = pq.read_table(root / "manifest.parquet", schema=known).to_pylist()
        clips = tuple(Clip(**{**row, "labels": tuple(row["labels"])}) for row in rows)
    except (ValueError, TypeError, KeyError, OSError, pa.ArrowException) as error:
        raise TkdError(f"{root}: damaged dataset description ({error}). Prepare it again with --force.") from error
    _check(root, info, clips)
    return Manifest(root, info, clips)


def _check(root: Path, info: DatasetInfo, clips: Iterable[Clip]) -> None:
    faults, seen = [], set()
    for clip in clips:
        if clip.clip_id in seen:
            faults.append(f"clip_id {clip.clip_id} stands for two clips")
        if clip.split not in SPLITS:
            faults.append(f"{clip.clip_id} is in the split {clip.split!r}, not one of {', '.join(SPLITS)}")
        if not all(0 <= label < len(info.labels) for label in clip.labels):
            faults.append(f"{clip.clip_id} has labels {list(clip.labels)}, there are {len(info.labels)}")
        if info.task == "single_label" and len(clip.labels) != 1:
            faults.append(f"{clip.clip_id} has {len(clip.labels)} labels, a single_label clip has one")
        if clip.n_samples < 1:
            faults.append(f"{clip.clip_id} has {clip.n_samples} samples")
        if clip.speech_stop is not None and not 0 <= clip.speech_start < clip.speech_stop:
            faults.append(f"{clip.clip_id} is samples {clip.speech_start} to {clip.speech_stop} of its recording")
        if clip.noise_stop is not None and not 0 <= clip.noise_start < clip.noise_stop:
            faults.append(f"{clip.clip_id} has noise of samples {clip.noise_start} to {clip.noise_stop}")
        seen.add(clip.clip_id)
    if not seen:
        faults.append("no clips")
    if faults:
        more = f" ({len(faults)} faults, this is the first)" if len(faults) > 1 else ""
        raise TkdError(f"{root}: {faults[0]}{more}. Prepare the dataset again with --force.")
