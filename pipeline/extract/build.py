"""Building a cache: create it, write its partitions, finalise it. Run again, it goes on where it stopped."""

import hashlib
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cache_schema import Layout, create_cache, finalise, pending_partitions, write_partition
from pipeline.data.audio import render_clip, to_waveform
from pipeline.data.manifest import SPLITS, Clip, Manifest
from pipeline.errors import TkdError
from pipeline.extract.attention import pool_attention
from pipeline.extract.config import BuildConfig
from pipeline.extract.features import LogMel, LogMelConfig
from pipeline.lock import only_one
from pipeline.progress import Progress
from pipeline.teacher.clips import collate
from pipeline.teacher.model import Teacher, TeacherInfo, best_device, load_teacher, require_labels, require_lengths


def build_cache(manifest: Manifest, teacher_name: str, out: Path, config: BuildConfig, force: bool = False) -> str:
    """Runs the teacher over every clip of the manifest, writes the cache `out` and returns its cache_id.

    Raises:
        TkdError: teacher and dataset do not fit, or a clip cannot be read or is too short.
        CacheError: `out` is there already, or an unfinished cache of something else is.
    """
    if out.suffix != ".zarr":
        raise TkdError(f"{out}: the name of a cache ends in .zarr. Give such an --out.")
    teacher, info, weights_sha256 = load_teacher(teacher_name)
    require_labels(info, manifest, teacher_name)
    log_mel = LogMel(LogMelConfig())
    require_lengths(manifest, max(teacher.min_samples, log_mel.config.win_length))
    layout = _layout(manifest, teacher, log_mel.config, config)
    metadata = _metadata(manifest, teacher, info, weights_sha256, log_mel.config, config)
    with only_one(out):
        create_cache(out, layout, _rows(manifest, teacher, log_mel.config), metadata, force)
        _fill(manifest, teacher, out, layout, log_mel, config)
        return finalise(out)


def _fill(
    manifest: Manifest, teacher: Teacher, out: Path, layout: Layout, log_mel: LogMel, config: BuildConfig
) -> None:
    """Writes the partitions that are still missing."""
    teacher.to(best_device())
    pending = pending_partitions(out)
    with Progress("running the teacher", len(manifest.clips), "clips") as progress:
        progress.advance(len(manifest.clips) - sum(len(manifest.clips[layout.partition_rows(i)]) for i in pending))
        for index in pending:
            clips = manifest.clips[layout.partition_rows(index)]
            write_partition(out, index, _run(manifest, clips, teacher, layout, log_mel, config, progress))


def _run(
    manifest: Manifest,
    clips: tuple[Clip, ...],
    teacher: Teacher,
    layout: Layout,
    log_mel: LogMel,
    config: BuildConfig,
    progress: Progress,
) -> dict[str, np.ndarray]:
    """Returns every per-partition array of `clips`, float32, padded with zeros to the layout's lengths."""
    device = next(teacher.parameters()).device
    arrays = {
        "rollout": np.zeros((len(clips), layout.n_frames), np.float32),
        "logits": np.zeros((len(clips), layout.n_classes), np.float32),
        "features": np.zeros((len(clips), layout.n_features, layout.n_feature_frames), np.float32),
        "audio_sha256": np.empty(len(clips), np.dtypes.StringDType()),
    }
    heads = np.zeros((len(clips), layout.n_layers, layout.n_heads, layout.n_frames), np.float32)
    for batch in _batches(clips, teacher, config.batch_size):
        pcm = [render_clip(manifest.audio_root, clips[row]) for row in batch]
        waveforms = [to_waveform(samples) for samples in pcm]
        for row, samples, waveform in zip(batch, pcm, waveforms, strict=True):
            features = log_mel(waveform)
            arrays["features"][row, :, : features.shape[1]] = features
            arrays["audio_sha256"][row] = hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()
        inputs = collate([{"waveform": waveform, "label": 0} for waveform in waveforms])
        mask = inputs.get("attention_mask")
        mask = None if mask is None else mask.to(device)
        pooled = pool_attention(teacher, inputs["input_values"].to(device), mask, config.bfloat16)
        n_frames = pooled.rollout.shape[1]
        arrays["rollout"][batch, :n_frames] = pooled.rollout.cpu()
        arrays["logits"][batch] = pooled.logits.cpu()
        heads[batch, ..., :n_frames] = pooled.head_weights.cpu()
        progress.advance(len(batch))
    if config.keep == "heads":
        arrays["head_weights"] = heads
    elif config.keep == "layers":
        arrays["layer_weights"] = heads.mean(axis=2)
    return arrays


