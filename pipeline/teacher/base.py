"""What a teacher begins as: a pretrained encoder, or a fresh one from its configuration."""

import contextlib
import hashlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModel

from pipeline.errors import TkdError
from pipeline.teacher.checkpoint import DAMAGE, check_family, read_do_normalize, reason
from pipeline.teacher.model import BUNDLED, Teacher

SMALL_CONFIG = Path(__file__).parent / "small.json"
XLSR = "facebook/wav2vec2-large-xlsr-53"  # the paper's
_OF_XLSR = ("speech_commands", "nscv2", "fsd50k")


def load_base(base: str, n_classes: int, readout: str, task: str = "single_label") -> Teacher:
    """Returns an untrained teacher on a pretrained encoder, or on a fresh one from its config.

    Args:
        base: "small" (the built-in configuration, from scratch), "bundled" (the built-in teacher's encoder), a
            configuration file (.json, from scratch), a local folder or a Hugging Face model name.
        n_classes: Outputs of the new linear layer.
        readout: first_token or mean.
        task: single_label or multi_label.

    Raises:
        TkdError: no such checkpoint, its weights are damaged, of another configuration or no safetensors, or it is not
            of the wav2vec 2.0 family, or of another sample rate.
    """
    path = SMALL_CONFIG if base == "small" else BUNDLED if base == "bundled" else Path(base)
    source = str(path) if path.exists() else base
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        check_family(base, config)
        if is_fresh(base):
            return Teacher(AutoModel.from_config(config, dtype=torch.float32), n_classes, readout, task)
        with _quiet_loading():
            encoder, loading = AutoModel.from_pretrained(
                source,
                config=config,
                dtype=torch.float32,
                trust_remote_code=False,
                use_safetensors=True,  # or what the hub's converter made of an older checkpoint
                ignore_mismatched_sizes=True,  # reported in `loading`, and refused below in words of ours
                output_loading_info=True,
            )
        do_normalize = read_do_normalize(source)
    except DAMAGE as error:
        if "model.safetensors" in str(error) or "pytorch_model.bin" in str(error):
            raise TkdError(
                f"{base}: has no model.safetensors, and nothing else is read: older weights are pickled. Convert it "
                "once, as docs/teachers.md says, and give the folder as --base."
            ) from error
        raise TkdError(
            f"{base}: no encoder could be loaded ({reason(error)}). "
            "Give small, bundled, a config.json, a folder in Hugging Face layout, or a model name from its hub."
        ) from error
    # Without SpecAugment in pretraining a checkpoint has no such vector, and none is needed.
    unfit = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])} - {"masked_spec_embed"}
    if unfit:
        raise TkdError(
            f"{base}: {len(unfit)} tensors that its config.json asks for are missing or of another shape, as in "
            f"{min(unfit)}. Copy it again, or give another --base."
        )
    return Teacher(encoder, n_classes, readout, task, do_normalize)


def default_base(dataset: str) -> str:
    """Returns the base for a dataset of that name: XLSR for the published ones, the built-in encoder for others."""
    return XLSR if dataset.startswith(_OF_XLSR) else "bundled"


def is_fresh(base: str) -> bool:
    """Returns whether `base` is a configuration, whose encoder begins with random weights."""
    return base == "small" or Path(base).suffix == ".json"


def weights_sha256(teacher: Teacher) -> str:
    """Returns the digest of the encoder's weights; names and values count, files and heads do not."""
    digest = hashlib.sha256()
    for name, tensor in sorted(teacher.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@contextlib.contextmanager
def _quiet_loading() -> Iterator[None]:
    """transformers' table of unused tensors is kept out of the log, and its bar off what is no terminal."""
    log = logging.getLogger("transformers.modeling_utils")
    log.disabled = True  # not its level: from WARNING up it makes the library say more
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        log.disabled = False
