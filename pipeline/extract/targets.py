"""What the teacher says about clips, and what students hear of them: the content of a partition."""

import copy
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from cache_schema import Layout, audio_sha256, encode_weights
from pipeline.data.audio import render_clip, to_waveform
from pipeline.data.clip import SAMPLE_RATE, Clip
from pipeline.errors import TkdError
from pipeline.extract.attention import PooledAttention, pool_attention
from pipeline.extract.overlap import Usage, ahead
from pipeline.extract.plan import Plan
from pipeline.progress import Progress
from pipeline.teacher.clips import collate
from pipeline.teacher.model import Teacher, best_device

MOST_PADDING = 0.1  # of a batch's samples
BATCHES_AHEAD = 3  # rendered before the teacher wants them, at most
MOST_LANES = 8  # forward passes of a process at once: each wants the memory of a batch
_ENCODER = threading.Lock()  # of the lanes; two sets of them would each be half as fast, and want twice the memory


@dataclass(frozen=True)
class Batch:
    """Clips rendered for the teacher and for students."""

    part: int  # what they are a batch of
    rows: list[int]  # their positions in it
    clips: list[Clip]
    input_values: Tensor  # (batch, n_samples) float32
    attention_mask: Tensor | None  # (batch, n_samples), 1 = valid; None where all are of one length
    audio_sha256: list[str]
    features: list[np.ndarray]  # (n_features, T) float32 each; empty for a detached cache


def run_teacher(plan: Plan, clips: Sequence[Clip], progress: Progress | None = None) -> dict[str, np.ndarray]:
    """Returns every per-partition array of `clips`, float32, padded with zeros to the layout's lengths.

    Raises:
        TkdError: a clip cannot be read.
    """
    layout, usage = plan.outline.layout, Usage()
    arrays = empty_arrays(layout, len(clips))
    with closing(render_ahead(plan, [(0, clips)], usage)) as batches, closing(hear(plan, batches, usage)) as heard:
        for batch, pooled in heard:
            put_away(arrays, layout, batch, pooled)
            if progress is not None:
                progress.advance(len(batch.rows))
    return arrays


