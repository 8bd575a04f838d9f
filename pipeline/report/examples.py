"""The clips a report shows: their spectrograms, where everyone looks in them, and their sound."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import one_hot

from cache_schema import Cache, audio_sha256
from pipeline.distill.data import Clips, Split
from pipeline.distill.distillation import Distillation
from pipeline.errors import TkdError
from pipeline.frames import FrameGrid, teacher_grid
from pipeline.report.drawing.markup import data_uri

_PALETTE = ((252, 253, 191), (254, 159, 109), (222, 73, 104), (140, 41, 129), (59, 15, 112), (0, 0, 4))  # loud first


@dataclass(frozen=True)
class Recordings:
    """A prepared data set, as far as a report needs it: stage two does not know what a manifest is.

    Attributes:
        clips: Its rows by clip_id; each has `snr_db`, None where nothing was mixed.
        render: A row's PCM, int16 (n_samples,).
        sample_rate: Hz.
        sha256: Of its manifest, as a cache notes it.
    """

    clips: Mapping[str, Any]
    render: Callable[[Any], np.ndarray]
    sample_rate: int
    sha256: str

    def are_of(self, cache: Cache) -> bool:
        """Returns whether the cache was made of this data set."""
        return cache.metadata["dataset"]["manifest_sha256"] == self.sha256


@dataclass(frozen=True)
class Looks:
    """Frame weights of one clip as a density over time, 1/s, so that frames of different lengths compare."""

    seconds: np.ndarray  # (T,) centres of the frames
    density: np.ndarray  # (T,)


def example_rows(split: Split, n: int) -> list[int]:
    """Returns up to `n` clips of a split to show: the first clip of each of the last labels, see `rows_by_label`."""
    return rows_by_label(_has(split), split.event_start >= 0, n)


def labels_of(split: Split, row: int) -> str:
    """Returns the names of a clip's labels, in quotation marks."""
    return ", ".join(f"“{split.cache.labels[label]}”" for label in _has(split)[row].nonzero()[:, 0])


def _has(split: Split) -> Tensor:
    """Returns whether each clip has each label, (n_clips, n_classes) bool."""
    single = split.cache.task == "single_label"
    return one_hot(split.labels, len(split.cache.labels)).bool() if single else split.labels.bool()


def rows_by_label(has: Tensor, known: Tensor, n: int) -> list[int]:
    """Returns up to `n` clips in the order of their labels: a rule, not a choice.

    Labels that have events, where any are known; another clip for each label, where it has another.

    Args:
        has: (n_clips, n_classes) bool, whether the clip has the label.
        known: (n_clips,) bool, whether its event is known.
        n: Clips wanted.
    """
    if (has & known[:, None]).any():
        has = has & known[:, None]
    rows: list[int] = []
    for label in has.any(dim=0).nonzero()[-n:, 0]:
        clips = has[:, label].nonzero()[:, 0].tolist()
        rows.append(next((clip for clip in clips if clip not in rows), clips[0]))
    return list(dict.fromkeys(rows))


def teacher_looks(cache: Cache, clip: Clips) -> Looks:
    """Returns where the teacher looks in one clip, as cached: the rollout without its readout's own place."""
    weights = clip.weights[0, : int(clip.weight_lengths)]
    return _density(weights / weights.sum(), teacher_grid(cache.metadata), cache)


@torch.inference_mode()
def student_looks(cache: Cache, distillation: Distillation, clip: Clips) -> Looks:
    """Returns where a student looks in one clip."""
    out = distillation.student(clip.features.float(), clip.lengths)
    weights = distillation.log_attention(out).exp()[0, : int(out.lengths)]
    return _density(weights, distillation.target, cache)


def spectrogram(clip: Clips) -> str:
    """Returns a clip's log-mel features as an address of a PNG, a pixel a value, low bands at the bottom."""
    log_mel = clip.features[0, :, : int(clip.lengths)].float().numpy()
    low, high = np.percentile(log_mel, [5, 100])
    levels = np.clip(255 * (log_mel - low) / max(high - low, 1e-6), 0, 255).astype(np.uint8)
    return data_uri("image/png", _png(levels[::-1]))


def sound(cache: Cache, row: int, clip_id: str, recordings: Recordings) -> bytes:
    """Returns what was heard in a clip, as FLAC.

    Args:
        cache: It holds the digest of the clip.
        row: Of the clip in the cache.
        clip_id: Of the clip.
        recordings: The prepared data set.

    Raises:
        TkdError: the data set has no such clip, or another under its name.
        CacheError: the digest is damaged.
    """
    if clip_id not in recordings.clips:
        raise TkdError(f"{clip_id}: not in the data set given with --data.")
    pcm = recordings.render(recordings.clips[clip_id])
    partition, index = divmod(row, cache.layout.partition_size)
    stored = str(cache.read("audio_sha256", [partition])[index])
    if audio_sha256(pcm) != stored:
        raise TkdError(f"{clip_id}: sounds otherwise in the data set given with --data than in the cache.")
    import soundfile  # comes with the extra that reads data sets

    file = io.BytesIO()
    soundfile.write(file, pcm, recordings.sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _density(weights: Tensor, grid: FrameGrid, cache: Cache) -> Looks:
    rate = cache.metadata["features"]["sample_rate"]
    seconds = (grid.offset + grid.hop_length * np.arange(len(weights))) / rate
    return Looks(seconds, weights.numpy() * rate / grid.hop_length)


def _png(levels: np.ndarray) -> bytes:
    """Returns a PNG of 256 colours of an image (height, width) uint8."""
    stops = np.linspace(255, 0, len(_PALETTE))[::-1]
    palette = np.stack([np.interp(np.arange(256), stops, [c[n] for c in _PALETTE[::-1]]) for n in range(3)], axis=1)
    image = Image.fromarray(np.ascontiguousarray(levels), mode="L")
    image.putpalette(palette.round().astype(np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
