"""Log-mel features against their definition, written out in numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.extract.features import LogMel, LogMelConfig

CONFIG = LogMelConfig()


def log_mel_by_definition(waveform):
    """arXiv 2005.06720's front end: Hann 40 ms, hop 20 ms, |FFT 1024|, 40 triangles on the HTK mel scale, ln."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(640) / 640)
    starts = range(0, len(waveform) - 640 + 1, 320)
    spectra = np.array([np.abs(np.fft.rfft(waveform[s : s + 640] * window, 1024)) for s in starts])
    mel_20, mel_7000 = 2595 * np.log10(1 + np.array([20.0, 7000.0]) / 700)
    corners = 700 * (10 ** (np.linspace(mel_20, mel_7000, 42) / 2595) - 1)
    frequencies = np.arange(513) * 16000 / 1024
    bank = np.array(
        [np.interp(frequencies, corners[i : i + 3], [0.0, 1.0, 0.0], left=0, right=0) for i in range(40)]
    )  # (n_mels, n_bins)
    return np.log(np.maximum(bank @ spectra.T, 1e-12))


@pytest.mark.parametrize("n_samples", [640, 641, 959, 960, 16000])
def test_log_mel_is_its_definition(n_samples):
    rng = np.random.default_rng(n_samples)
    waveform = (rng.normal(0, 0.1, n_samples) + 0.3 * np.sin(0.3 * np.arange(n_samples))).astype(np.float32)
    features = LogMel(CONFIG)(waveform)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, log_mel_by_definition(waveform.astype(np.float64)), atol=2e-4)


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
