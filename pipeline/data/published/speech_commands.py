"""`speech_commands`: single words of 1 s (Warden 2018, arXiv 1804.03209), versions 1 and 2, 12 or all labels.

With 12 labels as in kws_streaming (arXiv 2005.06720): ten words, `_unknown_` from the other words and `_silence_` from
the background noise, each a tenth of the ten words' number, rounded up. The splits are the data set's own lists.
"""

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache_schema import home
from pipeline.data.clip import SAMPLE_RATE, SPLITS, Clip
from pipeline.data.fetch.archive import extract
from pipeline.data.fetch.download import RemoteFile, download
from pipeline.data.manifest import DatasetInfo
from pipeline.data.published.noise_shares import share_noise
from pipeline.data.recordings import Checked, LeftOut, check_recordings, names_and_sizes, report
from pipeline.errors import TkdError
from pipeline.progress import say

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
# The words of `_unknown_`; those of version 1 lack the last five.
OTHER_WORDS = (
    *("bed", "bird", "cat", "dog", "eight", "five", "four", "happy", "house", "marvin", "nine", "one", "seven"),
    *("sheila", "six", "three", "tree", "two", "wow", "zero", "backward", "follow", "forward", "learn", "visual"),
)
BACKGROUND = "_background_noise_"
_N_OTHER = {1: 20, 2: 25}

_FROM = "https://storage.googleapis.com/download.tensorflow.org/data"
# Checksums as in torchaudio.datasets.speechcommands and tensorflow_datasets.
ARCHIVES = {
    1: RemoteFile(
        f"{_FROM}/speech_commands_v0.01.tar.gz",
        "sha256:743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d",
    ),
    2: RemoteFile(
        f"{_FROM}/speech_commands_v0.02.tar.gz",
        "sha256:af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
        2_428_923_189,
    ),
}
# Clips in train, validation and test. Version 2: the lists' lengths, 105,829 in all (arXiv 1804.03209), and
# kws_streaming's numbers (arXiv 2005.06720). Version 1: 64,721, which with the six noises are the 64,727 files of the
# data set's card on the Hugging Face hub; and the lengths of TC-ResNet's lists (github.com/hyperconnect/TC-ResNet,
# issue 9).
PUBLISHED = {
    (1, 12): (22_246, 3_093, 3_081),
    (1, 35): (51_088, 6_798, 6_835),
    (2, 12): (36_923, 4_445, 4_890),
    (2, 35): (84_843, 9_981, 11_005),
}


@dataclass(frozen=True)
class SpeechCommandsConfig:
    """The recipe. `root`: an existing copy; None: downloaded. `labels` 35: all words, which in version 1 are 30."""

    root: str | None = None
    version: int = 2
    labels: int = 12
    seed: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        if (self.version, self.labels) not in PUBLISHED:
            raise TkdError(f"version {self.version} with {self.labels} labels: use version 1 or 2, 12 or 35 labels.")
        if self.seed < 0:
            raise TkdError(f"seed {self.seed} is negative. Use 0 or more.")

    def label_names(self) -> tuple[str, ...]:
        """Returns the labels in the order of their indices."""
        if self.labels == 12:
            return ("_silence_", "_unknown_", *WORDS)
        return tuple(sorted(WORDS + OTHER_WORDS[: _N_OTHER[self.version]]))

    def recipe(self, copy: Path) -> dict:
        """Returns what `dataset.json` says of how the clips were made of the data set in `copy`."""
        settings = {"version": self.version, "labels": self.labels, "seed": self.seed}
        return {"kind": "speech_commands", **settings, "names_and_sizes_sha256": words_names_and_sizes(copy)}


@dataclass(frozen=True)
class Words:
    """The recordings of a task, each a row of 1 s without noise, and how many clips of silence belong to them."""

    clips: list[Clip]
    n_silence: dict[str, int]
    source: dict  # what `dataset.json` says of the recordings


