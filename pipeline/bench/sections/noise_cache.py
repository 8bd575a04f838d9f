"""A cache of noise, of any size: what is measured on it does not depend on what its clips sound like."""

from pathlib import Path

import numpy as np

from cache_schema import Layout, create_cache, finalise, write_partition
from pipeline.extract.features import LogMel, LogMelConfig

_N_DISTINCT = 64  # clips; they recur, once in each chunk, which are compressed one by one


def make_cache(path: Path, n_train: int, n_heldout: int, partition_size: int, seconds: int = 8) -> Path:
    """Writes a cache of clips with real log-mels of bursts in noise; `n_heldout` clips each in the other splits."""
    rng, n, n_samples = np.random.default_rng(0), n_train + 2 * n_heldout, 16000 * seconds
    log_mel, config = LogMel(LogMelConfig()), LogMelConfig()
    n_frames = config.n_frames(n_samples)  # of the teacher, too
    layout = Layout(n, n_frames, n_frames, 40, 12, 4, 4, "single_label", partition_size=partition_size)
    time_ = np.linspace(-1, 1, n_samples)
    envelopes = [0.01 + 0.3 * np.exp(-((time_ - centre) ** 2) / 0.01) for centre in rng.uniform(-1, 1, _N_DISTINCT)]
    features = np.stack(
        [log_mel((envelope * rng.standard_normal(n_samples)).astype(np.float32)) for envelope in envelopes]
    )
    weights = rng.dirichlet(np.full(n_frames, 0.3), _N_DISTINCT).astype(np.float32)
    rows = {
        "clip_id": np.array([f"{i:06d}" for i in range(n)]),
        "split": np.repeat(np.arange(3, dtype=np.uint8), [n_train, n_heldout, n_heldout]),
        "label": rng.integers(0, 12, n, dtype=np.int32),
        "n_frames": np.full(n, n_frames, np.int32),
        "n_feature_frames": np.full(n, n_frames, np.int32),
        "event_start": np.full(n, -1),
        "event_stop": np.full(n, -1),
        "view": np.zeros(n, np.uint8),
    }
    clock = {"hop_length": 320, "frame_offset": 199.5, "sample_rate": 16000}
    described = {
        "teacher": {"name": "bench", "sha256": "0" * 64, "n_layers": 4, "n_heads": 4, "score": 0.0, **clock},
        "dataset": {
            "name": "bench",
            "manifest_sha256": "0" * 64,
            "task": "single_label",
            "labels": [f"label {i}" for i in range(12)],
            "licence": "none",
            "recipe": {},
        },
        "features": config.metadata(),
        "pooling": {},
        "software": {},
    }
    create_cache(path, layout, rows, described)
    for index in range(layout.n_partitions):
        held = layout.partition_rows(index)
        chosen = np.arange(held.stop - held.start) % _N_DISTINCT
        arrays = {
            "features": features[chosen],
            "rollout": weights[chosen],
            "logits": rng.standard_normal((len(chosen), 12)).astype(np.float32),
            "audio_sha256": np.full(len(chosen), "0" * 64),
        }
        write_partition(path, index, arrays)
    finalise(path)
    return path
