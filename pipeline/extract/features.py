"""The features students train on: log-mel energies as in kws_streaming (arXiv 2005.06720)."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchaudio

from pipeline.data.clip import SAMPLE_RATE
from pipeline.errors import TkdError


@dataclass(frozen=True)
class LogMelConfig:
    """Front-end settings; all of them travel in the cache."""

    sample_rate: int = SAMPLE_RATE  # Hz
    win_length: int = 640  # samples, 40 ms, Hann
    hop_length: int = 320  # samples, 20 ms
    n_fft: int = 1024  # next power of two of win_length
    n_mels: int = 40
    f_min: float = 20.0  # Hz
    f_max: float = 7000.0  # Hz
    floor: float = 1e-12  # energies below it are raised to it before the natural logarithm

    def n_frames(self, n_samples: int) -> int:
        """Returns how many frames lie wholly inside `n_samples` samples; 0 or less of fewer than a frame."""
        return (n_samples - self.win_length) // self.hop_length + 1

    def n_samples(self, n_frames: int) -> int:
        """Returns the fewest samples in which `n_frames` frames, at least 1, lie wholly."""
        return self.win_length + (n_frames - 1) * self.hop_length

    def metadata(self) -> dict:
        """Returns what the cache says of its features; `frame_offset` is the centre of frame 0 in samples."""
        return {
            "kind": "log_mel",
            **dataclasses.asdict(self),
            "frame_offset": (self.win_length - 1) / 2,
            "mel_scale": "htk",
            "spectrum": "magnitude",
            "window": "hann, periodic",
            "center": False,
        }

    @classmethod
    def from_metadata(cls, stated: Mapping[str, Any]) -> "LogMelConfig":
        """Returns the settings of a cache's features.

        Raises:
            TkdError: they are not of a front end that this version computes.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        settings = {name: stated[name] for name in names if isinstance(stated.get(name), int | float)}
        config = cls(**settings)
        computed = config.metadata()
        unknown = [
            f"{name} {stated.get(name)!r} ({computed.get(name)!r} here)"
            for name in {**computed, **stated}
            if stated.get(name) != computed.get(name)
        ]
        if unknown:
            raise TkdError(
                f"features made with settings that this tkd does not know: {', '.join(unknown)}. Update tkd."
            )
        return config


class LogMel:
    """Computes log-mel features; see `LogMelConfig`."""

    def __init__(self, config: LogMelConfig) -> None:
        self.config = config
        self._mel = torchaudio.transforms.MelSpectrogram(
            sample_rate=config.sample_rate,
            n_fft=config.n_fft,
            win_length=config.win_length,
            hop_length=config.hop_length,
            f_min=config.f_min,
            f_max=config.f_max,
            n_mels=config.n_mels,
            power=1.0,
            center=False,
            mel_scale="htk",
        )

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """Returns float32 (n_mels, T) for a waveform (n_samples,) in [-1, 1)."""
        # torch centres a window shorter than n_fft in it; padding by the difference makes frame t start at t * hop.
        margin = (self.config.n_fft - self.config.win_length) // 2
        padded = torch.nn.functional.pad(torch.from_numpy(waveform), (margin, margin))
        return torch.log(self._mel(padded).clamp_min(self.config.floor)).numpy()
