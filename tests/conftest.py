"""Shared by the tests: one core, no GPU, no network, and the smallest whole path, made once a session."""

import os
import signal

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_CACHE"] = os.path.join(os.path.dirname(__file__), "no-models")  # not those that a user has
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["HIP_VISIBLE_DEVICES"] = ""  # many tests compare bits

from pathlib import Path

import pytest
import torch

from pipeline.data.manifest import Manifest
from pipeline.data.prepare import prepare
from pipeline.data.spoken.synth import SynthConfig, make_synth
from pipeline.extract.build import build_cache
from pipeline.extract.config import BuildConfig

# A shell ignores Ctrl-C for what it starts in the background, and for the processes that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # for tensors this small, threads that wait for each other cost more than the sums

TINY = SynthConfig(name="tiny", clips=(48, 24, 24), length_seconds=2.0, noise_recordings=(1, 1, 1), seed=3)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Manifest:
    """96 clips of 2 s with the twelve labels of the bundled teacher."""
    out = tmp_path_factory.mktemp("data") / "tiny"
    return prepare(out, TINY.recipe(), lambda work: make_synth(work, TINY, 2))


@pytest.fixture(scope="session")
def tiny_cache(tiny_data, tmp_path_factory) -> Path:
    """Stage one on `tiny_data` with the bundled teacher."""
    out = tmp_path_factory.mktemp("caches") / "tiny.zarr"
    build_cache(tiny_data, "bundled", out, BuildConfig())
    return out
