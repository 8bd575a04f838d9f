"""Noise recordings made from a seed: coloured, babble, transients, hum. All functions return float64 at 16 kHz."""

from collections.abc import Callable

import numpy as np

from pipeline.data.manifest import SAMPLE_RATE
from pipeline.data.spoken.espeak import Utterance

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_N_TALKERS = 5


def coloured(rng: np.random.Generator, n_samples: int) -> np.ndarray:
    """Returns noise with power falling as 1/f^a, a drawn from 0 (white) over 1 (pink) to 2 (brown)."""
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    frequency = np.maximum(np.fft.rfftfreq(n_samples, 1 / SAMPLE_RATE), 20)  # Hz; flat below hearing
    return np.fft.irfft(spectrum * frequency ** (-rng.uniform(0, 2) / 2), n_samples)


def transients(rng: np.random.Generator, n_samples: int) -> np.ndarray:
    """Returns knocks, clicks and clinks, about three a second, over a quiet coloured bed."""
    noise = 0.02 * coloured(rng, n_samples)
    noise *= 0.02 / np.sqrt(np.mean(noise**2))
    for start in rng.integers(0, n_samples, rng.poisson(3 * n_samples / SAMPLE_RATE)):
        time = np.arange(int(rng.uniform(0.01, 0.25) * SAMPLE_RATE)) / SAMPLE_RATE  # seconds
        decay = np.exp(-time / rng.uniform(0.003, 0.06))
        ring = np.sin(2 * np.pi * rng.uniform(150, 5000) * time) if rng.random() < 0.6 else 0
        burst = (ring + rng.uniform(0.1, 1) * rng.standard_normal(len(time))) * decay * rng.uniform(0.2, 1)
        burst = burst[: n_samples - start]
        noise[start : start + len(burst)] += burst
    return noise


def hum(rng: np.random.Generator, n_samples: int) -> np.ndarray:
    """Returns mains or motor hum: harmonics of a slowly drifting fundamental, over quiet noise."""
    time = np.arange(n_samples) / SAMPLE_RATE  # seconds
    drift = 1 + 0.01 * np.sin(2 * np.pi * rng.uniform(0.02, 0.3) * time + rng.uniform(0, 2 * np.pi))
    phase = 2 * np.pi * np.cumsum(rng.choice([50, 60, rng.uniform(80, 240)]) * drift) / SAMPLE_RATE
    noise = np.zeros(n_samples)
    for harmonic in range(1, 25):
        noise += rng.exponential(1 / harmonic) * np.sin(harmonic * phase + rng.uniform(0, 2 * np.pi))
    bed = coloured(rng, n_samples)
    return noise + rng.uniform(0.05, 0.4) * bed * np.sqrt(np.mean(noise**2) / np.mean(bed**2))


def babble(
    rng: np.random.Generator,
    n_samples: int,
    voices: list[str],
    say: Callable[[str, list[Utterance]], list[np.ndarray]],
) -> np.ndarray:
    """Returns several voices speaking nonsense syllables at once: like speech, without words.

    Args:
        rng: Source of randomness.
        n_samples: Length at 16 kHz.
        voices: Voices to draw talkers from.
        say: Speaks utterances with one voice, float arrays at 16 kHz.
    """
    noise = np.zeros(n_samples)
    for voice in rng.choice(voices, min(_N_TALKERS, len(voices)), replace=False):
        rate, pitch = int(rng.integers(120, 220)), int(rng.integers(20, 80))
        talk = np.zeros(0)
        while len(talk) < n_samples:
            text = " ".join(_nonsense(rng) for _ in range(60))
            talk = np.concatenate([talk, *say(str(voice), [Utterance(text, rate, pitch)])])
        noise += rng.uniform(0.3, 1) * np.roll(talk, rng.integers(len(talk)))[:n_samples]
    return noise


def _nonsense(rng: np.random.Generator) -> str:
    pairs = rng.integers(len(_CONSONANTS), size=4), rng.integers(len(_VOWELS), size=4)
    n_syllables = rng.integers(2, 5)
    return "".join(_CONSONANTS[c] + _VOWELS[v] for c, v in zip(*pairs, strict=True))[: 2 * n_syllables]
