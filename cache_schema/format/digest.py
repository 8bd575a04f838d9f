"""Digests of a cache's content, defined byte by byte in FORMAT.md: the same for every container and compression."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from cache_schema.format.schema import UNIDENTIFYING_KEYS


def canonical_json(value: Any) -> bytes:
    """UTF-8 of the value's JSON: keys sorted, no spaces, numbers as Python's json module writes them.

    Raises:
        TypeError, ValueError: the value holds something JSON has no word for (NaN, an array, a lone surrogate).
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def array_digest(name: str, values: np.ndarray, coding: Mapping[str, Any] | None = None) -> str:
    """SHA-256, as hex, of stored values with their name, dtype, shape and coding.

    Args:
        name: the array's name.
        values: stored values, any shape; numpy numbers or numpy's StringDType.
        coding: the array's `coding` attribute, so that nobody can reinterpret the codes.
    """
    is_string = isinstance(values.dtype, np.dtypes.StringDType)
    header = {
        "coding": coding,
        "dtype": "string" if is_string else values.dtype.name,
        "name": name,
        "shape": list(values.shape),
    }
    digest = hashlib.sha256(canonical_json(header) + b"\n")
    if is_string:
        for text in values.ravel():
            encoded = text.encode()
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
    else:
        # reshape(-1): a memoryview of a zero-sized or many-dimensional array cannot always be hashed directly
        digest.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def audio_sha256(pcm: np.ndarray) -> str:
    """What a cache knows the audio of a clip by: the SHA-256 of its PCM, int16 (n_samples,)."""
    return hashlib.sha256(pcm.astype("<i2").tobytes()).hexdigest()


def partition_digest(array_digests: Mapping[str, str]) -> str:
    """SHA-256, as hex, of the partition's array digests in the order of their names."""
    lines = (f"{array_digests[name]}  {name}\n" for name in sorted(array_digests))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def cache_id(partition_digests: Iterable[str], metadata: Mapping[str, Any]) -> str:
    """SHA-256, as hex, of the partition digests in order and of the provenance: equal inputs, equal id.

    Args:
        partition_digests: one per partition.
        metadata: the `tkd_cache` attribute, finished or not.

    Raises:
        TypeError, ValueError: the metadata are not JSON.
    """
    provenance = {key: value for key, value in metadata.items() if key not in UNIDENTIFYING_KEYS}
    lines = "".join(f"{digest}\n" for digest in partition_digests)
    return hashlib.sha256(lines.encode() + canonical_json(provenance)).hexdigest()
