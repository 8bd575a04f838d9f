"""`synth`: Noisy Speech Commands in shape, spoken by espeak-ng, made offline.

Labels are `_silence_`, `_unknown_` and the words. As in Speech Commands' 12-label task, silence and unknown each get a
tenth as many clips as the words together (arXiv 2005.06720). `mini` is its fixed recipe.
"""

import dataclasses
import hashlib
import importlib.metadata
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from pipeline.data.clip import SAMPLE_RATE, SPLITS, Clip
from pipeline.data.manifest import DatasetInfo
from pipeline.data.mixing import LONGEST, MixRecipe, NoiseRegion, check_snr, mix
from pipeline.data.published.speech_commands import OTHER_WORDS, WORDS
from pipeline.data.spoken import noise
from pipeline.data.spoken.speech import Spoken, plan_speech, render_speech, say, slug, voices_by_split, write_noise
from pipeline.errors import TkdError, nearest
from pipeline.progress import Progress, track

NOISE_KINDS = ("coloured", "babble", "transients", "hum")  # usually
_MADE = {
    "coloured": noise.coloured,
    "transients": noise.transients,
    "hum": noise.hum,
    "rain": noise.rain,
    "wind": noise.wind,
    "melody": noise.melody,
    "alarm": noise.alarm,
}
ALL_NOISE_KINDS = ("babble", *_MADE)
NOISE_SECONDS = 30
MOST_CLIPS = 1_000_000  # a split


def _other_words(words: tuple[str, ...]) -> list[str]:
    """Returns what `_unknown_` is drawn from: no word to spot, however it is written."""
    return sorted(set(OTHER_WORDS) - {word.casefold() for word in words})


@dataclass(frozen=True)
class SynthConfig:
    """The recipe. `clips` is about how many in train, validation and test; every word gets the same number."""

    name: str = "synth"
    words: tuple[str, ...] = WORDS
    clips: tuple[int, int, int] = (4000, 600, 600)
    length_seconds: float = 4.0
    snr_db: tuple[float, float] = (0.0, 15.0)
    noise_recordings: tuple[int, int, int] = (10, 4, 4)  # of each kind, in train, validation and test
    noise_kinds: tuple[str, ...] = NOISE_KINDS
    seed: int = 0

    def __post_init__(self) -> None:
        words = ", ".join(self.words)
        if not self.words or any(not word.strip() for word in self.words):
            raise TkdError(f"words {words!r}: an empty word. Separate words with single commas.")
        if not words.isprintable():
            raise TkdError(f"words {words!r}: a character that cannot be printed. Use letters, digits and spaces.")
        if len({word.casefold() for word in self.words}) < len(self.words):
            raise TkdError(f"words {words!r}: a word stands twice. Name each once.")
        if reserved := {"_silence_", "_unknown_"}.intersection(self.words):
            raise TkdError(f"words {words!r}: {reserved.pop()} is a label of every dataset. Use another word.")
        if not _other_words(self.words):
            raise TkdError(f"words {words!r}: no other word is left to stand for _unknown_. Leave some out.")
        if not 2 <= self.length_seconds <= LONGEST:  # not: NaN is outside, too
            raise TkdError(f"length {self.length_seconds} s: spoken words take up to 1.9 s. Use 2 to {LONGEST} s.")
        check_snr(self.snr_db)
        smallest = math.ceil(1.2 * len(self.words))
        if not smallest <= min(self.clips) <= max(self.clips) <= MOST_CLIPS:
            raise TkdError(
                f"clips {self.clips}: {len(self.words)} words need {smallest} to {MOST_CLIPS} in each split."
            )
        for kind in self.noise_kinds:
            if kind not in ALL_NOISE_KINDS:
                raise TkdError(f"no such noise: {kind or 'an empty name'}. {nearest(kind, ALL_NOISE_KINDS)}")
        if len(set(self.noise_kinds)) < max(1, len(self.noise_kinds)):
            raise TkdError(f"noise kinds {', '.join(self.noise_kinds)!r}: none, or one stands twice. Name each once.")
        if self.seed < 0:
            raise TkdError(f"seed {self.seed} is negative. Use 0 or more.")

    def recipe(self) -> dict:
        """Returns what `dataset.json` says of how the clips were made."""
        recipe = {"kind": "synth", **dataclasses.asdict(self)}
        if self.noise_kinds == NOISE_KINDS:
            del recipe["noise_kinds"]  # as before there was a choice: a data set made then is the same
        return recipe


MINI = SynthConfig(name="mini")


def mini(length_seconds: float = MINI.length_seconds, noise_kinds: tuple[str, ...] = MINI.noise_kinds) -> SynthConfig:
    """Returns the recipe of `mini`: the words are the same at any length and in any noise, and nothing else is chosen.

    Raises:
        TkdError: the length is not from 2 s to the longest there is, or no such noise.
    """
    name = MINI.name
    if length_seconds != MINI.length_seconds:
        name += f"-{length_seconds:g}s"
    if noise_kinds != MINI.noise_kinds:
        name += "-" + "-".join(noise_kinds)
    return dataclasses.replace(MINI, name=name, length_seconds=length_seconds, noise_kinds=noise_kinds)


