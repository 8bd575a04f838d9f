"""How much memory there is to read a cache into."""

import os
from pathlib import Path

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def default_memory() -> int:
    """Returns half of the memory that is available now, in bytes; with torchrun's other processes here, a share."""
    return available_memory() // 2 // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def available_memory(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Returns the bytes this process could take without swapping: Linux's estimate, and what its control groups leave.

    Elsewhere all the machine has. The two folders are where Linux tells, version 2 of control groups.
    """
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        available = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([available, *_left_by_groups(proc, cgroups)])


def _left_by_groups(proc: Path, cgroups: Path) -> list[int]:
    """Returns what each limited group around this process leaves; file pages that can be dropped count as free."""
    try:
        own = next(line for line in (proc / "self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    group, left = cgroups / own.removeprefix("0::").strip("/"), []
    for folder in (group, *group.parents):
        if not folder.is_relative_to(cgroups):
            break
        try:
            limit, used = ((folder / f"memory.{name}").read_text().strip() for name in ("max", "current"))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except OSError:
            continue
        if limit != "max":
            left.append(max(0, int(limit) - int(used) + int(stat["inactive_file"])))
    return left
