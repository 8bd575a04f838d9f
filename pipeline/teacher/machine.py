"""What the machine gives a training: precision, one or several GPUs, memory and disk."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast
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


def in_first_process(processes: PartialState, action: Callable[[], None]) -> None:
    """Runs `action` in the first of torchrun's processes while the others wait; where it fails, all end."""
    failure = None
    if processes.is_main_process:
        try:
            action()
        except Exception as error:
            failure = error
    failed = broadcast(torch.tensor(int(failure is not None), device=processes.device))
    if failure is not None:
        raise failure
    if failed.item():
        raise TkdError("the first process stopped; its message says why.")


@contextlib.contextmanager
def last_of_torchrun() -> Iterator[None]:
    """Leaves the process group afterwards: a process that ends with its threads running may be aborted."""
    try:
        yield
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


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
