"""On what, and with what, it was measured."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

_ROOT = Path(__file__).parent.parent.parent
_SOURCES = ("cache_schema", "pipeline", "students")
_VERSIONS = ("torch", "transformers", "zarr", "numpy")


def environment() -> dict[str, str]:
    """Returns the machine, the versions and the commit, in words; with a digest of the sources.

    Results are comparable within one environment only.
    """
    versions = {name: importlib.metadata.version(name) for name in _VERSIONS}
    return {
        "processor": _processor(),
        "cores": str(n_cores()),
        "threads": f"{torch.get_num_threads()} by default",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "GPU": f"{torch.cuda.get_device_name()} (not used here)" if torch.cuda.is_available() else "none",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **versions,
        "commit": _commit(),
        "sources": _digest()[:12],
    }


def n_cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    supported = [feature for feature in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if _has(lines, feature)]
    return f"{name} ({', '.join(supported)})" if supported else name


def _has(lines: list[str], feature: str) -> bool:
    return any(line.startswith("flags") and feature in line.split() for line in lines)


def _commit() -> str:
    """Returns the commit of the sources, and whether they were changed since."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD").strip()
        changed = _git("status", "--porcelain", "--", *_SOURCES)
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not a git checkout)"
    return f"{head}, with changes" if changed else head


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=_ROOT, check=True, capture_output=True, text=True).stdout


def _digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(path for name in _SOURCES for path in (_ROOT / name).rglob("*.py")):
        digest.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
