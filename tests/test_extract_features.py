"""Log-mel features and coefficients against their definition, written out in numpy, and against librosa."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.extract.features import LogMel, LogMelConfig
from students import Mfcc

CONFIG = LogMelConfig()
CONFIG_2021 = LogMelConfig(win_length=480, hop_length=160, n_fft=512, n_mels=80, f_max=7600.0)  # 30 / 10 ms

# Of `chirp_in_noise()`, by librosa 0.11.0: rows 0, n_mels / 4, n_mels / 2, last; frames first, middle, last.
# S = melspectrogram(y=np.pad(waveform, (n_fft - win_length) // 2), sr=16000, n_fft, win_length, hop_length, n_mels,
#     fmin=f_min, fmax=f_max, window="hann", center=False, power=1.0, htk=True, norm=None)
# log_mel = np.log(np.maximum(S, 1e-12)); mfcc(S=log_mel, n_mfcc, dct_type=2, norm=None) / np.sqrt(2 * n_mels):
# coefficients 0, 1 and the last.
LIBROSA = [
    (
        CONFIG,
        [
            [1.0764, 0.7268, 0.8221],
            [0.7890, 1.1673, 0.7623],
            [1.9448, 2.0394, 5.0943],
            [3.0540, 3.0914, 2.9414],
        ],
        20,
        [[19.5459, 17.9981, 18.4177], [-2.1813, -3.8041, -4.4233], [0.6816, -0.8666, 0.7694]],
    ),
    (
        CONFIG_2021,
        [
            [-0.7201, -1.5250, -0.5822],
            [-0.8181, 0.2448, -0.5161],
            [0.7233, 0.2467, 3.8656],
            [1.9411, 0.8522, 1.8815],
        ],
        40,
        [[8.7122, 4.1655, 7.1606], [-3.6033, -6.1019, -6.5174], [0.0559, -0.3521, 0.2295]],
    ),
]


def chirp_in_noise():
    """Half a second: a rising tone, and noise by arithmetic, the same for ever."""
    t = np.arange(8000)
    noise = (t * t * 7919) % 1009 / 504.5 - 1
    return (0.3 * np.sin(2 * np.pi * (200 + 0.1 * t) * t / 16000) + 0.1 * noise).astype(np.float32)


@pytest.mark.parametrize(("config", "log_mel", "n_mfcc", "mfcc"), LIBROSA, ids=["40/20 ms", "30/10 ms"])
def test_features_and_coefficients_are_librosas(config, log_mel, n_mfcc, mfcc):
    found = LogMel(config)(chirp_in_noise())
    frames = [0, found.shape[1] // 2, -1]
    rows = [0, config.n_mels // 4, config.n_mels // 2, -1]
    np.testing.assert_allclose(found[rows][:, frames], log_mel, atol=1e-4)
    coefficients = Mfcc(config.n_mels, n_mfcc)(torch.from_numpy(found)[None])[0].numpy()
    np.testing.assert_allclose(coefficients[[0, 1, -1]][:, frames], mfcc, atol=1e-4)


def log_mel_by_definition(waveform, config):
    """arXiv 2005.06720's front end: periodic Hann window, |FFT|, triangles on the HTK mel scale, natural logarithm."""
    n, hop, n_mels = config.win_length, config.hop_length, config.n_mels
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
    starts = range(0, len(waveform) - n + 1, hop)
    spectra = np.array([np.abs(np.fft.rfft(waveform[s : s + n] * window, config.n_fft)) for s in starts])
    mel_low, mel_high = 2595 * np.log10(1 + np.array([config.f_min, config.f_max]) / 700)
    corners = 700 * (10 ** (np.linspace(mel_low, mel_high, n_mels + 2) / 2595) - 1)
    frequencies = np.arange(config.n_fft // 2 + 1) * 16000 / config.n_fft
    bank = np.array(
        [np.interp(frequencies, corners[i : i + 3], [0.0, 1.0, 0.0], left=0, right=0) for i in range(n_mels)]
    )  # (n_mels, n_bins)
    return np.log(np.maximum(bank @ spectra.T, 1e-12))


@pytest.mark.parametrize("config", [CONFIG, CONFIG_2021], ids=["40/20 ms", "30/10 ms"])
@pytest.mark.parametrize("n_samples", [640, 641, 959, 960, 16000])
def test_log_mel_is_its_definition(n_samples, config):
    rng = np.random.default_rng(n_samples)
    waveform = (rng.normal(0, 0.1, n_samples) + 0.3 * np.sin(0.3 * np.arange(n_samples))).astype(np.float32)
    features = LogMel(config)(waveform)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, log_mel_by_definition(waveform.astype(np.float64), config), atol=2e-4)


def test_the_settings_are_the_published_ones():
    """40 ms windows every 20 ms, FFT of the next power of two, 40 bins from 20 to 7000 Hz (the 2020 experiments)."""
    assert (CONFIG.win_length, CONFIG.hop_length, CONFIG.n_fft) == (640, 320, 1024)
    assert (CONFIG.n_mels, CONFIG.f_min, CONFIG.f_max, CONFIG.floor) == (40, 20.0, 7000.0, 1e-12)
    assert CONFIG_2021.n_frames(16000) == 98


@given(n_samples=st.integers(640, 9000))
@settings(max_examples=30, deadline=None)
def test_the_number_of_frames_is_stated_right(n_samples):
    assert LogMel(CONFIG)(np.zeros(n_samples, np.float32)).shape == (40, CONFIG.n_frames(n_samples))


def test_one_second_has_49_frames_and_silence_lies_on_the_floor():
    silence = LogMel(CONFIG)(np.zeros(16000, np.float32))
    assert silence.shape == (40, 49)
    np.testing.assert_allclose(silence, np.log(1e-12), rtol=1e-6)
    assert [CONFIG.n_frames(n) for n in (640, 959, 960, 16000, 64000)] == [1, 1, 2, 49, 199]


@pytest.mark.parametrize("sample", [320, 1600, 5000])
def test_frame_t_hears_the_640_samples_from_320_t(sample):
    waveform = np.zeros(8000, np.float32)
    waveform[sample] = 1
    loud = np.flatnonzero((LogMel(CONFIG)(waveform) > np.log(1e-11)).any(axis=0))
    # sample 0 of a periodic Hann window is 0, so a frame hears an impulse strictly after its first sample
    assert list(loud) == [t for t in range(24) if 320 * t < sample < 320 * t + 640]


def test_metadata_tells_the_centre_of_frame_0():
    metadata = CONFIG.metadata()
    assert metadata["frame_offset"] == 319.5
    assert (metadata["sample_rate"], metadata["hop_length"], metadata["n_mels"]) == (16000, 320, 40)
