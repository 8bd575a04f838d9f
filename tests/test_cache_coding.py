"""Codes and digests keep their promises for any content."""

import hashlib
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cache_schema import CacheError
from cache_schema.format.coding import DELTA_UINT8, code_levels, decode_weights, encode_weights
from cache_schema.format.digest import array_digest, cache_id, canonical_json, partition_digest

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=5)


@st.composite
def attention(draw):
    """Rows of weights of any sharpness over 1 to 40 valid frames and up to 3 beyond, and which frames are valid."""
    n_rows, n_valid, n_beyond = draw(st.integers(1, 4)), draw(st.integers(1, 40)), draw(st.integers(0, 3))
    logits = draw(hnp.arrays(np.float32, (n_rows, n_valid), elements=st.floats(-100, 100, width=32)))
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights = np.pad(weights / weights.sum(-1, keepdims=True), ((0, 0), (0, n_beyond)))
    return weights, np.arange(n_valid + n_beyond) < n_valid


def kl(weights, decoded):
    """KL(weights || decoded) of each row, nats; infinite where a weight decodes to 0."""
    seen = weights > 0
    ratios = np.where(seen, weights, 1).astype(np.float64) / np.where(seen, decoded, 1)
    return (weights * np.log(ratios)).sum(-1)


@given(attention())
@settings(max_examples=200, deadline=None)
def test_valid_weights_decode_to_positive_sum_one_close_to_them_and_the_rest_to_zero(given_):
    weights, valid = given_
    codes = encode_weights(weights, valid)
    decoded = decode_weights(codes)
    assert codes.dtype == np.uint8 and decoded.dtype == np.float32 and decoded.shape == weights.shape
    assert ((code_levels(codes) > 0) == valid).all() and ((decoded > 0) == valid).all()
    np.testing.assert_allclose(decoded.sum(-1), 1, atol=1e-5)
    assert kl(weights, decoded).max() < 5e-3  # the worst a row can be: every weight at the edge of its level


@given(attention())
@settings(max_examples=60, deadline=None)
def test_the_attribute_alone_says_how_to_decode(given_):
    weights, valid = given_
    codes = encode_weights(weights, valid)
    step = json.loads(json.dumps(DELTA_UINT8))["step"]
    for row, decoded in zip(codes, decode_weights(codes), strict=True):
        level, expected = 0, []
        for code in row.tolist():
            level = (level + code) % 256
            expected.append(0 if level == 0 else math.expm1(step * (level - 0.5)) ** 2)
        np.testing.assert_allclose(decoded, np.array(expected) / sum(expected), rtol=1e-5)


@given(attention())
@settings(max_examples=60, deadline=None)
def test_levels_are_those_of_the_formula_but_where_a_weight_lies_on_an_edge(given_):
    weights, valid = given_
    relative = weights.astype(np.float64) * valid.sum()
    exact = np.log1p(np.sqrt(relative) / 2) / DELTA_UINT8["step"]
    off = code_levels(encode_weights(weights, valid)) - np.where(valid, np.floor(exact) + 1, 0)
    assert (np.abs(exact - np.rint(exact))[off != 0] < 1e-4).all()


@pytest.mark.parametrize("n_frames", [99, 399, 1499])
@pytest.mark.parametrize("sharpness", [0.3, 1, 2, 4, 6, 8])
def test_mean_kl_stays_below_1e_3(sharpness, n_frames):
    logits = sharpness * np.random.default_rng(0).standard_normal((400, n_frames))
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    divergence = kl(weights, decode_weights(encode_weights(weights, np.ones(n_frames, bool))))
    assert divergence.mean() < 1e-3 and divergence.max() < 1.5e-3


