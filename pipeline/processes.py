"""One program on several GPUs: what the processes that torchrun or accelerate started do together."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from accelerate import PartialState
from accelerate.utils import broadcast

from pipeline.errors import TkdError


def in_first_process(processes: PartialState, action: Callable[[], None]) -> None:
    """Runs `action` in the first of torchrun's processes while the others wait; where it fails, all end."""
    failure = None
    if processes.is_main_process:
        try:
            action()
        except Exception as error:
            failure = error
    failed = as_first_process(processes, failure is not None)
    if failure is not None:
        raise failure
    if failed:
        raise TkdError("the first process stopped; its message says why.")


def as_first_process(processes: PartialState, decision: bool) -> bool:
    """Returns the decision of the first of torchrun's processes in each of them, so that all go the same way."""
    return bool(broadcast(torch.tensor(int(decision), device=processes.device)).item())


@contextlib.contextmanager
def last_of_torchrun() -> Iterator[None]:
    """Leaves the process group afterwards: a process that ends with its threads running may be aborted."""
    try:
        yield
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
