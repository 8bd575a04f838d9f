"""What is not heard: SpecAugment."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.distill.augment.augmentation import Augmentation, Draws
from pipeline.distill.augment.axes import Axes, over_maps, valid_frames
from pipeline.distill.augment.timing import integers
from pipeline.distill.data import Clips


@dataclass(frozen=True)
class SpecAugment(Augmentation):
    """Stretches of time and bands of frequency at the clip's mean (arXiv 1904.08779), in kws_streaming's numbers.

    Masked bins are at their mean over the clip: SpecAugment's features have mean 0, and its masks are 0. Time
    masks that would hide more than half of a known event, or of where the teacher looked, are left out.
    """

    to_weights: ClassVar[str] = "stay"
    to_labels: ClassVar[str] = "stay"
    to_events: ClassVar[str] = "stay; half of one stays heard at least"

    time_masks: int = 2
    time_mask_frames: int = 10  # all are shorter
    frequency_masks: int = 2
    frequency_mask_bins: int = 5  # all are narrower
    most_hidden: float = 0.5

    def draw(self, clips: Clips, axes: Axes, generator: torch.Generator) -> Draws:
        lengths = clips.lengths.cpu()
        start, width = _masks(lengths, self.time_masks, self.time_mask_frames, generator)
        n_mels = torch.full_like(lengths, clips.features.shape[1])
        low, height = _masks(n_mels, self.frequency_masks, self.frequency_mask_bins, generator)
        drawn = {"start": start, "width": width, "low": low, "height": height}
        weights = over_maps(clips.weights)
        hidden = _hidden_weights(drawn, weights.shape[1], axes)
        looked = (weights * hidden).sum(dim=1) / weights.sum(dim=1).clamp_min(1e-12)
        begin, end = clips.event_start.cpu()[:, None], clips.event_stop.cpu()[:, None]
        centre = axes.features.offset + axes.features.hop_length * torch.arange(clips.features.shape[2])
        event = (centre >= begin) & (centre < end)
        covered = (event & _within(start, width, event.shape[1])).sum(dim=1) / event.sum(dim=1).clamp_min(1)
        fine = (looked <= self.most_hidden) & (covered <= self.most_hidden)
        return {**drawn, "width": width * fine[:, None]}

    def features(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        features = clips.features.float()
        valid = valid_frames(clips.lengths, features)
        mean = (features * valid).sum(dim=2, keepdim=True) / clips.lengths[:, None, None]  # (n, n_mels, 1)
        masked = _within(drawn["start"], drawn["width"], features.shape[2])[:, None]
        masked = masked | _within(drawn["low"], drawn["height"], features.shape[1])[:, :, None]
        return torch.where(masked, mean, features), clips.lengths

    def weights(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        # Not 0 in masked time: the live teacher still looks there, and is further from weights that leave it out.
        return clips.weights, clips.weight_lengths

    def labels(self, clips: Clips, drawn: Draws) -> tuple[Tensor, Tensor]:
        return clips.labels, clips.teacher_logits

    def events(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        return clips.event_start, clips.event_stop


def _masks(lengths: Tensor, n: int, below: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns where `n` masks start and how wide they are, (n_clips, n) each, within the lengths."""
    drawn = []
    for _ in range(n):
        width = integers(torch.zeros_like(lengths), torch.full_like(lengths, below - 1), generator)
        width = torch.minimum(width, lengths // 2)
        drawn.append((integers(torch.zeros_like(lengths), lengths - width, generator), width))
    start, width = zip(*drawn, strict=True)
    return torch.stack(start, dim=1), torch.stack(width, dim=1)


def _within(start: Tensor, width: Tensor, n: int) -> Tensor:
    """Returns which of `n` places lie in one of a clip's masks, (n_clips, n)."""
    place = torch.arange(n, device=start.device)
    return ((place >= start[..., None]) & (place < (start + width)[..., None])).any(dim=1)


def _hidden_weights(drawn: Draws, n: int, axes: Axes) -> Tensor:
    """Returns which of `n` teacher frames are centred in masked time, (n_clips, n)."""
    start, stop = (
        axes.features.offset + axes.features.hop_length * (frames - 0.5)
        for frames in (drawn["start"], drawn["start"] + drawn["width"])
    )
    centre = axes.weights.offset + axes.weights.hop_length * torch.arange(n, device=start.device)
    return ((centre >= start[..., None]) & (centre < stop[..., None])).any(dim=1)
