"""How this process's memory is taken from the system."""

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Lets glibc keep what is freed for the next allocation; elsewhere it does nothing.

    A training step takes and frees the same hundreds of MB as the one before. By default they go back to the system
    each time, and every page that comes back is cleared first: up to a quarter of a recurrent student's step.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(_TOP_PAD, 2**26)
    libc.mallopt(_MMAP_MAX, 0)
