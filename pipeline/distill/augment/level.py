"""How loud, and beside what: gain, noise, mixup."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.distill.augment.augmentation import Augmentation, Draws
from pipeline.distill.augment.axes import Axes, valid_frames
from pipeline.distill.data import Clips

_DB = math.log(10) / 20  # a decibel, in natural logarithms of an amplitude


def uniform(low: float, high: float, n: int, generator: torch.Generator) -> Tensor:
    """Returns (n,) float32 drawn uniformly."""
    return low + (high - low) * torch.rand(n, generator=generator)


def added(features: Tensor, other: Tensor, floor: float) -> Tensor:
    """Returns the log-mel features of the sum of two sounds that are independent of each other: their powers add.

    The features are logarithms of magnitudes; what phases do in a single frame is not known, and its mean is nothing.
    """
    return (torch.logaddexp(2 * features, 2 * other) / 2).clamp_min(floor)


def power(features: Tensor, lengths: Tensor) -> Tensor:
    """Returns the logarithm of each clip's mean power over valid frames and bins, (n,)."""
    valid = valid_frames(lengths, features)
    total = (2 * features).masked_fill(~valid, -torch.inf).logsumexp(dim=(1, 2))
    return total - (lengths * features.shape[1]).log()


@dataclass(frozen=True)
class Gain(Augmentation):
    """The clip, louder or quieter."""

    to_weights: ClassVar[str] = "stay"
    to_labels: ClassVar[str] = "stay"
    to_events: ClassVar[str] = "stay"

    gain_db: tuple[float, float] = (-10.0, 10.0)

    def draw(self, clips: Clips, axes: Axes, generator: torch.Generator) -> Draws:
        return {"gain_db": uniform(*self.gain_db, len(clips), generator)}

    def features(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        return (clips.features.float() + _DB * drawn["gain_db"][:, None, None]).clamp_min(axes.floor), clips.lengths

    def weights(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        return clips.weights, clips.weight_lengths

    def labels(self, clips: Clips, drawn: Draws) -> tuple[Tensor, Tensor]:
        return clips.labels, clips.teacher_logits

    def events(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        return clips.event_start, clips.event_stop


@dataclass(frozen=True)
class Noise(Augmentation):
    """Noise without end, between white and brown, under the clip.

    Generated, not another clip's: that one's word would make the label false. What is drawn is what the front end would
    hear of Gaussian noise with a power of 1 / f^colour: the mean of a mel bin follows from its triangle, and its spread
    from how many independent frequencies that covers.
    """

    to_weights: ClassVar[str] = "stay"
    to_labels: ClassVar[str] = "stay"
    to_events: ClassVar[str] = "stay"

    snr_db: tuple[float, float] = (5.0, 30.0)  # power of the clip's mel bins to that of the noise's
    colour: tuple[float, float] = (0.0, 2.0)  # 0: white, 1: pink, 2: brown

    def draw(self, clips: Clips, axes: Axes, generator: torch.Generator) -> Draws:
        colour = uniform(*self.colour, len(clips), generator)
        snr_db = uniform(*self.snr_db, len(clips), generator)
        filters = axes.mel_filters()  # (n_mels, n_bins)
        frequency = torch.linspace(0, axes.sample_rate / 2, filters.shape[1]).clamp_min(axes.sample_rate / axes.n_fft)
        magnitude = frequency ** (-colour[:, None] / 2)  # (n, n_bins)
        mean = (magnitude @ filters.T).clamp_min(1e-12)  # (n, n_mels)
        # A magnitude is Rayleigh's: its variance is 4 / pi - 1 of its squared mean. Neighbouring bins of the transform
        # are not independent: a Hann window hears 1.5 / its length in Hz at once.
        window = 2 * axes.features.offset + 1
        correlated = max(1.0, 1.5 * axes.n_fft / window)
        spread = (4 / math.pi - 1) * correlated * (magnitude**2 @ (filters**2).T) / mean**2
        # The sum of them is near a gamma variable, which is near the cube of a normal one (Wilson and Hilferty, 1931).
        share = spread[:, :, None] / 9
        root = 1 - share + share.sqrt() * torch.randn(clips.features.shape, generator=generator)
        noise = mean.log()[:, :, None] + 3 * root.clamp_min(0.05).log()
        return {"colour": colour, "snr_db": snr_db, "noise": noise}

    def features(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        features = clips.features.float()
        level = (power(features, clips.lengths) - power(drawn["noise"], clips.lengths)) / 2 - _DB * drawn["snr_db"]
        return added(features, drawn["noise"] + level[:, None, None], axes.floor), clips.lengths

    def weights(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        return clips.weights, clips.weight_lengths

    def labels(self, clips: Clips, drawn: Draws) -> tuple[Tensor, Tensor]:
        return clips.labels, clips.teacher_logits

    def events(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        return clips.event_start, clips.event_stop


@dataclass(frozen=True)
class Mixup(Augmentation):
    """Another clip of the batch added, brought to the clip's level, in amplitudes of share and 1 - share.

    As in arXiv 1710.09412, but to the sounds, not to the features. The share is of the Beta distribution, and never
    below a half: the clip itself stays the louder one, and its length and event stay the batch's.
    """

    to_weights: ClassVar[str] = "mixed by share, the other's as far as the clip lasts"
    to_labels: ClassVar[str] = "probabilities of the classes, mixed by share; so the teacher's"
    to_events: ClassVar[str] = "the louder clip's stays"

    alpha: float = 0.2

    def draw(self, clips: Clips, axes: Axes, generator: torch.Generator) -> Draws:
        n, seed = len(clips), torch.randint(2**63 - 1, (), generator=generator)
        share = np.random.default_rng(int(seed)).beta(self.alpha, self.alpha, n)  # torch's takes no generator
        share = torch.from_numpy(share).float()
        other = torch.randperm(n, generator=generator)
        alone = other == torch.arange(n)  # drawn as its own partner; or there is no other
        return {"other": other, "share": torch.maximum(share, 1 - share).masked_fill(alone, 1)}

    def features(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        features, share = clips.features.float(), drawn["share"]
        level = power(features, clips.lengths)
        gain = (1 - share).clamp_min(1e-12).log() + (level - level[drawn["other"]]) / 2
        other = features[drawn["other"]]
        silent = other < axes.floor + 0.01  # digital silence stays silent; float16 has the floor rounded
        silent |= ~valid_frames(clips.lengths, features)[drawn["other"]]
        other = (other + gain[:, None, None]).masked_fill(silent, axes.floor)
        return added(features + share.log()[:, None, None], other, axes.floor), clips.lengths

    def weights(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        other = clips.weights[drawn["other"]] * valid_frames(clips.weight_lengths, clips.weights)
        share = drawn["share"].view(-1, *[1] * (clips.weights.ndim - 1))
        return mixed(_distribution(clips.weights), _distribution(other), share), clips.weight_lengths

    def labels(self, clips: Clips, drawn: Draws) -> tuple[Tensor, Tensor]:
        share, other = drawn["share"][:, None], drawn["other"]
        labels, logits = clips.labels, clips.teacher_logits
        if labels.ndim == 1:
            labels = torch.nn.functional.one_hot(labels, logits.shape[1])
        labels = mixed(labels.float(), labels[other].float(), share)
        if clips.labels.ndim == 1:  # the teacher's classes exclude each other
            said = logits.softmax(dim=1)
            return labels, mixed(said, said[other], share).clamp_min(1e-30).log()
        said = logits.sigmoid()
        return labels, torch.logit(mixed(said, said[other], share), eps=1e-6)

    def events(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        return clips.event_start, clips.event_stop


def mixed(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Returns share * first + (1 - share) * second."""
    return share * first + (1 - share) * second


def _distribution(weights: Tensor) -> Tensor:
    return weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-12)
