"""Pooled attention against its definition, computed another way; and against maps with a planted answer."""

import functools

import numpy as np
import pytest
import torch
from test_teacher_model import FAMILY, SMALL, tiny_teacher, waveforms

from pipeline.errors import TkdError
from pipeline.extract import pooling
from pipeline.extract.attention import first_frame, pool_attention, rollout
from pipeline.extract.pooling import Pooling


def maps_by_transformers(teacher, inputs, mask=None):
    """Each layer's attention maps as transformers itself returns them, float64.

    Of WavLM it returns the mean over heads for every head; here torch is asked for the heads, and every "head" of what
    comes back holds all of them.
    """
    wavlm = teacher.encoder.config.model_type == "wavlm"
    if not wavlm:
        teacher.encoder.set_attn_implementation("eager")
    by_head = functools.partial(torch.nn.functional.multi_head_attention_forward, average_attn_weights=False)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "multi_head_attention_forward", by_head)
        out = teacher.encoder(inputs, attention_mask=mask, output_attentions=True)
    return [(layer[:, 0] if wavlm else layer).double().numpy() for layer in out.attentions]


def rollout_by_definition(maps, clip, n_frames):
    """The whole product of 0.5 mean_h(A) + 0.5 I over layers, rows normalised (arXiv 2005.00928)."""
    product = np.eye(n_frames)
    for layer in maps:
        mixed = 0.5 * layer[clip, :, :n_frames, :n_frames].mean(0) + 0.5 * np.eye(n_frames)
        product = mixed / mixed.sum(1, keepdims=True) @ product
    return product


@pytest.mark.parametrize("model_type", FAMILY)
def test_every_family_answers_for_every_layer_by_the_definition(model_type):
    teacher = tiny_teacher(model_type)
    inputs, _ = waveforms(8000, 8000)
    pooled = pool_attention(teacher, inputs)
    maps = maps_by_transformers(teacher, inputs)
    n_frames = teacher.n_frames(8000)
    assert pooled.head_weights.shape == (2, SMALL["num_hidden_layers"], SMALL["num_attention_heads"], n_frames)
    assert not np.allclose(maps[0][:, 0], maps[0][:, 1], atol=0.01), "the heads of this test are alike"
    assert np.max(maps[0]) > 3 / n_frames, "the maps of this test are uniform"
    for clip in range(2):
        np.testing.assert_allclose(pooled.rollout[clip], rollout_by_definition(maps, clip, n_frames)[0], atol=1e-6)
        for i, layer in enumerate(maps):
            np.testing.assert_allclose(pooled.head_weights[clip, i], layer[clip].mean(axis=1), atol=1e-6)
    assert pooled.lengths.tolist() == [n_frames] * 2


def test_in_a_padded_batch_only_valid_queries_count():
    teacher = tiny_teacher()
    lengths = (16000, 5000, 9001)
    inputs, mask = waveforms(*lengths)
    pooled, maps = pool_attention(teacher, inputs, mask), maps_by_transformers(teacher, inputs, mask)
    assert pooled.lengths.tolist() == [teacher.n_frames(n) for n in lengths]
    for clip, n_frames in enumerate(pooled.lengths.tolist()):
        expected = rollout_by_definition(maps, clip, n_frames)[0]
        np.testing.assert_allclose(pooled.rollout[clip, :n_frames], expected, atol=1e-6)
        for i, layer in enumerate(maps):
            np.testing.assert_allclose(pooled.head_weights[clip, i], layer[clip, :, :n_frames].mean(1), atol=1e-6)


@pytest.mark.parametrize("readout", ["first_token", "mean"])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_weights_are_distributions_over_the_valid_frames(readout, bfloat16):
    teacher = tiny_teacher(readout=readout)
    pooled = pool_attention(teacher, *waveforms(16000, 520, 9001), bfloat16=bfloat16)
    beyond = torch.arange(pooled.rollout.shape[1]) >= pooled.lengths[:, None]
    for weights in (pooled.rollout[:, None, None], pooled.head_weights):
        assert weights.dtype == torch.float32
        assert (weights >= 0).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)), atol=1e-5, rtol=0)
        assert (weights * beyond[:, None, None] == 0).all()