@pytest.mark.parametrize("n_frames", [1, 2, 199, 1499])
def test_even_weights_come_back_exactly_and_a_single_peak_keeps_its_weight(n_frames):
    valid = np.ones(n_frames, bool)
    even, peak = np.full((1, n_frames), 1 / n_frames), np.eye(n_frames)[-1:]
    np.testing.assert_allclose(decode_weights(encode_weights(even, valid)), even, rtol=1e-6)
    assert decode_weights(encode_weights(peak, valid))[0, -1] > 1 - 1e-3


def test_hand_worked_codes():
    """Four frames: a peak is 4 times even weights, ln(1 + 2 / 2) / 0.025 = 27.7; even ones: ln(1.5) / 0.025 = 16.2."""
    weights = np.array([[1, 0, -0.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25, 0, 0]], np.float32)
    codes = encode_weights(weights, np.arange(6) < 4)
    assert codes.tolist() == [[28, 256 - 27, 0, 0, 256 - 1, 0], [17, 0, 0, 0, 256 - 17, 0]]


def test_equal_weights_make_equal_codes_on_every_machine():
    """The codes had this digest on the first machine; the weights are integers divided once."""
    numbers = (np.arange(64 * 199) * 2654435761 % 2**32 >> 20).reshape(64, 199) ** 4
    weights = (numbers / numbers.sum(-1, keepdims=True)).astype(np.float32)
    codes = encode_weights(weights, np.ones(199, bool))
    assert (
        hashlib.sha256(codes.tobytes()).hexdigest()
        == "4e0e9b795c1d4920c73d3a7a08bab299229f321d8935e3a2b23ecb3b36db0349"
    )


def test_an_unknown_coding_is_named():
    with pytest.raises(CacheError, match=r"unknown coding 'codebook'; known: delta_uint8. Update tkd."):
        decode_weights(np.zeros(3, np.uint8), {"name": "codebook"})


@given(hnp.arrays(st.sampled_from([np.uint8, np.int32, np.int64, np.float16]), hnp.array_shapes(max_side=4)), st.data())
@settings(max_examples=60, deadline=None)
def test_any_flipped_bit_dtype_shape_or_name_changes_the_digest(values, data):
    digest = array_digest("a", values)
    assert (
        digest
        == array_digest("a", np.asfortranarray(values))
        == array_digest("a", values.astype(values.dtype.newbyteorder()))
    )
    raw = bytearray(np.ascontiguousarray(values).tobytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    flipped = np.frombuffer(bytes(raw), values.dtype).reshape(values.shape)
    others = [array_digest("a", flipped), array_digest("b", values), array_digest("a", values[None])]
    others += [array_digest("a", values, DELTA_UINT8), array_digest("a", values.view(f"V{values.itemsize}"))]
    assert len({digest, *others}) == 6


@given(TEXTS, TEXTS)
@settings(max_examples=100, deadline=None)
def test_string_digests_are_equal_exactly_for_equal_strings(a, b):
    first, second = (array_digest("s", np.array(texts, np.dtypes.StringDType())) for texts in (a, b))
    assert (first == second) == (a == b)


def test_digests_of_known_content():
    header = b'{"coding":null,"dtype":"int32","name":"label","shape":[2]}\n'
    assert array_digest("label", np.array([1, -1], np.int32)) == (
        hashlib.sha256(header + b"\x01\x00\x00\x00\xff\xff\xff\xff").hexdigest()
    )
    assert partition_digest({"b": "22", "a": "11"}) == hashlib.sha256(b"11  a\n22  b\n").hexdigest()
    content = {"teacher": {"name": "é"}, "complete": True, "software": {"numpy": "2"}, "cache_id": "x"}
    assert cache_id(["11", "22"], content) == hashlib.sha256('11\n22\n{"teacher":{"name":"é"}}'.encode()).hexdigest()


def test_canonical_json_has_one_spelling():
    assert canonical_json({"b": [1, 0.1], "a": "é"}) == '{"a":"é","b":[1,0.1]}'.encode()
    with pytest.raises(ValueError, match=r"not JSON compliant"):
        canonical_json(float("nan"))