def _batches(clips: tuple[Clip, ...], teacher: Teacher, batch_size: int) -> Iterator[list[int]]:
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


def _layout(manifest: Manifest, teacher: Teacher, features: LogMelConfig, config: BuildConfig) -> Layout:
    longest = max(clip.n_samples for clip in manifest.clips)
    return Layout(
        n_clips=len(manifest.clips),
        n_frames=teacher.n_frames(longest),
        n_feature_frames=features.n_frames(longest),
        n_features=features.n_mels,
        n_classes=len(manifest.info.labels),
        n_layers=teacher.encoder.config.num_hidden_layers,
        n_heads=teacher.encoder.config.num_attention_heads,
        task=manifest.info.task,
        keep=config.keep,
    )


def _rows(manifest: Manifest, teacher: Teacher, features: LogMelConfig) -> dict[str, np.ndarray]:
    clips = manifest.clips
    return {
        "clip_id": np.array([clip.clip_id for clip in clips], np.dtypes.StringDType()),
        "split": np.array([SPLITS.index(clip.split) for clip in clips], np.uint8),
        "label": np.array([clip.labels[0] for clip in clips], np.int32),
        "n_frames": np.array([teacher.n_frames(clip.n_samples) for clip in clips], np.int32),
        "n_feature_frames": np.array([features.n_frames(clip.n_samples) for clip in clips], np.int32),
        "event_start": np.array([clip.event_start for clip in clips], np.int64),
        "event_stop": np.array([clip.event_stop for clip in clips], np.int64),
        "view": np.zeros(len(clips), np.uint8),
    }


def _metadata(
    manifest: Manifest,
    teacher: Teacher,
    info: TeacherInfo,
    weights_sha256: str,
    features: LogMelConfig,
    config: BuildConfig,
) -> dict:
    encoder = teacher.encoder.config
    packages = ("tkd", "torch", "torchaudio", "transformers", "zarr", "numpy")
    return {
        "teacher": {
            "name": info.base,
            "sha256": weights_sha256,
            "model_type": encoder.model_type,
            "n_parameters": sum(parameter.numel() for parameter in teacher.parameters()),
            "n_layers": encoder.num_hidden_layers,
            "n_heads": encoder.num_attention_heads,
            "hop_length": teacher.hop_length,
            "frame_offset": teacher.frame_offset,
            "sample_rate": manifest.info.sample_rate,
            "readout": info.readout,
            "score": {"metric": info.metric, "validation": info.validation, "test": info.test, "dataset": info.dataset},
        },
        "dataset": {
            "name": manifest.info.name,
            "manifest_sha256": manifest.sha256(),
            "task": manifest.info.task,
            "labels": list(manifest.info.labels),
            "licence": manifest.info.licence,
            "recipe": manifest.info.recipe,
        },
        "features": features.metadata(),
        "pooling": {
            "rollout": "0.5 A + 0.5 I per layer, A the mean over heads; row of the readout (arXiv 2005.00928)",
            "weights": "mean over valid query frames",
            "keep": config.keep,
            "arithmetic": "bfloat16" if config.bfloat16 else "float32",
        },
        "software": {package: importlib.metadata.version(package) for package in packages},
    }