@pytest.mark.parametrize("readout", ["first_token", "mean"])
@pytest.mark.parametrize("model_type", ["wav2vec2", "hubert", "unispeech", "unispeech-sat"])
def test_a_padded_batch_gives_the_weights_of_one_clip_at_a_time(model_type, readout):
    teacher = tiny_teacher(model_type, readout)
    lengths = (16000, 5000, 520, 9001)
    inputs, mask = waveforms(*lengths)
    together = pool_attention(teacher, inputs, mask)
    for clip, n_samples in enumerate(lengths):
        alone = pool_attention(teacher, inputs[clip : clip + 1, :n_samples])
        n_frames = int(alone.lengths)
        torch.testing.assert_close(together.logits[clip], alone.logits[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.rollout[clip, :n_frames], alone.rollout[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(
            together.head_weights[clip, ..., :n_frames], alone.head_weights[0], atol=1e-6, rtol=0
        )


def test_the_mean_readouts_rollout_is_the_mean_of_the_rows():
    teacher = tiny_teacher(readout="mean")
    inputs, _ = waveforms(8000)
    expected = rollout_by_definition(maps_by_transformers(teacher, inputs), 0, teacher.n_frames(8000)).mean(0)
    np.testing.assert_allclose(pool_attention(teacher, inputs).rollout[0], expected, atol=1e-6)


def test_a_clip_of_one_frame_has_all_its_weight_there():
    teacher = tiny_teacher()
    pooled = pool_attention(teacher, waveforms(teacher.min_samples)[0])
    assert pooled.rollout.tolist() == [[1.0]]
    assert (pooled.head_weights == 1).all()


def test_bfloat16_stays_close_to_float32_and_pools_in_float32():
    teacher = tiny_teacher()
    inputs, mask = waveforms(16000, 9000)
    exact, mixed = pool_attention(teacher, inputs, mask), pool_attention(teacher, inputs, mask, bfloat16=True)
    assert (exact.rollout - mixed.rollout).abs().sum(1).max() < 0.05
    assert (exact.head_weights - mixed.head_weights).abs().sum(-1).max() < 0.1
    assert not torch.equal(exact.logits, mixed.logits)
    seventh_bit = mixed.head_weights.view(torch.int32) & 0xFFFF  # zero in every bfloat16 number
    assert (seventh_bit != 0).any()


def test_identity_maps_leave_everything_on_the_first_frame():
    maps = [torch.eye(7)[None].repeat(2, 1, 1) for _ in range(5)]
    row = rollout(maps, first_frame(torch.ones(2, 7, dtype=torch.bool)))
    assert row.tolist() == [[1.0, 0, 0, 0, 0, 0, 0]] * 2


def test_uniform_maps_spread_what_the_residuals_do_not_keep():
    """By hand: each layer keeps half on the spot, so 2^-3 stays on frame 0 and the rest is spread evenly."""
    row = rollout([torch.full((1, 4, 4), 0.25)] * 3, first_frame(torch.ones(1, 4, dtype=torch.bool)))
    assert row.tolist() == [[0.125 + 0.875 / 4] + [0.875 / 4] * 3]


def test_maps_that_all_look_at_one_frame_put_the_rest_there():
    looking = torch.zeros(1, 6, 6)
    looking[:, :, 4] = 1
    row = rollout([looking] * 3, first_frame(torch.ones(1, 6, dtype=torch.bool)))
    assert row.tolist() == [[0.125, 0, 0, 0, 0.875, 0]]


def test_the_top_layer_comes_first_in_the_rollout():
    """Top: everyone looks at frame 1. Bottom: frame 1 looks at frame 2. The product bottom-first would differ."""
    top, bottom = torch.zeros(1, 3, 3), torch.eye(3)[None].clone()
    top[:, :, 1] = 1
    bottom[0, 1] = torch.tensor([0.0, 0, 1])
    row = rollout([bottom, top], first_frame(torch.ones(1, 3, dtype=torch.bool)))
    assert row.tolist() == [[0.5, 0.25, 0.25]]


def test_received_attention_of_planted_maps():
    """Head 0: everyone looks at frame 2; head 1: all three valid frames are alike. The fourth frame is padding."""
    query, key = torch.ones(1, 2, 4, 1), torch.zeros(1, 2, 4, 1)
    key[0, 0, 2] = 1000
    key[:, :, 3] = 5000
    pooled = Pooling([3])
    output = pooled.attend(query, key, torch.arange(4.0).view(1, 1, 4, 1).repeat(1, 2, 1, 1), scaling=1)
    torch.testing.assert_close(pooled.received[0], torch.tensor([[[0.0, 0, 1, 0], [1 / 3, 1 / 3, 1 / 3, 0]]]))
    row = [1 / 6, 1 / 6, 4 / 6, 0]
    torch.testing.assert_close(pooled.head_means[0], torch.tensor([[row, row, row, [0] * 4]]))
    torch.testing.assert_close(output, torch.tensor([[[2.0], [1.0]]] * 3 + [[[0.0], [0.0]]])[None])


@pytest.mark.parametrize("n_bytes", [1, 2000, 8000, 40000, 1 << 20], ids=lambda n: f"{n} bytes")
@pytest.mark.parametrize("with_bias", [False, True])
def test_however_the_maps_are_cut_the_pools_are_those_of_the_whole(monkeypatch, n_bytes, with_bias):
    """Rows of one head, heads of one clip, clips: each is the piece at one of these sizes."""
    monkeypatch.setattr(pooling, "_ON_CPU", n_bytes)
    torch.manual_seed(0)
    lengths, n_heads, n_frames = [31, 31, 31, 7, 31], 6, 31
    query, key, value = (2 * torch.randn(len(lengths), n_heads, n_frames, 8) for _ in range(3))
    bias = torch.randn(len(lengths), n_heads, n_frames, n_frames) if with_bias else None
    pooled = Pooling(lengths)
    output = pooled.attend(query, key, value, 0.3, bias)
    for clip, n in enumerate(lengths):
        scores = 0.3 * torch.einsum("hqd,hkd->hqk", query[clip, :, :n], key[clip, :, :n]).double()
        attention = (scores if bias is None else scores + bias[clip, :, :n, :n]).softmax(-1).float()
        expected = torch.einsum("hqk,hkd->qhd", attention, value[clip, :, :n])
        torch.testing.assert_close(output[clip, :n], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(pooled.received[0][clip, :, :n], attention.mean(1), atol=1e-6, rtol=0)
        torch.testing.assert_close(pooled.head_means[0][clip, :n, :n], attention.mean(0), atol=1e-6, rtol=0)
        for beyond in (output[clip, n:], pooled.received[0][clip, :, n:], pooled.head_means[0][clip, n:]):
            assert (beyond == 0).all()


def test_a_layer_without_a_map_is_an_error_and_no_trace_is_left():
    teacher = tiny_teacher(layerdrop=1.0).train()  # in training mode this encoder skips every layer
    with pytest.raises(TkdError, match=r"0 of 3 layers of this wav2vec2 encoder gave an attention map"):
        pool_attention(teacher, waveforms(4000)[0])
    assert teacher.encoder.config._attn_implementation == "sdpa"
    assert not any(hasattr(layer.attention, "tkd_pooling") for layer in teacher.encoder.encoder.layers)


@pytest.mark.parametrize("model_type", FAMILY)
def test_pooling_leaves_no_trace_in_the_outputs(model_type):
    teacher = tiny_teacher(model_type)
    inputs, _ = waveforms(4000)
    before = teacher(inputs)["logits"]
    first, second = pool_attention(teacher, inputs), pool_attention(teacher, inputs)
    assert torch.equal(first.rollout, second.rollout)
    torch.testing.assert_close(first.logits, before, atol=1e-5, rtol=0)
    assert torch.equal(teacher(inputs)["logits"], before)
