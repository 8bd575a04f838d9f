"""`fsd50k`: 51,197 Freesound clips of 0.3 to 30 s, 200 classes, several a clip (Fonseca et al. 2022, arXiv 2010.00475).

    FSD50K.dev_audio/      40,966 recordings, ID.wav: the training and the validation split
    FSD50K.eval_audio/     10,231 recordings: the test split
    FSD50K.ground_truth/   dev.csv (fname,labels,mids,split), eval.csv (the same without split), vocabulary.csv
    FSD50K.metadata/       who uploaded a clip, and its licence

Splits, labels and the order of the classes are the data set's own.
"""

import csv
import hashlib
import itertools
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from cache_schema import home
from pipeline.data.audio import n_resampled
from pipeline.data.clip import SAMPLE_RATE, SPLITS, Clip
from pipeline.data.fetch.archive import extract
from pipeline.data.fetch.download import RemoteFile, download
from pipeline.data.manifest import DatasetInfo
from pipeline.data.recordings import SHORTEST, Checked, LeftOut, check_recordings, names_and_sizes, report
from pipeline.errors import TkdError
from pipeline.lock import in_turn
from pipeline.progress import say

PUBLISHED = (36_796, 4_170, 10_231)  # clips in train, validation and test
N_CLASSES = 200
LICENCE = (
    "FSD50K as a whole: CC BY 4.0. Each clip has its own licence, CC0, CC BY, CC BY-NC or CC Sampling+, stated in "
    "FSD50K.metadata/dev_clips_info_FSD50K.json and eval_clips_info_FSD50K.json"
)
_SPLITS = {"train": "train", "val": "validation"}  # as dev.csv calls them


def _remote(name: str, md5: str, n_bytes: int) -> RemoteFile:
    return RemoteFile(f"https://zenodo.org/records/4060432/files/FSD50K.{name}", f"md5:{md5}", n_bytes)


# What is unpacked -> the archives that hold it, of a .zip in parts the last one last. Names, sizes and md5 sums as the
# Zenodo record lists them, here from public code that reads it (soundata's loader among them; all agree).
ARCHIVES = {
    "ground_truth": [_remote("ground_truth.zip", "ca27382c195e37d2269c4c866dd73485", 334_701)],
    "metadata": [_remote("metadata.zip", "b9ea0c829a411c1d42adb9da539ed237", 6_700_838)],
    "eval_audio": [
        _remote("eval_audio.z01", "3090670eaeecc013ca1ff84fe4442aeb", 3_221_225_472),
        _remote("eval_audio.zip", "6fa47636c3a3ad5c7dfeba99f2637982", 3_037_675_767),
    ],
    "dev_audio": [
        _remote("dev_audio.z01", "faa7cf4cc076fc34a44a479a5ed862a3", 3_221_225_472),
        _remote("dev_audio.z02", "8f9b66153e68571164fb1315d00bc7bc", 3_221_225_472),
        _remote("dev_audio.z03", "1196ef47d267a993d30fa98af54b7159", 3_221_225_472),
        _remote("dev_audio.z04", "d088ac4e11ba53daf9f7574c11cccac9", 3_221_225_472),
        _remote("dev_audio.z05", "81356521aa159accd3c35de22da28c7f", 3_221_225_472),
        _remote("dev_audio.zip", "c480d119b8f7a7e32fdb58f3ea4d6c5a", 2_306_663_327),
    ],
}


@dataclass(frozen=True)
class Fsd50kConfig:
    """The recipe. `root`: an existing copy; None: downloaded. Of clips longer than `max_length_seconds` the beginning
    is kept."""

    root: str | None = None
    max_length_seconds: float = 30.0
    strict: bool = False

    def __post_init__(self) -> None:
        shortest = SHORTEST / SAMPLE_RATE
        if not shortest <= self.max_length_seconds <= 30:  # not: NaN is outside
            raise TkdError(f"max length {self.max_length_seconds} s: use {shortest} (one frame) to 30 s.")

    def recipe(self, copy: Path) -> dict:
        """Returns what `dataset.json` says of how the clips were made of the data set in `copy`."""
        files = itertools.chain(copy.glob("FSD50K.ground_truth/*.csv"), copy.glob("FSD50K.*_audio/[!.]*.wav"))
        return {
            "kind": "fsd50k",
            "max_length_seconds": self.max_length_seconds,
            "names_and_sizes_sha256": names_and_sizes(files, copy),
        }


