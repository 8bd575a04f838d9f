"""Noise recordings made from a seed, by kind. All functions return float64 at 16 kHz."""

from collections.abc import Callable

import numpy as np

from pipeline.data.clip import SAMPLE_RATE
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


def rain(rng: np.random.Generator, n_samples: int) -> np.ndarray:
    """Returns hundreds of drops a second over hiss, heavier and lighter by turns."""
    bed = np.diff(coloured(rng, n_samples + 1))  # brighter than any of coloured
    noise = rng.uniform(0.1, 0.5) * bed / np.sqrt(np.mean(bed**2))
    for start in rng.integers(0, n_samples, rng.poisson(rng.uniform(100, 500) * n_samples / SAMPLE_RATE)):
        time = np.arange(int(rng.uniform(0.002, 0.01) * SAMPLE_RATE)) / SAMPLE_RATE  # seconds
        drop = np.sin(2 * np.pi * rng.uniform(1000, 7000) * time) * np.exp(-time / rng.uniform(0.0005, 0.003))
        drop = rng.exponential(2) * drop[: n_samples - start]
        noise[start : start + len(drop)] += drop
    return noise * _swell(rng, n_samples, rng.uniform(1, 5), 0.3)


def wind(rng: np.random.Generator, n_samples: int) -> np.ndarray:
    """Returns gusts: rumble that swells and falls within a second, and a whistle that follows it."""
    frequency = np.maximum(np.fft.rfftfreq(n_samples, 1 / SAMPLE_RATE), 20)  # Hz
    spectrum = np.fft.rfft(rng.standard_normal((2, n_samples)))
    rumble = np.fft.irfft(spectrum[0] / (1 + (frequency / rng.uniform(100, 400)) ** 2), n_samples)
    centre, width = rng.uniform(300, 1500), rng.uniform(30, 150)
    whistle = np.fft.irfft(spectrum[1] / (1 + ((frequency - centre) / width) ** 2), n_samples)
    gust = _swell(rng, n_samples, rng.uniform(0.3, 1), 0.8)
    whistle *= rng.uniform(0.05, 0.5) * np.sqrt(np.mean(rumble**2) / np.mean(whistle**2))
    return gust * rumble + gust**2 * whistle


def melody(rng: np.random.Generator, n_samples: int) -> np.ndarray:
    """Returns one to three voices that play plucked or held notes of a pentatonic scale."""
    noise = np.zeros(n_samples)
    scale, root = np.array([0, 2, 4, 7, 9]), rng.uniform(80, 160)
    for _ in range(rng.integers(1, 4)):
        partials = rng.exponential(1 / np.arange(1, 9))
        held, octave, start = rng.uniform(0.1, 1.5), rng.integers(0, 3), 0
        while start < n_samples:
            n = int(rng.choice([0.15, 0.3, 0.6]) * SAMPLE_RATE)
            time = np.arange(min(n, n_samples - start)) / SAMPLE_RATE  # seconds
            pitch = root * 2 ** (octave + (rng.choice(scale) + 12 * rng.integers(0, 2)) / 12)
            note = partials @ np.sin(2 * np.pi * pitch * np.outer(np.arange(1, 9), time))
            if rng.random() < 0.85:  # else a rest
                noise[start : start + n] += (
                    rng.uniform(0.5, 1) * note * np.minimum(1, time / 0.01) * np.exp(-time / held)
                )
            start += n
    return noise + 0.01 * np.sqrt(np.mean(noise**2)) * rng.standard_normal(n_samples)


def alarm(rng: np.random.Generator, n_samples: int) -> np.ndarray:
    """Returns beeps or a siren: a tone that is switched or swept, over a quiet coloured bed."""
    turns = np.arange(n_samples) / SAMPLE_RATE / rng.uniform(0.25, 2)  # periods of the switching or sweeping
    base = rng.uniform(500, 2500)  # Hz
    siren = rng.random() < 0.5
    pitch = base * 2 ** (rng.uniform(0.3, 1) * np.sin(2 * np.pi * turns)) if siren else np.full(n_samples, base)
    tone = sum(np.sin(k * 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE) / k for k in (1, 2, 3))
    loud = 1.0 if siren else turns % 1 < rng.uniform(0.3, 0.7)
    bed = coloured(rng, n_samples)
    return loud * tone + rng.uniform(0.05, 0.3) * bed / np.sqrt(np.mean(bed**2))


def _swell(rng: np.random.Generator, n_samples: int, seconds: float, spread: float) -> np.ndarray:
    """Returns a positive gain that wanders: log-normal values of `spread`, one every `seconds`, with lines between."""
    n_knots = int(n_samples / SAMPLE_RATE / seconds) + 2
    values = rng.normal(0, spread, n_knots)
    return np.exp(np.interp(np.arange(n_samples) / SAMPLE_RATE / seconds, np.arange(n_knots), values))


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
