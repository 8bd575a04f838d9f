"""Placing a keyword somewhere inside noise: the shape of Noisy Speech Commands (arXiv 2110.14131, section 3).

The paper states neither the noise nor the SNR. Here: noise at a level drawn from `NOISE_DBFS`, speech above it by an
SNR drawn from the recipe's range, measured over the keyword's own samples. Everything drawn is written into the row.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.audio import noise_crop, noise_length, read_speech
from pipeline.data.clip import Clip
from pipeline.errors import TkdError

NOISE_DBFS = (-45.0, -25.0)  # RMS of the noise crop, relative to full scale
LONGEST = 600  # seconds a clip
LARGEST_SNR = 60  # dB, either way: beyond it the quieter part falls below the last of 16 bits
_PEAK = 0.99  # full scale is 1
_SILENT = 1e-4  # RMS, -80 dB of full scale: what is raised from there is rounding
_TRIES = 100  # to find a crop of noise that is not silent


@dataclass(frozen=True)
class MixRecipe:
    """How clips are mixed: `n_samples` a clip, SNR in dB drawn uniformly from `snr_db`."""

    n_samples: int
    snr_db: tuple[float, float]


def check_snr(snr_db: tuple[float, float]) -> None:
    """Raises TkdError unless `snr_db` is a range in dB that can be heard in 16 bits."""
    low, high = snr_db
    if not -LARGEST_SNR <= low <= high <= LARGEST_SNR:  # not: NaN is outside
        raise TkdError(f"SNR {low} to {high} dB: give the lower one first, both from -{LARGEST_SNR} to {LARGEST_SNR}.")


@dataclass(frozen=True, order=True)
class NoiseRegion:
    """Samples `start` to `stop` of a noise recording at SAMPLE_RATE; `file` relative to audio_root.

    Without `stop` it is a recording made to be repeated, and a crop may run over its end to its start.
    """

    file: str
    start: int = 0
    stop: int | None = None


def noise_regions(clips: Iterable[Clip]) -> list[NoiseRegion]:
    """Returns the regions that the clips' noise is from, each once, sorted: what more such clips may be mixed with."""
    return sorted(
        {NoiseRegion(clip.noise_file, clip.noise_start, clip.noise_stop) for clip in clips if clip.noise_file}
    )


def mix(clip: Clip, root: Path, regions: list[NoiseRegion], recipe: MixRecipe, rng: np.random.Generator) -> Clip:
    """Returns `clip` placed at a random position inside a random crop of one of `regions`.

    The keyword (`speech_file`, whole, or none for silence) lies entirely inside the clip unless it is longer.

    Raises:
        TkdError: a recording cannot be read, or one of noise is silent.
    """
    region = regions[rng.integers(len(regions))]
    noise_offset, noise = _crop(region, root, recipe.n_samples, rng)
    noise_dbfs, snr_db, position = rng.uniform(*NOISE_DBFS), rng.uniform(*recipe.snr_db), rng.random()
    for _ in range(_TRIES):
        if not is_silent(noise):
            break
        noise_offset, noise = _crop(region, root, recipe.n_samples, rng)
    else:
        raise TkdError(f"{root / region.file}: almost all of it is silent. Remove it from the noise.")
    noise_gain = 10 ** (noise_dbfs / 20) / _rms(noise)
    mixed = noise * noise_gain
    placed = {}
    if clip.speech_file is not None:
        speech = read_speech(root, clip)
        offset = int(position * max(0, recipe.n_samples - len(speech)))
        heard = speech[: recipe.n_samples]
        gain = 10 ** ((noise_dbfs + snr_db) / 20) / max(_rms(heard), 1e-6)
        mixed[offset : offset + len(heard)] += heard * gain
        placed = {
            "speech_offset": offset,
            "speech_gain": gain,
            "snr_db": _float32(snr_db),
            "event_start": offset,
            "event_stop": offset + len(heard),
        }
    quieter = _PEAK / max(_PEAK, np.abs(mixed).max())
    if placed:
        placed["speech_gain"] = _float32(placed["speech_gain"] * quieter)
    return dataclasses.replace(
        clip,
        n_samples=recipe.n_samples,
        noise_file=region.file,
        noise_start=region.start,
        noise_stop=region.stop,
        noise_offset=noise_offset,
        noise_gain=_float32(noise_gain * quieter),
        **placed,
    )


def _n_starts(region: NoiseRegion, root: Path, n_samples: int) -> int:
    """Returns how many crops there are; one runs over the region's end only if it must."""
    if region.stop is None:
        return noise_length(root / region.file) - region.start
    n_region = region.stop - region.start
    return n_region - n_samples + 1 if n_region >= n_samples else n_region


def _crop(region: NoiseRegion, root: Path, n_samples: int, rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """Returns where a random crop of a region begins, in samples of the recording, and it: float32 (n_samples,)."""
    offset = region.start + int(rng.integers(_n_starts(region, root, n_samples)))
    return offset, noise_crop(root / region.file, offset, n_samples, region.start, region.stop)


def is_silent(noise: np.ndarray) -> bool:
    """Returns whether noise is too low to be heard at the levels that it is mixed at."""
    return _rms(noise) < _SILENT


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))


def _float32(value: float) -> float:
    """Rounds to what the manifest's float32 column holds, so that a row in memory equals the row read back."""
    return float(np.float32(value))