def find_copy(config: Fsd50kConfig, archives: dict[str, list[RemoteFile]] = ARCHIVES) -> Path:
    """Returns the folder of the data set: `config.root`, else downloaded and unpacked below $TKD_HOME, once.

    The archives stay beside what they hold, and may be deleted.

    Raises:
        TkdError: `config.root` holds no copy of it, or it cannot be fetched or unpacked.
    """
    if config.root is not None:
        root = Path(config.root).resolve()
        for copy in (root, root / "FSD50K"):
            if (copy / "FSD50K.ground_truth" / "dev.csv").is_file():
                return copy
        raise TkdError(
            f"{config.root}: no copy of FSD50K (FSD50K.ground_truth/dev.csv is expected, beside FSD50K.dev_audio and "
            "FSD50K.eval_audio). Give --root the folder its archives were unpacked in, or leave it out to download."
        )
    copy = home() / "data" / "FSD50K"
    with in_turn(copy):
        missing = [part for part in archives if not (copy / f"FSD50K.{part}").exists()]
        for remote in [remote for part in missing for remote in archives[part]]:
            download(remote, copy)
        for part in missing:
            name = f"FSD50K.{part}"
            unpacked = extract(copy / archives[part][-1].name, copy / f"{name}.unpacked")
            if not (unpacked / name).is_dir():
                raise TkdError(f"{unpacked}: the archive held no folder {name}. Delete it and its archive.")
            (unpacked / name).rename(copy / name)
            unpacked.rmdir()
    return copy


def read_fsd50k(copy: Path, config: Fsd50kConfig) -> tuple[DatasetInfo, list[Clip]]:
    """Returns the data set in the folder `copy`; the recordings stay where they are.

    Clip ids are as in dev/63 and eval/37199. Recordings that cannot be used are reported and left out, or end the work
    if `config.strict`; copies of each other are kept, as they are part of the official splits.

    Raises:
        TkdError: the ground truth is missing or damaged, or (strict) another number of clips or classes than published,
            a recording in two splits, or one that cannot be used.
    """
    labels = _vocabulary(copy / "FSD50K.ground_truth" / "vocabulary.csv")
    listed = _ground_truth(copy, "dev", labels) + _ground_truth(copy, "eval", labels)
    n_listed = Counter(clip.split for clip in listed)
    found = tuple(n_listed[split] for split in SPLITS)
    _say(_against_published(found, len(labels)), copy, config)

    checked = check_recordings(copy / clip.speech_file for clip in listed)
    clips, left_out, digest = [], [], hashlib.sha256()
    for clip in listed:
        outcome = checked[copy / clip.speech_file]
        if isinstance(outcome, Checked):
            clips.append(_cropped(clip, outcome, config.max_length_seconds))
            digest.update(clip.clip_id.encode() + b"\0" + outcome.sha256)
        else:
            left_out.append(LeftOut(clip.speech_file, str(outcome)))
    report(left_out, len(listed), "recordings", copy, config.strict)
    _say(_shared(clips, {clip.clip_id: checked[copy / clip.speech_file].sha256 for clip in clips}), copy, config)

    fetched = {remote.url: remote.checksum for remotes in ARCHIVES.values() for remote in remotes}
    source = {
        **({"archives": fetched} if config.root is None else {}),
        "clips": dict(zip(SPLITS, found, strict=True)),
        "published": dict(zip(SPLITS, PUBLISHED, strict=True)),
        "n_files": len(clips),
        "sha256": digest.hexdigest(),
        "left_out": [{"file": each.file, "reason": each.reason} for each in left_out],
    }
    recipe = config.recipe(copy)
    return DatasetInfo("fsd50k", "multi_label", labels, LICENCE, recipe, [source], audio_root=str(copy)), clips


def _vocabulary(path: Path) -> tuple[str, ...]:
    rows = _rows(path, ("index", "label", "mid"), header=False)
    for number, row in enumerate(rows):
        if row["index"] != str(number):
            raise TkdError(f"{path}:{number + 1}: index {row['index']}, expected {number}. Unpack it again.")
    return tuple(row["label"] for row in rows)


