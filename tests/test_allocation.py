"""Memory that a process keeps between one use and the next."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from pipeline.allocation import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for megabytes in (8, 40, 100):
        torch.ones(megabytes * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "kept":
    keep_freed_memory()
print([faults() for _ in range(10)][-1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    """By default each page of a large tensor is asked of the system again, each time."""
    found = {}
    for how in ("kept", "by default"):
        answer = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        found[how] = int(answer.stdout)
    if found["by default"] < 1000:  # of the 38,000 that 148 MB are
        pytest.skip("pages are large here: torch.ones asks for few")
    assert found["kept"] < found["by default"] / 100
