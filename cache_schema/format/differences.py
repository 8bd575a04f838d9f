"""Where two JSON objects differ."""

from collections.abc import Iterator, Mapping
from typing import Any


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Each leaf in which two JSON objects differ: its path, and both values (None where there is none)."""
    for key in {**ours, **theirs}:
        left, right = ours.get(key), theirs.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            yield from differences(left, right, f"{prefix}{key}.")
        elif left != right:
            yield f"{prefix}{key}", left, right