def _ground_truth(copy: Path, part: str, labels: tuple[str, ...]) -> list[Clip]:
    """Returns the clips of dev.csv or eval.csv, their lengths not yet known."""
    path = copy / "FSD50K.ground_truth" / f"{part}.csv"
    index = {label: number for number, label in enumerate(labels)}
    uploaders = _uploaders(copy / "FSD50K.metadata" / f"{part}_clips_info_FSD50K.json")
    columns = ("fname", "labels", "mids", "split") if part == "dev" else ("fname", "labels", "mids")
    clips = []
    for line, row in enumerate(_rows(path, columns), 2):
        names = row["labels"].split(",")
        if unknown := [name for name in names if name not in index]:
            raise TkdError(f"{path}:{line}: {unknown[0]!r} is not in vocabulary.csv. Unpack both again.")
        split = _SPLITS.get(row["split"]) if part == "dev" else "test"
        if split is None or not row["fname"].isalnum():
            raise TkdError(f"{path}:{line}: fname {row['fname']!r}, split {row.get('split')!r}. Unpack it again.")
        clip = Clip(
            clip_id=f"{part}/{row['fname']}",
            split=split,
            labels=tuple(sorted({index[name] for name in names})),
            n_samples=0,
            speech_file=f"FSD50K.{part}_audio/{row['fname']}.wav",
            speaker=uploaders.get(row["fname"], {}).get("uploader"),
        )
        clips.append(clip)
    return clips


def _rows(path: Path, columns: tuple[str, ...], header: bool = True) -> list[dict[str, str]]:
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines(), strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise TkdError(f"{path}: cannot be read ({error}). Unpack FSD50K.ground_truth.zip again.") from error
    if header and (not rows or tuple(rows[0]) != columns):
        raise TkdError(f"{path}:1: columns {', '.join(rows[0] if rows else ())}, expected {', '.join(columns)}.")
    for line, row in enumerate(rows, 1):
        if len(row) != len(columns):
            raise TkdError(f"{path}:{line}: {len(row)} values, expected {len(columns)}. Unpack it again.")
    return [dict(zip(columns, row, strict=True)) for row in rows[int(header) :]]


def _uploaders(path: Path) -> dict[str, dict]:
    """Returns what is known of each clip, by its fname; nothing where the metadata are not there."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TkdError(f"{path}: damaged ({error}). Unpack FSD50K.metadata.zip again, or remove it.") from error


def _cropped(clip: Clip, found: Checked, max_length_seconds: float) -> Clip:
    recording = found.recording
    n_frames = min(recording.n_frames, int(max_length_seconds * recording.sample_rate))
    stop = None if n_frames == recording.n_frames else n_frames
    return replace(clip, n_samples=n_resampled(n_frames, recording.sample_rate), speech_stop=stop)


def _against_published(found: tuple[int, ...], n_classes: int) -> list[str]:
    if (found, n_classes) == (PUBLISHED, N_CLASSES):
        return []
    counts = [
        f"{' / '.join(f'{n:,}' for n in numbers)} clips in train, validation and test of {classes} classes"
        for numbers, classes in ((found, n_classes), (PUBLISHED, N_CLASSES))
    ]
    return [f"{counts[0]}, published are {counts[1]}. Results cannot be compared with published ones"]


def _say(faults: list[str], copy: Path, config: Fsd50kConfig) -> None:
    for fault in faults:
        if config.strict:
            raise TkdError(f"{copy}: {fault}.")
        say(f"WARNING: {copy}: {fault}.")


def _shared(clips: list[Clip], digests: dict[str, bytes]) -> list[str]:
    """Returns a fault for every two splits that share recordings, by Freesound's id or by content."""
    faults = []
    ids = {split: {clip.clip_id.partition("/")[2] for clip in clips if clip.split == split} for split in SPLITS}
    contents = {split: {digests[clip.clip_id] for clip in clips if clip.split == split} for split in SPLITS}
    for first, second in itertools.combinations(SPLITS, 2):
        if n_shared := max(len(ids[first] & ids[second]), len(contents[first] & contents[second])):
            faults.append(f"{n_shared} recordings are in {first} and in {second}")
    return faults
