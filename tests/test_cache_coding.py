"""Codes and digests keep their promises for any content."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cache_schema import CacheError
from cache_schema.format.coding import LOG_UINT8, decode_log_uint8, encode_log_uint8
from cache_schema.format.digest import array_digest, cache_id, canonical_json, partition_digest

WEIGHTS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=9), elements=st.floats(0, 1, width=32)
)
TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=5)


@given(WEIGHTS, st.data())
@settings(max_examples=60, deadline=None)
def test_valid_weights_decode_to_positive_sum_one_and_the_rest_to_zero(weights, data):
    n_valid = data.draw(st.integers(1, weights.shape[-1]))
    valid = np.arange(weights.shape[-1]) < n_valid
    codes = encode_log_uint8(weights, valid)
    decoded = decode_log_uint8(codes, LOG_UINT8)
    assert codes.dtype == np.uint8 and decoded.dtype == np.float32 and decoded.shape == weights.shape
    assert ((codes == 0) == ~valid).all() and ((decoded > 0) == valid).all()
    np.testing.assert_allclose(decoded.sum(-1), 1, atol=1e-5)


@given(hnp.arrays(np.uint8, st.integers(1, 50)))
@settings(max_examples=60, deadline=None)
def test_coding_what_was_decoded_changes_no_ratio_by_more_than_a_step(codes):
    weights = decode_log_uint8(codes)
    again = decode_log_uint8(encode_log_uint8(weights, codes > 0))
    seen = weights > 2e-6
    np.testing.assert_allclose(again[seen], weights[seen], rtol=0.06)


@pytest.mark.parametrize("sharpness", [1, 2, 4, 6])
def test_mean_kl_of_peaky_attention_stays_below_1e_3(sharpness):
    logits = sharpness * np.random.default_rng(0).standard_normal((200, 16, 399))
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    decoded = decode_log_uint8(encode_log_uint8(weights, np.True_)).astype(np.float64)
    kl = (weights * np.log(weights / decoded)).sum(-1)
    assert kl.mean() < 1e-3 and kl.max() < 1e-3


def test_a_hand_worked_code():
    """Two codes 127 apart are half of the six decades apart: a factor of 1000."""
    codes = encode_log_uint8(np.array([1.0, 1e-3, 1e-6, 0.0], np.float32), np.True_)
    assert codes.tolist() == [255, 128, 1, 1]
    decoded = decode_log_uint8(codes)
    assert decoded[0] / decoded[1] == pytest.approx(1000, rel=1e-4)


def test_an_unknown_coding_is_named():
    with pytest.raises(CacheError, match=r"unknown coding 'codebook'; known: log_uint8. Update tkd."):
        decode_log_uint8(np.zeros(3, np.uint8), {"name": "codebook"})


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
    others += [array_digest("a", values, LOG_UINT8), array_digest("a", values.view(f"V{values.itemsize}"))]
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
