"""Codings that store frame weights in one byte; FORMAT.md states the decoding, so do the array's attributes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cache_schema.errors import CacheError

# Mean KL(weights || decoded) is 1e-4 to 4e-4 for peaky attention of up to 399 frames (FORMAT.md has longer ones): codes
# are 5.6 % apart, so the relative error is within 2.8 %. Linear steps would turn the tails into zeros.
LOG_UINT8 = {
    "name": "log_uint8",
    "low": 1e-6,
    "high": 1.0,
    "decode": "0 if code == 0 else low * (high / low) ** ((code - 1) / 254), then divide by the sum over frame",
}


def encode_log_uint8(weights: np.ndarray, valid: np.ndarray, coding: Mapping[str, Any] = LOG_UINT8) -> np.ndarray:
    """Codes of the weights, uint8 of the same shape: 0 beyond the valid frames, 1..255 on them.

    Args:
        weights: (..., frame), floating, non-negative; a valid weight below `low` is stored as `low`, never as zero.
        valid: bool, broadcasts against `weights`.
        coding: the parameters to be stored beside the codes.
    """
    low, high = coding["low"], coding["high"]
    steps = np.clip(weights, low, high, dtype=np.float32)
    np.log(steps, out=steps)
    steps -= np.log(low)
    steps *= 254 / np.log(high / low)
    np.rint(steps, out=steps)
    codes = np.clip(steps, 0, 254).astype(np.uint8) + np.uint8(1)
    return np.where(valid, codes, np.uint8(0))


def decode_log_uint8(codes: np.ndarray, coding: Mapping[str, Any] = LOG_UINT8) -> np.ndarray:
    """Weights, float32 of the same shape: exactly 0 for code 0, sum 1 over the last axis where any code is not 0.

    Args:
        codes: (..., frame), uint8.
        coding: the parameters stored beside the codes.

    Raises:
        CacheError: the parameters are of another coding.
    """
    if coding.get("name") != LOG_UINT8["name"]:
        raise CacheError(f"unknown coding {coding.get('name')!r}; known: {LOG_UINT8['name']}. Update tkd.")
    low, high = coding["low"], coding["high"]
    table = np.zeros(256, np.float32)
    table[1:] = low * (high / low) ** (np.arange(255) / 254)
    weights = table[codes]
    total = weights.sum(axis=-1, keepdims=True)
    weights /= np.where(total > 0, total, 1)
    return weights
