"""What the machine gives a training: precision, one or several GPUs, memory and disk."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available

from pipeline.errors import TkdError
from pipeline.progress import say
from pipeline.teacher.config import TeacherConfig


def require_precision(config: TeacherConfig) -> None:
    """Checks that mixed precision, if asked for, is to be had.

    Raises:
        TkdError: it is not.
    """
    if config.float16 and not torch.accelerator.is_available():
        raise TkdError("float16: trains on a GPU, and none is here. Give --bfloat16, or neither.")
    if config.bfloat16 and torch.cuda.is_available() and not is_torch_bf16_gpu_available():
        raise TkdError("bfloat16: this GPU does not have it. Give --float16, or neither.")


def one_gpu(arguments: TrainingArguments) -> TrainingArguments:
    """Keeps the Trainer from torch's DataParallel, slower than torchrun, where a process sees several GPUs."""
    if arguments.n_gpu > 1:
        say(
            f"One of {arguments.n_gpu} GPUs is used. For all: "
            f"torchrun --nproc_per_node {arguments.n_gpu} -m pipeline.cli.main teacher train ..."
        )
        arguments._n_gpu = 1  # there is no public way but to hide the others
    return arguments


@contextlib.contextmanager
def named_failures(folder: Path) -> Iterator[None]:
    """A full GPU gets its way out; a full disk, which safetensors and torch report each its way, is an OSError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TkdError(
            "the GPU's memory is full. Halve --batch-size and double --gradient-accumulation-steps, or add "
            "--gradient-checkpointing and --bfloat16 or --float16 (docs/teachers.md)."
        ) from error
    except (SafetensorError, RuntimeError) as error:
        full = os.strerror(errno.ENOSPC)  # safetensors says it, and may leave megabytes free
        if full in str(error) or shutil.disk_usage(folder).free < 2**20:
            raise OSError(errno.ENOSPC, full, str(folder)) from error
        raise