def make_synth(root: Path, config: SynthConfig, n_workers: int) -> tuple[DatasetInfo, list[Clip]]:
    """Speaks the words and makes the noise below `root`, and returns the clips mixed from them.

    Args:
        root: Working folder. What an interrupted run left there is used again.
        config: The recipe.
        n_workers: espeak-ng processes at a time.

    Raises:
        TkdError: a word that cannot be spoken, or takes longer than a clip.
    """
    voices = voices_by_split()
    spoken = {
        split: _plan(split, n_clips, voices[split], config) for split, n_clips in zip(SPLITS, config.clips, strict=True)
    }
    plan = [word for split in SPLITS for word in spoken[split]]
    with Progress("speaking", len(plan), "words") as progress:
        for n_words in render_speech(root, plan, config.seed, n_workers):
            progress.advance(n_words)
    _check_lengths(root, plan, config.length_seconds)

    noises: dict[str, list[NoiseRegion]] = {split: [] for split in SPLITS}
    n_recordings = dict(zip(SPLITS, config.noise_recordings, strict=True))
    jobs = [(split, kind, i) for split in SPLITS for kind in config.noise_kinds for i in range(n_recordings[split])]
    for split, kind, index in track(jobs, "making noise", len(jobs), "recordings"):
        file = f"noise/{split}/{kind}_{index:02d}.flac"
        noises[split].append(NoiseRegion(file))
        if not (root / file).exists():
            write_noise(root / file, _make_noise(kind, [config.seed, index, *f"{split}{kind}".encode()], voices[split]))

    recipe = MixRecipe(round(config.length_seconds * SAMPLE_RATE), config.snr_db)
    rows = [row for split in SPLITS for row in _rows(split, spoken[split], config.words)]
    rngs = {split: np.random.default_rng([config.seed, 1, *split.encode()]) for split in SPLITS}
    clips = [
        mix(row, root, noises[row.split], recipe, rngs[row.split]) for row in track(rows, "mixing", len(rows), "clips")
    ]
    return _describe(root, config), clips


def _plan(split: str, n_clips: int, voices: list[str], config: SynthConfig) -> list[Spoken]:
    rng = np.random.default_rng([config.seed, *split.encode()])
    per_word = round(n_clips / (1.2 * len(config.words)))
    others = _other_words(config.words)
    texts = [word for word in config.words for _ in range(per_word)]
    texts += [others[i] for i in rng.integers(len(others), size=-(-len(texts) // 10))]
    return plan_speech(texts, voices, split, rng)


def _check_lengths(root: Path, plan: list[Spoken], length_seconds: float) -> None:
    longest, text = max((soundfile.info(root / word.file).frames / SAMPLE_RATE, word.text) for word in plan)
    if longest > length_seconds:
        raise TkdError(
            f"{text!r} takes up to {longest:.2f} s to say, a clip is {length_seconds} s long. "
            f"Give --length {math.ceil(longest)} or more."
        )


def _rows(split: str, spoken: list[Spoken], words: tuple[str, ...]) -> Iterator[Clip]:
    """Yields the clips of one split, not yet mixed: as many silent ones as unknown words, and one for each word."""
    label = {word: index for index, word in enumerate(words, 2)}
    for index in range(sum(word.text not in label for word in spoken)):
        yield Clip(f"{split}/_silence_/{index:04d}", split, (0,), 0)
    for word in spoken:
        name = f"{split}/{slug(word.text)}/{Path(word.file).stem}"
        yield Clip(name, split, (label.get(word.text, 1),), 0, speech_file=word.file, speaker=word.voice)


def _make_noise(kind: str, seed: list[int], voices: list[str]) -> np.ndarray:
    rng, n_samples = np.random.default_rng(seed), NOISE_SECONDS * SAMPLE_RATE
    if kind == "babble":
        return noise.babble(rng, n_samples, voices, say)
    return _MADE[kind](rng, n_samples)


def _describe(root: Path, config: SynthConfig) -> DatasetInfo:
    digest = hashlib.sha256()
    files = sorted(path for folder in ("speech", "noise") for path in (root / folder).rglob("*.flac"))
    for path in files:
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    espeak_version = f"espeakng-loader {importlib.metadata.version('espeakng-loader')}"
    return DatasetInfo(
        name=config.name,
        task="single_label",
        labels=("_silence_", "_unknown_", *config.words),
        licence="synthetic: made by tkd with espeak-ng",
        recipe=config.recipe(),
        sources=[{"made_by": espeak_version, "n_files": len(files), "sha256": digest.hexdigest()}],
    )
