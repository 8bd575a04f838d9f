"""A cache's split as tensors in memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cache_schema import Cache
from pipeline.errors import TkdError
from pipeline.frames import without_readout


@dataclass(frozen=True)
class Clips:
    """Clips as stage two needs them; the first dimension of every tensor is the clip."""

    clip_id: np.ndarray
    features: Tensor  # (n, n_mels, T_feature) float16
    lengths: Tensor  # (n,) int64, valid feature frames
    labels: Tensor  # (n,) int64
    weights: Tensor  # (n, T_teacher) float32: the rollout
    weight_lengths: Tensor  # (n,) int64, valid teacher frames
    event_start: Tensor  # (n,) int64 samples, -1 unknown
    event_stop: Tensor  # (n,) int64
    teacher_logits: Tensor  # (n, n_classes) float32

    def __len__(self) -> int:
        return len(self.clip_id)

    def take(self, rows: Tensor | np.ndarray) -> "Clips":
        """Returns the clips of the given rows, in that order."""
        rows = torch.as_tensor(rows)
        return Clips(self.clip_id[rows.numpy()], *(tensor[rows] for tensor in self._tensors()))

    def to(self, device: torch.device) -> "Clips":
        """Returns the clips with their tensors on `device`."""
        return Clips(self.clip_id, *(tensor.to(device) for tensor in self._tensors()))

    def _tensors(self) -> list[Tensor]:
        return [value for name, value in vars(self).items() if name != "clip_id"]

    def batches(self, batch_size: int) -> Iterator["Clips"]:
        """Yields consecutive batches; the last may be smaller."""
        for start in range(0, len(self), batch_size):
            yield self.take(torch.arange(start, min(start + batch_size, len(self))))


def load_splits(cache: Cache, drop_first: bool = True) -> dict[str, Clips]:
    """Returns the clips of each split, read once and verified.

    Args:
        cache: A finished cache with features.
        drop_first: Leave the readout's own place out of the rollout, see `without_readout`.

    Raises:
        TkdError: the cache has no features, an empty split, or a task this version does not train on.
        CacheError: any of it is missing or damaged.
    """
    if cache.task != "single_label":
        raise TkdError(f"{cache.path}: task {cache.task}; students are trained on single_label caches.")
    if "features" not in cache.specs:
        raise TkdError(f"{cache.path}: holds no features. Ask its maker for one built with features.")
    names = ("features", "n_feature_frames", "label", "rollout", "n_frames", "event_start", "event_stop", "logits")
    clip_id, arrays = cache.read("clip_id"), [torch.from_numpy(cache.read(name)) for name in names]
    features, lengths, labels, rollout, n_frames, start, stop, logits = arrays
    rollout = rollout.float()
    whole = Clips(
        clip_id,
        features,
        lengths.long(),
        labels.long(),
        without_readout(rollout.float(), cache.metadata["teacher"].get("readout", ""))
        if drop_first
        else rollout.float(),
        n_frames.long(),
        start,
        stop,
        logits.float(),
    )
    splits = {}
    for split in ("train", "validation", "test"):
        splits[split] = whole.take(cache.split_rows(split))
        if len(splits[split]) == 0:
            raise TkdError(f"{cache.path}: no {split} clips. Training needs train, validation and test.")
    return splits
