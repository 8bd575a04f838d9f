"""The coding that stores frame weights in a byte each; FORMAT.md states the decoding, so do the array's attributes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cache_schema.errors import CacheError

# KL(p || q) is close to 2 * sum (sqrt p - sqrt q)^2, so levels lie even in sqrt(p) where weights are small, and widen
# towards even ratios where they are large. Errors spread evenly within the levels make the mean KL at most 1.5 * step^2
# = 0.94e-3, whatever the weights are. Differences in time are stored because a trained teacher's attention is smooth:
# small numbers are what zstd squeezes.
DELTA_UINT8 = {
    "name": "delta_uint8",
    "step": 0.025,
    "decode": "level = cumulative sum of the codes over frame, modulo 256; "
    "0 if level == 0 else expm1(step * (level - 0.5)) ** 2, then divide by the sum over frame",
}


def encode_weights(weights: np.ndarray, valid: np.ndarray, coding: Mapping[str, Any] = DELTA_UINT8) -> np.ndarray:
    """Codes of the weights, uint8 of the same shape: their levels' differences in time, modulo 256.

    Args:
        weights: (..., frame), floating, non-negative, sum 1 over the valid frames.
        valid: bool, (..., frame), broadcasts against `weights`; at least one frame of each row.
        coding: the parameters to be stored beside the codes.
    """
    n_valid = valid.sum(axis=-1, keepdims=True, dtype=np.float32)
    relative = weights.astype(np.float32) * n_valid  # 1 is what equal weights would give
    levels = np.where(valid, _quantise(relative, coding["step"]), np.uint8(0))
    return np.diff(levels, axis=-1, prepend=np.uint8(0))


def _quantise(relative: np.ndarray, step: float) -> np.ndarray:
    """Levels 1 to 255 of float32 weights that are 1 on average: floor(log1p(sqrt(relative) / 2) / step) + 1.

    Found by comparing with the levels' edges, not by that logarithm, which libraries round differently: one teacher
    output has one code on every machine. A table of 2**16 ranges of floats, 0.4 % wide, gives the level where a range
    begins; the edges are 5 % apart or more, so one comparison does the rest.
    """
    edges = np.full(256, np.inf, np.float32)  # of a level, the first value beyond it
    edges[1:255] = (2 * np.expm1(step * np.arange(1, 255))) ** 2
    starts = (np.arange(2**16, dtype=np.uint32) << 15).view(np.float32)
    level_at_start = (np.searchsorted(edges[1:255], starts, side="right") + 1).astype(np.uint8)
    levels = level_at_start[relative.view(np.uint32) >> 15 & 0xFFFF]  # without the sign, for -0.0
    levels += relative >= edges[levels]
    return levels


def code_levels(codes: np.ndarray) -> np.ndarray:
    """The levels of the weights, uint8 of the shape of the codes (..., frame): 0 beyond the valid frames only."""
    return np.cumsum(codes, axis=-1, dtype=np.uint8)


def decode_weights(codes: np.ndarray, coding: Mapping[str, Any] = DELTA_UINT8) -> np.ndarray:
    """Weights, float32 of the same shape: exactly 0 at level 0, sum 1 over the last axis where any level is not 0.

    Args:
        codes: (..., frame), uint8, of whole rows.
        coding: the parameters stored beside the codes.

    Raises:
        CacheError: the parameters are of another coding.
    """
    if coding.get("name") != DELTA_UINT8["name"]:
        raise CacheError(f"unknown coding {coding.get('name')!r}; known: {DELTA_UINT8['name']}. Update tkd.")
    table = np.zeros(256, np.float32)
    table[1:] = np.expm1(coding["step"] * (np.arange(1, 256) - 0.5)) ** 2
    weights = table.take(code_levels(codes))
    total = weights.sum(axis=-1, keepdims=True)
    weights /= np.where(total > 0, total, 1)
    return weights