def render_ahead(plan: Plan, parts: Iterable[tuple[int, Sequence[Clip]]], usage: Usage) -> Iterator[Batch]:
    """Yields the batches of one part after the other; threads render the next while one is used.

    How a part's clips are batched depends on them, the teacher and the batch size alone, not on other parts.
    """
    n_threads = max(1, n_lanes() // 4) if best_device().type == "cpu" else min(8, os.cpu_count() or 1)
    tasks = (
        (part, clips, rows)
        for part, clips in parts
        for rows in batches_of(clips, plan.teacher, plan.config.batch_size * SAMPLE_RATE)
    )
    return ahead(tasks, partial(_render, plan), n_threads, max(BATCHES_AHEAD, n_lanes(), n_threads), usage, "clips")


def n_lanes() -> int:
    """Returns how many forward passes this thread has running at once: one on an accelerator, one a core on a CPU.

    On a CPU each is done by one thread. Several at once are faster than one by several threads, which wait for each
    other in every layer; and what the teacher says does not depend on how many there are.
    """
    return min(MOST_LANES, torch.get_num_threads()) if best_device().type == "cpu" else 1


def hear(plan: Plan, batches: Iterator[Batch], usage: Usage) -> Iterator[tuple[Batch, PooledAttention]]:
    """Yields each batch with what the teacher says of it, on its device.

    Threads of a process take turns: the first batch is awaited before the turn, the others within it.
    """
    first = next(batches, None)
    if first is None:
        return
    with _ENCODER:
        device, lane = best_device(), threading.local()
        if device.type != "cpu":  # a thread has its own idea of which one is meant
            device = torch.device(device.type, torch.accelerator.current_device_index())
        teacher = plan.teacher.to(device)
        usage.n_lanes = n_lanes()

        def say_of(batch: Batch) -> tuple[Batch, PooledAttention]:
            if not hasattr(lane, "teacher"):
                lane.teacher = teacher if usage.n_lanes == 1 else _twin(teacher)
            with usage.timed("forward"):
                mask = None if batch.attention_mask is None else batch.attention_mask.to(device)
                pooled = pool_attention(lane.teacher, batch.input_values.to(device), mask, plan.config.bfloat16)
                if device.type != "cpu":
                    torch.accelerator.synchronize(device)
            return batch, pooled

        heard = ahead(chain([first], batches), say_of, usage.n_lanes, usage.n_lanes, usage, "teacher")
        with closing(heard):
            for batch, pooled in heard:
                usage.audio += sum(clip.n_samples for clip in batch.clips) / SAMPLE_RATE
                yield batch, pooled


def _twin(teacher: Teacher) -> Teacher:
    """Returns a teacher of the same weights, in the same memory, that can run beside it."""
    return copy.deepcopy(teacher, {id(parameter): parameter for parameter in teacher.parameters()})


def empty_arrays(layout: Layout, n_clips: int, stored: bool = False) -> dict[str, np.ndarray]:
    """Returns the per-partition arrays for `put_away` to fill, zeros: float32, or with `stored` as a cache has them."""
    floats, weights = (np.float16, np.uint8) if stored else (np.float32, np.float32)
    arrays = {
        "rollout": np.zeros((n_clips, layout.n_frames), floats),
        "logits": np.zeros((n_clips, layout.n_classes), floats),
        "audio_sha256": np.empty(n_clips, np.dtypes.StringDType()),
    }
    if layout.with_features:
        arrays["features"] = np.zeros((n_clips, layout.n_features, layout.n_feature_frames), floats)
    if layout.keep == "heads":
        arrays["head_weights"] = np.zeros((n_clips, layout.n_layers, layout.n_heads, layout.n_frames), weights)
    elif layout.keep == "layers":
        arrays["layer_weights"] = np.zeros((n_clips, layout.n_layers, layout.n_frames), weights)
    return arrays


def put_away(arrays: dict[str, np.ndarray], layout: Layout, batch: Batch, pooled: PooledAttention) -> None:
    """Fills a batch's rows of the arrays; weights are coded where the arrays hold codes.

    Raises:
        TkdError: weights that are no distribution; a code would hide that.
    """
    rows, n_frames = batch.rows, pooled.rollout.shape[1]
    with np.errstate(over="ignore"):  # an infinity is found, and named, when the partition is written
        arrays["rollout"][rows, :n_frames] = pooled.rollout.cpu()
        arrays["logits"][rows] = pooled.logits.cpu()
        for row, features in zip(rows, batch.features, strict=False):
            arrays["features"][row, :, : features.shape[1]] = features
    arrays["audio_sha256"][rows] = batch.audio_sha256
    if layout.keep == "rollout":
        return
    name, weights = "head_weights", pooled.head_weights  # (batch, n_layers, n_heads, T)
    if layout.keep == "layers":
        name, weights = "layer_weights", weights.mean(dim=2)  # (batch, n_layers, T)
    weights, held = weights.cpu().numpy(), arrays[name]
    if held.dtype == np.uint8:
        sums = weights.sum(axis=-1).reshape(len(rows), -1)
        wrong = ~(np.abs(sums - 1) < 1e-2).all(axis=1)  # NaN, too
        if wrong.any():
            clip = batch.clips[int(wrong.argmax())].clip_id
            raise TkdError(
                f"the teacher's attention to clip {clip} is not finite. Build without --bfloat16, or look at the "
                "teacher with tkd teacher evaluate."
            )
        n_frames = min(n_frames + 1, layout.n_frames)  # the code of the frame after a clip's last ends it
        weights = np.pad(weights, [*[(0, 0)] * (weights.ndim - 1), (0, n_frames - weights.shape[-1])])
        valid = np.arange(n_frames) < pooled.lengths.cpu().numpy().reshape(-1, *[1] * (weights.ndim - 1))
        weights = encode_weights(weights, valid)
    held[rows, ..., :n_frames] = weights


def batches_of(clips: Sequence[Clip], teacher: Teacher, n_samples: float) -> Iterator[list[int]]:
    """Yields the clips' positions, longest first: at most `n_samples` a batch with its padding, or a single clip.

    At most `MOST_PADDING` of a batch is padding, and none where padding would change what the encoder says.
    """
    most_padding = 0.0 if teacher.needs_equal_lengths else MOST_PADDING
    batch: list[int] = []
    heard = longest = 0
    for row in sorted(range(len(clips)), key=lambda row: -clips[row].n_samples):
        padded = longest * (len(batch) + 1)
        if batch and (padded > n_samples or padded - heard - clips[row].n_samples > most_padding * padded):
            yield batch
            batch, heard = [], 0
        if not batch:
            longest = clips[row].n_samples
        batch.append(row)
        heard += clips[row].n_samples
    if batch:
        yield batch


def _render(plan: Plan, task: tuple[int, Sequence[Clip], list[int]]) -> Batch:
    part, clips, rows = task
    clips = [clips[row] for row in rows]
    pcm = [render_clip(plan.manifest.audio_root, clip) for clip in clips]
    waveforms = [to_waveform(samples) for samples in pcm]
    inputs = collate([{"waveform": waveform} for waveform in waveforms], plan.teacher.do_normalize)
    return Batch(
        part,
        rows,
        clips,
        inputs["input_values"],
        inputs.get("attention_mask"),
        [audio_sha256(samples) for samples in pcm],
        [plan.log_mel(waveform) for waveform in waveforms] if plan.outline.layout.with_features else [],
    )
