"""Small caches with known content, a pure function of the layout."""

import hashlib

import numpy as np

from cache_schema import Layout, create_cache, finalise, pending_partitions, write_partition
from cache_schema.format.schema import required_arrays


def sizes(**change) -> Layout:
    """Ten clips in three partitions."""
    small = {
        "n_clips": 10,
        "n_frames": 9,
        "n_feature_frames": 11,
        "n_features": 3,
        "n_classes": 4,
        "n_layers": 2,
        "n_heads": 3,
        "task": "single_label",
        "partition_size": 4,
    }
    return Layout(**{**small, **change})


def rows(layout: Layout) -> dict[str, np.ndarray]:
    rng, n = np.random.default_rng(1), layout.n_clips
    n_frames = rng.integers(2, layout.n_frames + 1, n, dtype=np.int32)
    n_frames[::4] = layout.n_frames - 1
    given = {
        "clip_id": np.array([f"klip-é-{i}" for i in range(n)]),
        "split": np.sort(np.minimum(np.arange(n) % 5 // 3 * (1 + np.arange(n) % 2), 2)).astype(np.uint8),
        "label": rng.integers(0, layout.n_classes, n, dtype=np.int32),
        "labels": rng.integers(0, 2, (n, layout.n_classes), dtype=np.uint8),
        "n_frames": n_frames,
        "n_feature_frames": rng.integers(1, layout.n_feature_frames + 1, n, dtype=np.int32),
        "event_start": np.where(np.arange(n) % 2, -1, 100),
        "event_stop": np.where(np.arange(n) % 2, -1, n_frames * 320),
        "view": np.zeros(n, np.uint8),
    }
    return {name: given[name] for name in required_arrays(layout, "creation")}


def content(layout: Layout) -> dict[str, np.ndarray]:
    """All rows of the per-partition arrays."""
    rng, n = np.random.default_rng(2), layout.n_clips
    valid = np.arange(layout.n_frames) < rows(layout)["n_frames"][:, None]

    def weights(*middle: int) -> np.ndarray:
        mask = valid.reshape(n, *(1 for _ in middle), layout.n_frames)
        peaks = np.exp(3 * rng.standard_normal((n, *middle, layout.n_frames))) * mask
        return (peaks / peaks.sum(-1, keepdims=True)).astype(np.float32)

    made = {
        "rollout": weights(),
        "layer_weights": weights(layout.n_layers),
        "head_weights": weights(layout.n_layers, layout.n_heads),
        "logits": rng.standard_normal((n, layout.n_classes)).astype(np.float32),
        "features": rng.standard_normal((n, layout.n_features, layout.n_feature_frames)).astype(np.float32),
        "audio_sha256": np.array([hashlib.sha256(bytes([i % 256])).hexdigest() for i in range(n)]),
    }
    return {name: made[name] for name in required_arrays(layout, "partition")}


def partition(layout: Layout, index: int) -> dict[str, np.ndarray]:
    return {name: values[layout.partition_rows(index)] for name, values in content(layout).items()}


def metadata(layout: Layout) -> dict:
    teacher = {"name": "tiny/maître", "sha256": "a" * 64, "n_layers": layout.n_layers, "n_heads": layout.n_heads}
    dataset = {"name": "synth", "manifest_sha256": "b" * 64, "task": layout.task, "licence": "CC0", "recipe": {}}
    return {
        "teacher": {**teacher, "hop_length": 320, "frame_offset": 200, "sample_rate": 16000, "score": 0.9},
        "dataset": {**dataset, "labels": [f"étiquette {i}" for i in range(layout.n_classes)]},
        "features": {"kind": "log_mel", "sample_rate": 16000, "n_fft": 512, "hop_length": 160, "f_min": 20.0},
        "pooling": {"rollout": "mean over heads, residual 0.5", "floor": 1e-8},
        "software": {"numpy": np.__version__},
    }


def build(path, layout: Layout, given: dict | None = None, order: tuple[int, ...] = (), force: bool = False):
    """The path and cache_id of a cache that is created or continued, and finalised."""
    create_cache(path, layout, rows(layout), given or metadata(layout), force)
    for index in order or pending_partitions(path):
        write_partition(path, index, partition(layout, index))
    return path, finalise(path)