def find_copy(config: SpeechCommandsConfig) -> Path:
    """Returns the folder of the data set: in `config.root`, else downloaded and unpacked below $TKD_HOME, once.

    Raises:
        TkdError: `config.root` holds no copy of it, or it cannot be fetched or unpacked.
    """
    name = f"speech_commands_v0.0{config.version}"
    if config.root is None:
        folder = home() / "data"
        if not (folder / name).exists():
            extract(download(ARCHIVES[config.version], folder), folder / name)
        return folder / name
    root = Path(config.root).resolve()
    for copy in (root, root / name, root / "SpeechCommands" / name):  # the last as torchaudio has it
        if (copy / "validation_list.txt").is_file() and (copy / "testing_list.txt").is_file():
            return copy
    raise TkdError(
        f"{config.root}: no copy of Speech Commands (validation_list.txt and testing_list.txt are expected). Give "
        "--root the folder that its archive was unpacked to, or leave it out to download it."
    )


def read_speech_commands(copy: Path, config: SpeechCommandsConfig) -> tuple[DatasetInfo, list[Clip]]:
    """Returns the data set in the folder `copy`; the recordings stay where they are.

    Every clip lasts 1 s; shorter recordings are padded with zeros at their end, as kws_streaming does. Where in it the
    word is is not known. Silence is a crop of the background noise as it was recorded, from the split's stretch.

    Raises:
        TkdError: the lists are damaged, a split has no words, or (strict) another number of clips than published, a
            speaker in two splits, or a recording that cannot be used.
    """
    words = read_words(copy, config)
    clips, sources = words.clips, [words.source]
    if config.labels == 12:
        noise = share_noise(copy / BACKGROUND, f"{BACKGROUND}/", config.seed, config.strict)
        sources.append(noise.source)
        for clip in silence(words.n_silence, SAMPLE_RATE):
            rng = clip_rng(config.seed, clip)
            region = noise.regions[clip.split][rng.integers(len(noise.regions[clip.split]))]
            offset = int(rng.integers(region.start, region.stop - SAMPLE_RATE + 1))
            stretch = {"noise_file": region.file, "noise_start": region.start, "noise_stop": region.stop}
            clips.append(dataclasses.replace(clip, noise_offset=offset, noise_gain=1.0, **stretch))
    return describe(f"speech_commands_v{config.version}", config, config.recipe(copy), sources, str(copy)), clips


def read_words(copy: Path, config: SpeechCommandsConfig, prefix: str = "") -> Words:
    """Returns the recordings of the task, `prefix` leading to them from audio_root; see `read_speech_commands`."""
    listed = _lists(copy, config)
    wanted = {split: [name for name in listed[split] if _word(name) in WORDS] for split in SPLITS}
    n_silence = {split: tenth(len(wanted[split])) for split in SPLITS}
    chosen = listed
    if config.labels == 12:
        chosen = {split: wanted[split] + _unknown(listed[split], n_silence[split], config.seed) for split in SPLITS}
    for split in SPLITS:
        if not chosen[split]:
            raise TkdError(f"{copy}: no recordings of the words in the split {split}. Is the copy whole?")
    found = tuple(len(chosen[split]) + (n_silence[split] if config.labels == 12 else 0) for split in SPLITS)
    _check_against_published(copy, config, found, chosen)

    checked = check_recordings(copy / name for split in SPLITS for name in chosen[split])
    labels = {name: index for index, name in enumerate(config.label_names())}
    clips, left_out, digest = [], [], hashlib.sha256()
    for split in SPLITS:
        for name in chosen[split]:
            outcome = checked[copy / name]
            if not isinstance(outcome, Checked):
                left_out.append(LeftOut(name, str(outcome)))
                continue
            digest.update(name.encode() + b"\0" + outcome.sha256)
            label = labels.get(_word(name), 1)
            speaker = Path(name).name.partition("_nohash_")[0]
            clips.append(Clip(name, split, (label,), SAMPLE_RATE, speech_file=prefix + name, speaker=speaker))
    report(left_out, len(checked), "recordings", copy, config.strict)
    archive = ARCHIVES[config.version]
    source = {
        "speech_commands": config.version,
        **({"url": archive.url, "archive": archive.checksum} if config.root is None else {}),
        "clips": dict(zip(SPLITS, found, strict=True)),
        "published": dict(zip(SPLITS, PUBLISHED[config.version, config.labels], strict=True)),
        "n_files": len(clips),
        "sha256": digest.hexdigest(),
        "left_out": [{"file": each.file, "reason": each.reason} for each in left_out],
    }
    return Words(clips, n_silence, source)


