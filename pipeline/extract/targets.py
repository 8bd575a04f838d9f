"""What the teacher says about clips, and what students hear of them: the content of a partition."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.data.audio import render_clip, to_waveform
from pipeline.data.manifest import Clip
from pipeline.extract.attention import pool_attention
from pipeline.extract.plan import Plan
from pipeline.progress import Progress
from pipeline.teacher.clips import collate
from pipeline.teacher.model import Teacher, best_device


def run_teacher(plan: Plan, clips: Sequence[Clip], progress: Progress | None = None) -> dict[str, np.ndarray]:
    """Returns every per-partition array of `clips`, float32, padded with zeros to the layout's lengths.

    Raises:
        TkdError: a clip cannot be read.
    """
    layout, config = plan.outline.layout, plan.config
    teacher, device = plan.teacher.to(best_device()), best_device()
    arrays = {
        "rollout": np.zeros((len(clips), layout.n_frames), np.float32),
        "logits": np.zeros((len(clips), layout.n_classes), np.float32),
        "audio_sha256": np.empty(len(clips), np.dtypes.StringDType()),
    }
    if layout.with_features:
        arrays["features"] = np.zeros((len(clips), layout.n_features, layout.n_feature_frames), np.float32)
    heads = np.zeros((len(clips), layout.n_layers, layout.n_heads, layout.n_frames), np.float32)
    for batch in _batches(clips, teacher, config.batch_size):
        pcm = [render_clip(plan.manifest.audio_root, clips[row]) for row in batch]
        waveforms = [to_waveform(samples) for samples in pcm]
        for row, samples, waveform in zip(batch, pcm, waveforms, strict=True):
            arrays["audio_sha256"][row] = audio_sha256(samples)
            if layout.with_features:
                features = plan.log_mel(waveform)
                arrays["features"][row, :, : features.shape[1]] = features
        inputs = collate([{"waveform": waveform, "label": 0} for waveform in waveforms])
        mask = inputs.get("attention_mask")
        mask = None if mask is None else mask.to(device)
        pooled = pool_attention(teacher, inputs["input_values"].to(device), mask, config.bfloat16)
        n_frames = pooled.rollout.shape[1]
        arrays["rollout"][batch, :n_frames] = pooled.rollout.cpu()
        arrays["logits"][batch] = pooled.logits.cpu()
        heads[batch, ..., :n_frames] = pooled.head_weights.cpu()
        if progress is not None:
            progress.advance(len(batch))
    if layout.keep == "heads":
        arrays["head_weights"] = heads
    elif layout.keep == "layers":
        arrays["layer_weights"] = heads.mean(axis=2)
    return arrays


def audio_sha256(pcm: np.ndarray) -> str:
    """Returns the digest of a clip's PCM, int16 (n_samples,): what the cache knows its audio by."""
    return hashlib.sha256(pcm.astype("<i2").tobytes()).hexdigest()


def _batches(clips: Sequence[Clip], teacher: Teacher, batch_size: int) -> Iterator[list[int]]:
    """Yields rows of clips of like length; of equal length where the encoder normalises over time.

    With feat_extract_norm "group" (wav2vec 2.0 BASE) padding changes the outputs, and no mask mends it. So it does in
    data2vec-audio, which has no such setting: its several positional convolutions see what the first made of padding.
    """
    equal = getattr(teacher.encoder.config, "feat_extract_norm", "group") == "group"
    batch: list[int] = []
    for row in sorted(range(len(clips)), key=lambda row: clips[row].n_samples):
        if batch and (len(batch) == batch_size or (equal and clips[row].n_samples != clips[batch[0]].n_samples)):
            yield batch
            batch = []
        batch.append(row)
    yield batch
