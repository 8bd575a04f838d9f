"""Caches of every format version so far open for ever; tests/golden/make.py made them."""

import json
from pathlib import Path

import numpy as np
import pytest

from cache_schema import describe_cache, open_cache, validate_cache

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("suffix", [".zarr", ".h5", ".zip"])
@pytest.mark.parametrize("name", ["v1", "v1-detached"])
def test_a_golden_cache_reads_as_it_did_when_it_was_made(name, suffix):
    expected = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    cache = open_cache(GOLDEN / f"{name}{suffix}")
    assert cache.metadata == expected["metadata"]
    assert set(cache.specs) == set(expected["content"])
    for array, values in expected["content"].items():
        found = cache.read(array)
        if found.dtype.kind == "f":
            np.testing.assert_allclose(found, np.array(values), rtol=1e-6, atol=0)  # decoding ends in a division
        else:
            assert found.tolist() == values
    assert validate_cache(cache.path) == []
    assert describe_cache(cache.path)["cache_id"] == expected["metadata"]["cache_id"]
