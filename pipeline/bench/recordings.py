"""The same augmentations made to recordings: what the cached features and weights should have become.

Each takes the waveforms of a batch, float32 (n_samples,) in [-1, 1), and what was drawn for it, and is written without
the code of the augmentation it stands beside.
"""

from collections.abc import Callable

import numpy as np
import torch
import torchaudio

from pipeline.distill.augment.augmentation import Draws
from pipeline.extract.features import LogMel

Waveforms = list[np.ndarray]


def shift(waveforms: Waveforms, drawn: Draws, log_mel: LogMel) -> Waveforms:
    """Moves each recording, around its ends."""
    hop = log_mel.config.hop_length
    return [np.roll(wave, int(by) * hop) for wave, by in zip(waveforms, drawn["frames"], strict=True)]


def crop(waveforms: Waveforms, drawn: Draws, log_mel: LogMel) -> Waveforms:
    """Cuts the stretch out of each."""
    config, cut = log_mel.config, []
    for wave, first, length in zip(waveforms, drawn["first"].tolist(), drawn["length"].tolist(), strict=True):
        n_samples = (length - 1) * config.hop_length + config.win_length
        whole = length == config.n_frames(len(wave))
        cut.append(wave if whole else wave[first * config.hop_length :][:n_samples])
    return cut


def speed(waveforms: Waveforms, drawn: Draws, log_mel: LogMel) -> Waveforms:
    """Resamples each, by torchaudio's windowed sinc."""
    return [
        torchaudio.functional.resample(torch.from_numpy(wave).double(), percent, 100).float().numpy()
        for wave, percent in zip(waveforms, drawn["percent"].tolist(), strict=True)
    ]


def gain(waveforms: Waveforms, drawn: Draws, log_mel: LogMel) -> Waveforms:
    """Multiplies each."""
    return [wave * np.float32(10 ** (by / 20)) for wave, by in zip(waveforms, drawn["gain_db"].tolist(), strict=True)]


def noise(waveforms: Waveforms, drawn: Draws, log_mel: LogMel) -> Waveforms:
    """Adds Gaussian noise of the colour, made in the frequency domain, at the SNR over mel bins."""
    noisy, rng = [], np.random.default_rng(0)
    for wave, colour, snr_db in zip(waveforms, drawn["colour"].tolist(), drawn["snr_db"].tolist(), strict=True):
        spectrum = np.fft.rfft(rng.standard_normal(len(wave)))
        frequency = np.fft.rfftfreq(len(wave), 1 / log_mel.config.sample_rate)
        lowest = log_mel.config.sample_rate / log_mel.config.n_fft
        hiss = np.fft.irfft(spectrum * np.maximum(frequency, lowest) ** (-colour / 2), len(wave)).astype(np.float32)
        noisy.append(wave + hiss * _rms(wave, log_mel) / _rms(hiss, log_mel) * np.float32(10 ** (-snr_db / 20)))
    return noisy


def specaugment(waveforms: Waveforms, drawn: Draws, log_mel: LogMel) -> Waveforms:
    """Puts noise of the recording's mean spectrum in place of stretches of time, then of bands of frequency."""
    config, masked, rng = log_mel.config, [], np.random.default_rng(0)
    mel = 2595 * np.log10(1 + np.array([config.f_min, config.f_max]) / 700)
    for row, wave in enumerate(waveforms):
        hiss, wave = _like(wave, config.n_fft, rng), wave.copy()
        for first, width in zip(drawn["start"][row].tolist(), drawn["width"][row].tolist(), strict=True):
            if width:
                start = first * config.hop_length + (config.win_length - config.hop_length) // 2
                stretch = slice(start, start + width * config.hop_length)
                wave[stretch] = hiss[stretch]
        spectrum, other = np.fft.rfft(wave), np.fft.rfft(hiss)
        frequency = np.fft.rfftfreq(len(wave), 1 / config.sample_rate)
        for low, height in zip(drawn["low"][row].tolist(), drawn["height"][row].tolist(), strict=True):
            if height:  # bin m peaks at edge m + 1 of n_mels + 2
                edges = mel[0] + (np.array([low, low + height]) + 0.5) * (mel[1] - mel[0]) / (config.n_mels + 1)
                start, stop = 700 * (10 ** (edges / 2595) - 1)
                band = (frequency >= start) & (frequency < stop)
                spectrum[band] = other[band]
        masked.append(np.fft.irfft(spectrum, len(wave)).astype(np.float32))
    return masked


def mixup(waveforms: Waveforms, drawn: Draws, log_mel: LogMel) -> Waveforms:
    """Adds the other recording, brought to the level of the first, as far as both last."""
    mixed = []
    for wave, other, share in zip(waveforms, drawn["other"].tolist(), drawn["share"].tolist(), strict=True):
        second = waveforms[other]
        both, n_samples = np.float32(share) * wave, min(len(wave), len(second))
        level = _rms(wave, log_mel) / _rms(second, log_mel)
        both[:n_samples] += np.float32((1 - share) * level) * second[:n_samples]
        mixed.append(both)
    return mixed


RECORDINGS: dict[str, Callable[[Waveforms, Draws, LogMel], Waveforms]] = {
    function.__name__: function for function in (shift, crop, speed, gain, noise, specaugment, mixup)
}


def _rms(waveform: np.ndarray, log_mel: LogMel) -> np.float32:
    """Returns a level: the root mean square of the mel bins."""
    return np.float32(np.sqrt(np.mean(np.exp(2 * log_mel(waveform).astype(np.float64)))))


def _like(waveform: np.ndarray, n_fft: int, rng: np.random.Generator) -> np.ndarray:
    """Returns Gaussian noise with the recording's mean log spectrum, float32 (n_samples,)."""

    def log_spectrum(samples: np.ndarray) -> np.ndarray:
        window = torch.hann_window(n_fft, dtype=torch.float64)
        spectra = torch.stft(torch.from_numpy(samples).double(), n_fft, window=window, return_complex=True)
        return spectra.abs().clamp_min(1e-10).log().mean(dim=1).numpy()  # (n_fft // 2 + 1,)

    white = rng.standard_normal(len(waveform))
    difference = log_spectrum(waveform) - log_spectrum(white)
    grid = np.linspace(0, 1, len(difference))
    filtered = np.interp(np.linspace(0, 1, len(waveform) // 2 + 1), grid, difference)
    return np.fft.irfft(np.fft.rfft(white) * np.exp(filtered), len(waveform)).astype(np.float32)