def tenth(n_wanted: int) -> int:
    """Returns how many clips of silence, and how many of unknown words, go with `n_wanted` of the ten words."""
    return math.ceil(n_wanted / 10)


def silence(n_silence: dict[str, int], n_samples: int) -> list[Clip]:
    """Returns the rows of silence, `n_samples` each, not yet noisy."""
    return [
        Clip(f"_silence_/{split}_{index:04d}", split, (0,), n_samples)
        for split in SPLITS
        for index in range(n_silence[split])
    ]


def clip_rng(seed: int, clip: Clip) -> np.random.Generator:
    """Returns the randomness of one clip: what another clip draws, or whether it is there, changes nothing."""
    return np.random.default_rng([seed, *clip.clip_id.encode()])


def describe(
    name: str, config: SpeechCommandsConfig, recipe: dict, sources: list[dict], audio_root: str
) -> DatasetInfo:
    """Returns the content of `dataset.json`."""
    return DatasetInfo(
        name=name,
        task="single_label",
        labels=config.label_names(),
        licence="CC BY 4.0 (Speech Commands, Pete Warden, Google)",
        recipe=recipe,
        sources=sources,
        audio_root=audio_root,
    )


def words_names_and_sizes(copy: Path) -> str:
    """Returns a digest of the names and sizes of the copy's lists and recordings: another copy has another."""
    return names_and_sizes([*copy.glob("*_list.txt"), *copy.glob("[!.]*/[!.]*.wav")], copy)


def _lists(copy: Path, config: SpeechCommandsConfig) -> dict[str, list[str]]:
    """Returns the recordings of each split that are there, as WORD/FILE, sorted: words of the version alone."""
    from torchaudio.datasets import SPEECHCOMMANDS

    words = {*WORDS, *OTHER_WORDS[: _N_OTHER[config.version]]}
    found = {}
    for split, subset in zip(SPLITS, ("training", "validation", "testing"), strict=True):
        # It takes a URL's last part, less .tar.gz, for the folder's name.
        dataset = SPEECHCOMMANDS(copy.parent, f"{copy.name}.tar.gz", folder_in_archive="", subset=subset)
        try:
            names = {
                f"{Path(dataset.get_metadata(n)[0]).relative_to(copy.name).as_posix()}" for n in range(len(dataset))
            }
        except ValueError as error:
            raise TkdError(
                f"{copy}: a name that is not WORD/SPEAKER_nohash_N.wav ({error}). Unpack it again."
            ) from error
        names = (name for name in names if not Path(name).name.startswith("."))  # as macOS leaves them on other disks
        found[split] = sorted(name for name in names if _word(name) in words and (copy / name).is_file())
    return found


def _word(name: str) -> str:
    return name.partition("/")[0]


def _unknown(names: list[str], n: int, seed: int) -> list[str]:
    """Returns `n` of the other words' recordings, in the order of a hash of name and seed."""
    others = [name for name in names if _word(name) not in WORDS]
    return sorted(others, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())[:n]


def _check_against_published(
    copy: Path, config: SpeechCommandsConfig, found: tuple[int, ...], chosen: dict[str, list[str]]
) -> None:
    """Says, or raises if strict, what is not as the data set was published."""
    faults = []
    published = PUBLISHED[config.version, config.labels]
    if found != published:
        counts = ["{} / {} / {}".format(*(f"{n:,}" for n in numbers)) for numbers in (found, published)]
        faults.append(
            f"{counts[0]} clips in train, validation and test, published are {counts[1]}. Results cannot be compared "
            "with published ones; unpack the archive again"
        )
    speakers = {split: {Path(name).name.partition("_nohash_")[0] for name in chosen[split]} for split in SPLITS}
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        if shared := speakers[first] & speakers[second]:
            faults.append(
                f"{len(shared)} speakers are in {first} and in {second}, as {min(shared)}; none is published so"
            )
    for fault in faults:
        if config.strict:
            raise TkdError(f"{copy}: {fault}.")
        say(f"WARNING: {copy}: {fault}.")
