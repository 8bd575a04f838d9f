"""Spoken words as FLAC files: voices dealt out to the splits, each voice rendered by a process of its own."""

import hashlib
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio

from pipeline.data.clip import SAMPLE_RATE, SPLITS
from pipeline.data.spoken import espeak
from pipeline.errors import TkdError

ACCENTS = ("en", "en-US", "en-US-nyc", "en-029", "en-GB-scotland", "en-GB-x-gbclan", "en-GB-x-gbcwmd", "en-GB-x-rp")
RATES = (80, 130)  # words per minute
PITCHES = (15, 86)  # espeak-ng's scale, 0 to 100
_SILENCE = 0.01  # of the peak: quieter samples before and after a word are cut off,
_MARGIN = SAMPLE_RATE // 20  # but for 50 ms on each side: soft onsets and releases belong to the word


@dataclass(frozen=True)
class Spoken:
    """One rendered word: `file` relative to the dataset folder."""

    file: str
    text: str
    voice: str


def voices_by_split() -> dict[str, list[str]]:
    """Returns the voices of each split, disjoint by timbre, the same for every seed.

    A voice is an accent and a variant (timbre). Variants are dealt by a hash of their name, 70 / 15 / 15 %, so a timbre
    heard in training is never heard in validation or test, in any accent, in any dataset made here.
    """
    ranked = sorted(espeak.variants(), key=lambda name: hashlib.sha256(name.encode()).digest())
    n_heldout = round(0.15 * len(ranked))
    parts = ranked[2 * n_heldout :], ranked[:n_heldout], ranked[n_heldout : 2 * n_heldout]
    return {
        split: [f"gmw/{accent}+{variant}" for variant in sorted(part) for accent in ACCENTS]
        for split, part in zip(SPLITS, parts, strict=True)
    }


def say(voice: str, utterances: list[espeak.Utterance]) -> list[np.ndarray]:
    """Returns float64 (n_samples,) at 16 kHz for each utterance, untrimmed.

    Resampled in float64: what lands in a 16-bit file then does not depend on the machine's rounding.
    """
    spoken = []
    for pcm in espeak.speak(voice, utterances):
        waveform = torch.from_numpy(np.frombuffer(pcm, "<i2").astype(np.float64) / 32768)
        spoken.append(torchaudio.functional.resample(waveform, espeak.SAMPLE_RATE, SAMPLE_RATE).numpy())
    return spoken


def plan_speech(texts: list[str], voices: list[str], split: str, rng: np.random.Generator) -> list[Spoken]:
    """Returns one file for each of `texts`, its voice drawn from `voices`; nothing is spoken yet."""
    count: dict[str, int] = defaultdict(int)
    plan = []
    for text, index in zip(texts, rng.integers(len(voices), size=len(texts)), strict=True):
        voice = voices[index]
        name = f"{slug(voice.removeprefix('gmw/'))}_{count[voice]:04d}.flac"
        count[voice] += 1
        plan.append(Spoken(f"speech/{split}/{slug(text)}/{name}", text, voice))
    return plan


def render_speech(root: Path, plan: Iterable[Spoken], seed: int, n_workers: int) -> Iterator[int]:
    """Writes the planned files below `root`, yielding the number of words done with each voice.

    A file is written under another name until whole, and a voice whose files all exist is skipped: an interrupted
    run goes on where it stopped.

    Raises:
        TkdError: a text that espeak-ng cannot say.
    """
    by_voice: dict[str, list[Spoken]] = defaultdict(list)
    for word in plan:
        by_voice[word.voice].append(word)

    def render(item: tuple[str, list[Spoken]]) -> int:
        voice, words = item
        if not all((root / word.file).exists() for word in words):
            rng = np.random.default_rng([seed, *voice.encode()])
            draws = [(int(rng.integers(*RATES)), int(rng.integers(*PITCHES))) for _ in words]
            utterances = [espeak.Utterance(word.text, *draw) for word, draw in zip(words, draws, strict=True)]
            for word, waveform in zip(words, say(voice, utterances), strict=True):
                _write_flac(root / word.file, _trim(waveform, word))
        return len(words)

    # Threads: the work is in the espeak-ng processes.
    pool = ThreadPoolExecutor(n_workers)
    try:
        yield from pool.map(render, sorted(by_voice.items()))
    finally:
        pool.shutdown(cancel_futures=True)


def slug(text: str) -> str:
    """Returns `text` as part of a file name: letters, digits, + and - of any script stay, 40 characters at most."""
    return re.sub(r"[^\w+-]+", "_", text).strip("_")[:40] or "_"


def _trim(waveform: np.ndarray, word: Spoken) -> np.ndarray:
    loud = np.flatnonzero(np.abs(waveform) > _SILENCE * np.abs(waveform).max(initial=0))
    if len(loud) == 0:
        raise TkdError(f"espeak-ng says nothing for {word.text!r} (voice {word.voice}). Use words of letters.")
    return waveform[max(0, loud[0] - _MARGIN) : loud[-1] + 1 + _MARGIN]


def _write_flac(path: Path, waveform: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    peak = np.abs(waveform).max()
    scaled = waveform * (0.5 / peak if peak > 0 else 1)
    partial = path.with_suffix(".flac.partial")
    flac = io.BytesIO()  # libsndfile itself does not say when a disk is full
    soundfile.write(flac, scaled, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    partial.write_bytes(flac.getvalue())
    os.replace(partial, path)


def write_noise(path: Path, noise: np.ndarray) -> None:
    """Writes a noise recording as 16-bit FLAC, its loudest sample at half of full scale."""
    _write_flac(path, noise)
