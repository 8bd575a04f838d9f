"""A cache with a known answer: what the label is, and where it can be heard."""

from pathlib import Path

import cache_builder
import numpy as np

from cache_schema import Cache, Layout, create_cache, finalise, open_cache, write_partition
from pipeline.extract.features import LogMelConfig

N_CLIPS, N_FRAMES, EVENT_FRAMES = 192, 99, 20
POINTING = (1, 0)  # the layer and head that look at the event


def planted_cache(path: Path, keep: str = "rollout", task: str = "single_label") -> Cache:
    """Makes a cache whose label is a band that is loud during the event, and whose rollout looks at the event alone.

    Of the maps it keeps, 2 layers of 2 heads, `POINTING` does so, too; the others look anywhere.
    """
    rng = np.random.default_rng(0)
    layout = Layout(N_CLIPS, N_FRAMES, N_FRAMES, 40, 4, 2, 2, task, keep=keep)
    label = rng.integers(0, 4, N_CLIPS, dtype=np.int32)
    first = rng.integers(0, N_FRAMES - EVENT_FRAMES, N_CLIPS)
    frames = np.arange(N_FRAMES)
    inside = (frames >= first[:, None]) & (frames < first[:, None] + EVENT_FRAMES)
    features = rng.standard_normal((N_CLIPS, 40, N_FRAMES)).astype(np.float32)
    features += 3 * inside[:, None] * (np.arange(40) // 10 == label[:, None])[:, :, None]
    described = cache_builder.metadata(layout)
    described["features"] = LogMelConfig().metadata()
    described["teacher"] |= {"hop_length": 320, "frame_offset": 319.5, "sample_rate": 16000}
    hot = (label[:, None] == np.arange(4)).astype(np.uint8)
    known = {
        "clip_id": np.array([f"clip {i}" for i in range(N_CLIPS)]),
        "split": np.repeat(np.arange(3, dtype=np.uint8), [128, 32, 32]),
        **({"label": label} if task == "single_label" else {"labels": hot}),
        "n_frames": np.full(N_CLIPS, N_FRAMES, np.int32),
        "n_feature_frames": np.full(N_CLIPS, N_FRAMES, np.int32),
        "event_start": 320 * first + 319,
        "event_stop": 320 * (first + EVENT_FRAMES - 1) + 320,
        "view": np.zeros(N_CLIPS, np.uint8),
    }
    create_cache(path, layout, known, described)
    event = (inside / EVENT_FRAMES).astype(np.float32)
    heads = rng.dirichlet(np.ones(N_FRAMES), (N_CLIPS, 2, 2)).astype(np.float32)
    heads[:, *POINTING] = 0.98 * event + 0.02 / N_FRAMES
    maps = {"heads": {"head_weights": heads}, "layers": {"layer_weights": heads.mean(axis=2)}, "rollout": {}}
    arrays = {
        "rollout": event,
        "logits": (6.0 * hot).astype(np.float32),
        "features": features,
        "audio_sha256": np.array(["0" * 64] * N_CLIPS),
        **maps[keep],
    }
    write_partition(path, 0, arrays)
    finalise(path)
    return open_cache(path)
