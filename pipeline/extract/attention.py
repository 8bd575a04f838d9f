"""Pooling a teacher's attention to one weight per frame while its forward pass runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from pipeline.arithmetic import full_float32
from pipeline.errors import TkdError
from pipeline.extract.pooling import Pooling
from pipeline.teacher.checkpoint import FAMILY
from pipeline.teacher.model import Teacher

_NAME = "tkd_pooled"  # of the attention, among transformers' implementations


@dataclass(frozen=True)
class PooledAttention:
    """What stage one keeps of a batch. Weights are float32, >= 0, sum to 1 over a clip's valid frames, 0 beyond."""

    logits: Tensor  # (batch, n_classes)
    rollout: Tensor  # (batch, T)
    head_weights: Tensor  # (batch, n_layers, n_heads, T)
    lengths: Tensor  # (batch,) int64, valid frames


@torch.inference_mode()
def pool_attention(
    teacher: Teacher, input_values: Tensor, attention_mask: Tensor | None = None, bfloat16: bool = False
) -> PooledAttention:
    """Runs the teacher and returns its logits and pooled attention.

    No map (batch, n_heads, T, T) exists as a whole; only its mean over heads (batch, T, T) waits for the rollout, which
    starts at the top layer.

    Args:
        teacher: In eval mode.
        input_values: Normalised waveforms (batch, n_samples), zeros beyond each clip's end.
        attention_mask: (batch, n_samples), 1 = valid; None when all clips are of one length.
        bfloat16: The teacher runs in mixed precision. Pooling is float32 in any case.

    Raises:
        TkdError: not every layer of the encoder answered.
    """
    full_float32()
    n_samples = (
        [input_values.shape[1]] * len(input_values) if attention_mask is None else attention_mask.sum(1).tolist()
    )
    n_frames = [teacher.n_frames(int(n)) for n in n_samples]
    lengths = torch.tensor(n_frames, device=input_values.device)
    valid = torch.arange(teacher.n_frames(input_values.shape[1]), device=lengths.device) < lengths[:, None]
    mixed_precision = torch.autocast(input_values.device.type, torch.bfloat16, enabled=bfloat16)
    with _pooling(teacher.encoder, n_frames) as pooling, mixed_precision:
        logits = teacher(input_values, attention_mask)["logits"]
    n_layers = len(teacher.encoder.encoder.layers)
    if len(pooling.head_means) != n_layers:
        kind = teacher.encoder.config.model_type
        raise TkdError(
            f"{len(pooling.head_means)} of {n_layers} layers of this {kind} encoder gave an attention map. "
            f"Use a teacher in eval mode, of type {', '.join(FAMILY)}."
        )
    readout = first_frame(valid) if teacher.readout == "first_token" else valid / lengths[:, None]
    return PooledAttention(logits, rollout(pooling.head_means, readout), torch.stack(pooling.received, dim=1), lengths)


@contextmanager
def _pooling(encoder: PreTrainedModel, lengths: list[int]) -> Iterator[Pooling]:
    """The encoder's layers pool their attention while the block runs."""
    pooling = Pooling(lengths)
    modules = [layer.attention for layer in encoder.encoder.layers]
    before = encoder.config._attn_implementation
    if encoder.config.model_type == "wavlm":
        for module in modules:
            module.torch_multi_head_self_attention = partial(_wavlm_attention, module, pooling)
    else:
        encoder.set_attn_implementation(_NAME)
        for module in modules:
            module.tkd_pooling = pooling
    try:
        yield pooling
    finally:
        for module in modules:
            vars(module).pop("torch_multi_head_self_attention", None)
            vars(module).pop("tkd_pooling", None)
        if encoder.config.model_type != "wavlm":
            encoder.set_attn_implementation(before)


def _pooled_attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask, *, scaling: float, **_):
    """transformers' attention interface: returns the output (batch, T, n_heads, head_dim), and no map."""
    return module.tkd_pooling.attend(query, key, value, scaling), None


def _wavlm_attention(module: nn.Module, pooling: Pooling, hidden: Tensor, _mask, position_bias: Tensor):
    """WavLM's attention, which stands outside that interface, and gives the mean over heads as every head's map."""
    shape = (*hidden.shape[:2], module.num_heads, module.head_dim)
    projections = (module.q_proj, module.k_proj, module.v_proj)
    query, key, value = (project(hidden).view(shape).transpose(1, 2) for project in projections)
    bias = position_bias.view(len(hidden), module.num_heads, *position_bias.shape[1:])
    output = pooling.attend(query, key, value, module.scaling, bias)
    return module.out_proj(output.flatten(2)), None


# A mask function is needed, too, though no mask is: without one transformers would make none, and say nothing.
AttentionInterface.register(_NAME, _pooled_attention)
AttentionMaskInterface.register(_NAME, lambda *_args, **_kwargs: None)


def rollout(head_means: list[Tensor], readout: Tensor) -> Tensor:
    """Returns the attention rollout row of the readout, (batch, T), sum 1.

    Abnar & Zuidema 2020 (arXiv 2005.00928), section 3: the product over layers, top first, of 0.5 A + 0.5 I with A the
    mean over heads. Only the readout's row of the product is wanted (arXiv 2110.14131, section 2), so a row vector is
    carried down through the layers: O(n_layers T^2), and no product of T x T matrices.

    Args:
        head_means: Each layer's map averaged over heads, bottom layer first, (batch, T, T).
        readout: Where the row starts, (batch, T), sum 1: the first frame, or uniform over valid frames.
    """
    row = readout.to(head_means[-1].dtype)
    for attention in reversed(head_means):
        row = 0.5 * row + 0.5 * (row[:, None] @ attention).squeeze(1)
    return row / row.sum(dim=1, keepdim=True)


def first_frame(valid: Tensor) -> Tensor:
    """Returns all weight on frame 0, float32, of the shape of `valid` (batch, T)."""
    row = torch.zeros(valid.shape, device=valid.device)
    row[:, 0] = 1
    return row
