"""Waiting for what another process does."""

import subprocess
import time
from collections.abc import Callable


def until(reached: Callable[[], bool], process: subprocess.Popen, seconds: float = 300) -> None:
    """Returns once `reached` is true; fails where the process ended before, or too many seconds passed."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert process.poll() is None, process.stderr.read() if process.stderr else "it ended"
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.002)
