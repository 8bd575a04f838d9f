"""Pooling a teacher's attention to one weight per frame while its forward pass runs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import TkdError
from pipeline.teacher.model import FAMILY, Teacher


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

    Each layer's map (batch, n_heads, T, T) is reduced as soon as it is there and then dropped; only the mean over heads
    (batch, T, T) waits for the rollout, which starts at the top layer.

    Args:
        teacher: In eval mode.
        input_values: Normalised waveforms (batch, n_samples), zeros beyond each clip's end.
        attention_mask: (batch, n_samples), 1 = valid; None when all clips are of one length.
        bfloat16: The teacher runs in mixed precision. Pooling is float32 in any case.

    Raises:
        TkdError: the encoder did not give an attention map for every layer.
    """
    n_samples = (
        [input_values.shape[1]] * len(input_values) if attention_mask is None else attention_mask.sum(1).tolist()
    )
    lengths = torch.tensor([teacher.n_frames(int(n)) for n in n_samples], device=input_values.device)
    valid = torch.arange(teacher.n_frames(input_values.shape[1]), device=lengths.device) < lengths[:, None]
    head_weights: list[Tensor] = []
    head_means: list[Tensor] = []

    def reduce(_module, _inputs, output) -> None:
        attention = output[1]
        if attention is not None:
            with torch.autocast(attention.device.type, enabled=False):
                attention = attention.float()
                head_weights.append(received_attention(attention, valid))
                head_means.append(attention.mean(dim=1))

    layers = teacher.encoder.encoder.layers
    teacher.encoder.set_attn_implementation("eager")  # the fused kernels return no maps
    hooks = [layer.attention.register_forward_hook(reduce) for layer in layers]
    try:
        with torch.autocast(input_values.device.type, torch.bfloat16, enabled=bfloat16):
            logits = teacher(input_values, attention_mask)["logits"]
    finally:
        for hook in hooks:
            hook.remove()
    if len(head_means) != len(layers):
        kind = teacher.encoder.config.model_type
        raise TkdError(
            f"{len(head_means)} of {len(layers)} layers of this {kind} encoder gave an attention map. "
            f"Use a teacher in eval mode, of type {', '.join(FAMILY)}."
        )
    readout = first_frame(valid) if teacher.readout == "first_token" else valid / lengths[:, None]
    return PooledAttention(logits, rollout(head_means, readout), torch.stack(head_weights, dim=1), lengths)


def received_attention(attention: Tensor, valid: Tensor) -> Tensor:
    """Returns the attention each frame receives: the mean over valid query frames, float32 (batch, n_heads, T).

    Args:
        attention: One layer's map (batch, n_heads, T_query, T_key); rows sum to 1.
        valid: (batch, T) bool. Padded keys get no attention, but padded query rows still hold distributions.
    """
    queries = valid[:, None, None, :].to(attention.dtype)  # (batch, 1, 1, T_query)
    received = (queries @ attention).squeeze(2)  # (batch, n_heads, T)
    return received / received.sum(-1, keepdim=True)  # by the number of queries, were the rows not of bfloat16


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
