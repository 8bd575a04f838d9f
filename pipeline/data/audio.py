"""Recordings in, clips out: decoding, and rendering one manifest row to samples."""

import functools
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio

from pipeline.data.manifest import SAMPLE_RATE, Clip
from pipeline.errors import TkdError


def read_audio(path: Path, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Returns a recording as mono float32 (n_samples,) in [-1, 1] at `sample_rate`.

    Channels are averaged. Another rate is resampled (torchaudio, windowed sinc).

    Raises:
        TkdError: the file is missing, not audio, truncated, empty, or holds NaN or infinite samples.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)  # (n_samples, n_channels)
    except (soundfile.LibsndfileError, OSError) as error:
        raise TkdError(f"{path}: cannot be read as audio ({error}). Replace or remove it.") from error
    if len(samples) == 0:
        raise TkdError(f"{path}: has no samples. Replace or remove it.")
    waveform = samples.mean(axis=1)  # (n_samples,)
    if not np.isfinite(waveform).all():
        raise TkdError(f"{path}: has NaN or infinite samples. Replace or remove it.")
    if rate != sample_rate:
        waveform = torchaudio.functional.resample(torch.from_numpy(waveform), rate, sample_rate).numpy()
    return waveform


@functools.lru_cache(maxsize=128)
def _noise(path: Path) -> np.ndarray:
    """Noise recordings are few and crops of them many: they stay decoded."""
    return read_audio(path)


def noise_length(path: Path) -> int:
    """Returns the number of samples of a noise recording."""
    return len(_noise(path))


def noise_crop(path: Path, offset: int, n_samples: int) -> np.ndarray:
    """Returns `n_samples` of a noise recording from sample `offset`, float32; a short recording is repeated."""
    noise = _noise(path)
    return noise[np.arange(offset, offset + n_samples) % len(noise)]


def render_clip(root: Path, clip: Clip) -> np.ndarray:
    """Returns the clip's PCM, int16 (n_samples,): what the teacher hears and the students' features are made of.

    Only elementwise float32 arithmetic with stored gains, then rounding: the same row gives the same samples on any
    machine.
    """
    mixed = np.zeros(clip.n_samples, np.float32)
    if clip.speech_file is not None:
        speech = read_audio(root / clip.speech_file)
        first, last = max(0, -clip.speech_offset), min(len(speech), clip.n_samples - clip.speech_offset)
        if first < last:
            mixed[clip.speech_offset + first : clip.speech_offset + last] = speech[first:last] * np.float32(
                clip.speech_gain
            )
    if clip.noise_file is not None:
        mixed += noise_crop(root / clip.noise_file, clip.noise_offset, clip.n_samples) * np.float32(clip.noise_gain)
    return np.clip(np.rint(mixed * np.float32(32768)), -32768, 32767).astype(np.int16)


def to_waveform(pcm: np.ndarray) -> np.ndarray:
    """Returns int16 PCM as float32 in [-1, 1)."""
    return pcm.astype(np.float32) / 32768
