"""Recordings in, clips out: decoding, and rendering one manifest row to samples."""

import contextlib
import functools
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio

from pipeline.data.clip import SAMPLE_RATE, Clip
from pipeline.errors import TkdError

# What libsndfile says of a chunk whose length is not what the header says. A recorder that wrote to a pipe could not go
# back to fill in the length, and left 0 or something near 2 or 4 GiB.
_CUT_CHUNK = re.compile(r"^\s*(?:data|SSND) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_STREAMED = 0x7F000000

_BLOCK = 1 << 20  # samples of each channel
_LOWEST_RATE = 1000  # Hz
_LARGEST_FILTER = 50_000_000  # coefficients: 16,001 Hz to 16,000 Hz would take 256 million, and 10 s a file


def read_audio(path: Path, start: int = 0, stop: int | None = None, speed_percent: int = 100) -> np.ndarray:
    """Returns a recording, or a part of it, as mono float32 (n_samples,) at SAMPLE_RATE; full scale is 1.

    Channels are averaged. Another rate is resampled (torchaudio, windowed sinc; in float64, so that rounding does not
    depend on the machine).

    Args:
        path: The recording.
        start: Its first sample to be read, at its own rate.
        stop: The sample after the last; None: to its end.
        speed_percent: How fast it is played; other than 100 the length changes, and with it the pitch.

    Raises:
        TkdError: the file is missing, not audio, cut off (seen in WAV, AIFF, FLAC, CAF and much shortened MP3; Ogg is
            read as far as it goes), empty, at a rate without a simple ratio to SAMPLE_RATE, holds NaN or infinite
            samples, or ends before `stop`.
    """
    with _opened(path) as file:
        rate, last = file.samplerate, file.frames if stop is None else stop
        if (start, stop) != (0, None):
            if not 0 <= start < last <= file.frames:
                raise TkdError(f"{path}: has {file.frames} samples, {start} to {last} are not among them.")
            file.seek(start)
        samples = file.read(last - start, dtype="float32", always_2d=True)  # (n_samples, n_channels)
        _check_whole(path, file, len(samples), last - start)
    waveform = samples.mean(axis=1)  # (n_samples,)
    if not np.isfinite(waveform).all():
        raise TkdError(f"{path}: has NaN or infinite samples. Replace or remove it.")
    return _resampled(path, waveform, rate, speed_percent)


@dataclass(frozen=True)
class Recording:
    """What one reading of a recording tells."""

    n_frames: int  # samples of one channel, at its own rate
    sample_rate: int  # Hz
    peak: float  # of its mono samples; full scale is 1

    @property
    def n_samples(self) -> int:
        """Its length as `read_audio` returns it, at SAMPLE_RATE."""
        return n_resampled(self.n_frames, self.sample_rate)


def survey(path: Path) -> Recording:
    """Returns what the recording is, reading all of it, in pieces: hours of audio need no more memory than seconds.

    Raises:
        TkdError: whatever `read_audio` would say of the whole recording.
    """
    n_frames, peak = 0, 0.0
    with _opened(path) as file:
        rate, n_stated = file.samplerate, file.frames
        while len(samples := file.read(_BLOCK, dtype="float32", always_2d=True)):
            loudest = float(np.abs(samples.mean(axis=1)).max())
            if not math.isfinite(loudest):
                raise TkdError(f"{path}: has NaN or infinite samples. Replace or remove it.")
            n_frames, peak = n_frames + len(samples), max(peak, loudest)
        _check_whole(path, file, n_frames, n_stated)
    _check_rate(path, rate)
    return Recording(n_frames, rate, peak)


def n_resampled(n_frames: int, rate: int) -> int:
    """Returns how many samples at SAMPLE_RATE `read_audio` makes of `n_frames` at `rate` Hz."""
    if rate == SAMPLE_RATE:
        return n_frames
    common = math.gcd(rate, SAMPLE_RATE)
    exact = SAMPLE_RATE // common * n_frames / (rate // common)
    return math.ceil(np.float32(exact))  # torchaudio rounds so; it shows in recordings of ten minutes


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            yield file
    except (soundfile.LibsndfileError, OSError, TypeError) as error:  # TypeError: .raw says neither rate nor channels
        raise TkdError(f"{path}: cannot be read as audio ({_why(path, error)}). Replace or remove it.") from error


def _why(path: Path, error: Exception) -> str:
    if not path.exists():
        return "no such file"
    if path.is_dir():
        return "a folder"
    if path.is_file() and not path.stat().st_size:
        return "empty"
    return error.error_string.rstrip(".") if isinstance(error, soundfile.LibsndfileError) else str(error)


def _check_whole(path: Path, file: soundfile.SoundFile, n_read: int, n_stated: int) -> None:
    cut = _CUT_CHUNK.search(file.extra_info)
    if (cut and int(cut[2]) < int(cut[1]) < _STREAMED) or n_read < 0.9 * n_stated:
        raise TkdError(f"{path}: cut off, the file is shorter than its header says. Replace or remove it.")
    if n_read == 0:
        raise TkdError(f"{path}: has no samples. Replace or remove it.")


def _check_rate(path: Path, rate: int) -> None:
    if rate < _LOWEST_RATE or rate * SAMPLE_RATE // math.gcd(rate, SAMPLE_RATE) ** 2 > _LARGEST_FILTER:
        raise TkdError(f"{path}: is at {rate} Hz, with no simple ratio to {SAMPLE_RATE} Hz. Resample or remove it.")


def _resampled(path: Path, waveform: np.ndarray, rate: int, speed_percent: int) -> np.ndarray:
    _check_rate(path, rate)
    exact = torch.from_numpy(waveform.astype(np.float64))
    # One after the other: 44,100 Hz at 95 % in one step is a filter of 27 million coefficients, over a second a file.
    for played, wanted in ((rate, SAMPLE_RATE), (speed_percent, 100)):
        if played != wanted:
            exact = torchaudio.functional.resample(exact, played, wanted)
    return exact.numpy().astype(np.float32)


def _noise(path: Path) -> np.ndarray:
    """Noise recordings are few and crops of them many: they stay decoded, until the file changes."""
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        changed = 0  # read_audio says what is wrong
    return _decoded(path, changed)


@functools.lru_cache(maxsize=128)
def _decoded(path: Path, _changed: int) -> np.ndarray:
    return read_audio(path)


def noise_length(path: Path) -> int:
    """Returns the number of samples of a noise recording."""
    return len(_noise(path))


def noise_crop(path: Path, offset: int, n_samples: int, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Returns `n_samples` of a noise recording from sample `offset`, float32.

    Nothing but samples `start` to `stop` (None: the end) is heard: at `stop` the noise begins again at `start`.

    Raises:
        TkdError: the recording cannot be read, or has no such samples.
    """
    noise = _noise(path)
    last = len(noise) if stop is None else stop
    if not 0 <= start < last <= len(noise):
        raise TkdError(f"{path}: has {len(noise)} samples, {start} to {last} are not among them. Prepare it again.")
    return noise[start + np.arange(offset - start, offset - start + n_samples) % (last - start)]


def read_speech(root: Path, clip: Clip) -> np.ndarray:
    """Returns what is heard of the clip's recording, float32 (n_samples,) at SAMPLE_RATE.

    Args:
        root: The dataset's audio_root.
        clip: Its row; with a speech_file.
    """
    return read_audio(root / clip.speech_file, clip.speech_start, clip.speech_stop, clip.speed_percent)


def speech_length(root: Path, clip: Clip) -> int:
    """Returns how many samples `read_speech` gives at the recording's own speed, as its header has it.

    Raises:
        TkdError: it cannot be read.
    """
    with _opened(root / clip.speech_file) as file:
        stop = file.frames if clip.speech_stop is None else clip.speech_stop
        return n_resampled(stop - clip.speech_start, file.samplerate)


def render_clip(root: Path, clip: Clip) -> np.ndarray:
    """Returns the clip's PCM, int16 (n_samples,): what the teacher hears and the students' features are made of.

    Only elementwise float32 arithmetic with stored gains, then rounding: the same row gives the same samples on any
    machine.
    """
    mixed = np.zeros(clip.n_samples, np.float32)
    if clip.speech_file is not None:
        speech = read_speech(root, clip)
        first, last = max(0, -clip.speech_offset), min(len(speech), clip.n_samples - clip.speech_offset)
        if first < last:
            mixed[clip.speech_offset + first : clip.speech_offset + last] = speech[first:last] * np.float32(
                clip.speech_gain
            )
    if clip.noise_file is not None:
        path, stretch = root / clip.noise_file, (clip.noise_start, clip.noise_stop)
        mixed += noise_crop(path, clip.noise_offset, clip.n_samples, *stretch) * np.float32(clip.noise_gain)
    return to_pcm(mixed)


def to_pcm(waveform: np.ndarray) -> np.ndarray:
    """Returns float32 samples, full scale 1, as int16 PCM: rounded, and cut off at full scale."""
    return np.clip(np.rint(waveform * np.float32(32768)), -32768, 32767).astype(np.int16)


def to_waveform(pcm: np.ndarray) -> np.ndarray:
    """Returns int16 PCM as float32 in [-1, 1)."""
    return pcm.astype(np.float32) / 32768
