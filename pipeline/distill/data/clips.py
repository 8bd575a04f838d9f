"""What one batch holds."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Clips:
    """Clips as stage two needs them; the first dimension of every tensor is the clip."""

    clip_id: np.ndarray
    features: Tensor  # (n, n_mels, T_feature) float16
    lengths: Tensor  # (n,) int64, valid feature frames
    labels: Tensor  # (n,) int64, or where clips have several (n, n_classes) uint8 of 0 and 1; mixed ones: float32
    weights: Tensor  # (n, T_teacher) float32, 0 beyond weight_lengths; (n, n_maps, T_teacher) for a learned mixture
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
        """Returns the clips with their tensors on `device`; `lengths` stay, for the student reads them at once."""
        moved = Clips(self.clip_id, *(tensor.to(device) for tensor in self._tensors()))
        return dataclasses.replace(moved, lengths=self.lengths)

    def trimmed(self) -> "Clips":
        """Returns the clips without the frames beyond the longest of them: views, where there are any."""
        n_features, n_weights = int(self.lengths.max()), int(self.weight_lengths.max())
        features, weights = self.features[..., :n_features], self.weights[..., :n_weights]
        return dataclasses.replace(self, features=features, weights=weights)

    def share(self, index: int, n: int) -> "Clips":
        """Returns the part of the batch that process `index` of `n` takes."""
        start, stop = len(self) * index // n, len(self) * (index + 1) // n
        return self if n == 1 else self.take(torch.arange(start, stop))

    @staticmethod
    def concatenate(parts: Sequence["Clips"]) -> "Clips":
        """Returns the clips of all parts, in their order."""
        if len(parts) == 1:
            return parts[0]
        tensors = zip(*(part._tensors() for part in parts), strict=True)
        return Clips(np.concatenate([part.clip_id for part in parts]), *map(torch.cat, tensors))

    def _tensors(self) -> list[Tensor]:
        return [value for name, value in vars(self).items() if name != "clip_id"]
