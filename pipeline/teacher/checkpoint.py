"""Checkpoints in Hugging Face layout: which of them can be a teacher's encoder, and how it is fed."""

import json
import textwrap
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedConfig
from transformers.utils import FEATURE_EXTRACTOR_NAME, PROCESSOR_NAME, cached_file

from pipeline.data.clip import SAMPLE_RATE
from pipeline.errors import TkdError

FAMILY = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat")
# What reading a damaged folder raises, by its library.
DAMAGE = (SafetensorError, StrictDataclassError, OSError, ValueError, KeyError, TypeError, RuntimeError)


def check_family(name: str, config: PreTrainedConfig) -> None:
    """Checks that a configuration is of an encoder that can be a teacher's.

    Raises:
        TkdError: it is not.
    """
    if config.model_type not in FAMILY:
        raise TkdError(
            f"{name}: model type {config.model_type} cannot be a teacher; those of the wav2vec 2.0 family can: "
            f"{', '.join(FAMILY)}."
        )
    if getattr(config, "add_adapter", False):
        raise TkdError(f"{name}: has an adapter that shortens its output frames. Give an encoder without add_adapter.")


def reason(error: Exception) -> str:
    """Returns an error of another library as one short line."""
    return textwrap.shorten(str(error), 200)


def read_do_normalize(source: str) -> bool:
    """Returns whether a checkpoint wants normalised waveforms: as its preprocessor_config.json says, else True.

    Args:
        source: A folder in Hugging Face layout, or the name of a model.

    Raises:
        TkdError: it was trained on audio of another sample rate.
        OSError, ValueError: the file is damaged, or cannot be fetched.
    """
    found: dict = {}
    for name in (PROCESSOR_NAME, FEATURE_EXTRACTOR_NAME):  # the first, of newer checkpoints, holds the second's content
        file = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        if file is not None:
            read = dict(json.loads(Path(file).read_text(encoding="utf-8")))
            found |= read.get("feature_extractor", {}) if name == PROCESSOR_NAME else read
    if found.get("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
        raise TkdError(f"{source}: hears audio at {found['sampling_rate']} Hz, here all audio is at {SAMPLE_RATE} Hz.")
    return bool(found.get("do_normalize", True))
