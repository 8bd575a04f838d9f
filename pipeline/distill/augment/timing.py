"""When: time shift, crop, speed."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.distill.augment.augmentation import Augmentation, Draws
from pipeline.distill.augment.axes import Axes, n_frames, n_samples, over_maps, read_at
from pipeline.distill.data import Clips
from pipeline.frames import FrameGrid


def integers(low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
    """Returns (n,) int64 drawn uniformly from `low` to `high`, both included; `low` where `high` is below it."""
    span = (high - low + 1).clamp_min(1)
    # In float64: the product of a float32 below 1 and the span can round up to the span.
    drawn = torch.rand(len(low), generator=generator, dtype=torch.float64) * span
    return low + drawn.long()


def moved(times: Tensor, by: Tensor) -> Tensor:
    """Returns event times (n,) moved by so many samples; -1 stays -1."""
    return torch.where(times >= 0, times + by, times)


@dataclass(frozen=True)
class TimeShift(Augmentation):
    """The clip moved in its own time by whole feature frames; what leaves at one end comes in at the other.

    So nothing is lost, and there is no sudden silence, at which the teacher would look. An event that is known does not
    cross an end.
    """

    to_weights: ClassVar[str] = "move along, around the ends"
    to_labels: ClassVar[str] = "stay"
    to_events: ClassVar[str] = "move along, never across an end"

    shift_seconds: float = 0.1  # at most, either way: kws_streaming's

    def draw(self, clips: Clips, axes: Axes, generator: torch.Generator) -> Draws:
        most = torch.full((len(clips),), round(self.shift_seconds * axes.sample_rate / axes.features.hop_length))
        most = torch.minimum(most, clips.lengths.cpu() // 10)
        low, high = -most, most
        start, stop = clips.event_start.cpu(), clips.event_stop.cpu()
        known, hop = start >= 0, axes.features.hop_length
        before = (start / hop).floor().long()
        after = ((axes.n_samples(clips).cpu() - stop) / hop).floor().long().clamp_min(0)
        low = torch.where(known, torch.maximum(low, -before), low)
        high = torch.where(known, torch.minimum(high, after), high)
        return {"frames": integers(low, high, generator)}

    def features(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        return _rolled(clips.features.float(), drawn["frames"], clips.lengths), clips.lengths

    def weights(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        by = drawn["frames"] * axes.features.hop_length / axes.weights.hop_length
        return _rolled(clips.weights, by, clips.weight_lengths), clips.weight_lengths

    def labels(self, clips: Clips, drawn: Draws) -> tuple[Tensor, Tensor]:
        return clips.labels, clips.teacher_logits

    def events(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        by = (drawn["frames"] * axes.features.hop_length).long()
        return moved(clips.event_start, by), moved(clips.event_stop, by)


def _rolled(values: Tensor, by: Tensor, lengths: Tensor) -> Tensor:
    frames = torch.arange(values.shape[-1], device=values.device)
    return read_at(values, torch.remainder(frames - by[:, None], lengths[:, None]), lengths)


@dataclass(frozen=True)
class Crop(Augmentation):
    """A stretch of the clip that holds its event, where that is known, and most of where the teacher looked.

    A clip of which no stretch of the length drawn does, or that is no longer than the shortest, stays whole.
    """

    to_weights: ClassVar[str] = "those of the stretch, made to sum to 1 again"
    to_labels: ClassVar[str] = "stay"
    to_events: ClassVar[str] = "move along, never cut"

    least: float = 0.6  # of the clip's length
    least_seconds: float = 1.0
    least_weight: float = 0.75  # of the teacher's weights

    def draw(self, clips: Clips, axes: Axes, generator: torch.Generator) -> Draws:
        n, hop = len(clips), axes.features.hop_length
        lengths, start, stop = (values.cpu() for values in (clips.lengths, clips.event_start, clips.event_stop))
        shortest = n_frames(axes.features, torch.tensor([self.least_seconds * axes.sample_rate]))
        shortest = torch.minimum(torch.maximum((self.least * lengths).long(), shortest), lengths)
        length = integers(shortest, lengths, generator)
        whole = axes.n_samples(clips).cpu()
        heard = n_samples(axes.features, length)

        first = torch.arange(int(lengths.max()))[None]  # candidates, (n, T)
        begin, end = first * hop, first * hop + heard[:, None]
        fits = first + length[:, None] <= lengths[:, None]
        holds = (begin <= start[:, None]) & (end >= torch.minimum(stop, whole)[:, None]) | (start[:, None] < 0)
        weights = over_maps(clips.weights)
        passed = torch.nn.functional.pad(weights.cumsum(dim=1), (1, 0))  # (n, T_teacher + 1)
        n_teacher, since = weights.shape[1], (begin / axes.weights.hop_length).ceil().long().expand(n, -1)
        until = since + n_frames(axes.weights, heard)[:, None]  # what the teacher would have of the stretch
        inside = passed.gather(1, until.clamp_max(n_teacher)) - passed.gather(1, since.clamp_max(n_teacher))
        possible = fits & holds & (inside >= self.least_weight * passed[:, -1:])

        count = possible.sum(dim=1)
        chosen = integers(torch.ones_like(count), count, generator)  # the how-many-eth of the possible
        chosen = ((possible.cumsum(dim=1) == chosen[:, None]) & possible).long().argmax(dim=1)
        return {"first": torch.where(count > 0, chosen, 0), "length": torch.where(count > 0, length, lengths)}

    def features(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        return _from(clips.features.float(), drawn["first"], clips.lengths), drawn["length"]

    def weights(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        first = drawn["first"] * axes.features.hop_length / axes.weights.hop_length
        lengths = n_frames(axes.weights, n_samples(axes.features, drawn["length"]))
        lengths = torch.where(drawn["length"] < clips.lengths, lengths, clips.weight_lengths)
        return _from(clips.weights, first, clips.weight_lengths), torch.minimum(lengths, clips.weight_lengths)

    def labels(self, clips: Clips, drawn: Draws) -> tuple[Tensor, Tensor]:
        return clips.labels, clips.teacher_logits

    def events(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        by = -(drawn["first"] * axes.features.hop_length).long()
        return moved(clips.event_start, by), moved(clips.event_stop, by)


def _from(values: Tensor, first: Tensor, lengths: Tensor) -> Tensor:
    frames = torch.arange(values.shape[-1], device=values.device)
    return read_at(values, frames + first[:, None], lengths)


@dataclass(frozen=True)
class Speed(Augmentation):
    """The clip played faster or slower, pitch and all: resampled in time, and along the mel axis as much.

    Its length changes. What a slower clip has above the highest bin is not in the cache: the highest bin stands for it.
    """

    to_weights: ClassVar[str] = "resampled in time"
    to_labels: ClassVar[str] = "stay"
    to_events: ClassVar[str] = "resampled in time"

    percent: tuple[int, ...] = (90, 95, 100, 105, 110)  # those of stored views
    shortest_seconds: float = 0.5  # shorter clips stay as they are: no student may be left without a frame

    def draw(self, clips: Clips, axes: Axes, generator: torch.Generator) -> Draws:
        drawn = torch.randint(len(self.percent), (len(clips),), generator=generator)
        percent = torch.tensor(self.percent)[drawn]
        short = clips.lengths.cpu() * axes.features.hop_length < self.shortest_seconds * axes.sample_rate
        return {"percent": percent.masked_fill(short, 100)}

    def features(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        features = clips.features.float()
        centres = axes.mel_edges()[1:-1].to(features.device)
        mel = (1 + centres / 700).log()
        source = (1 + centres * 100 / drawn["percent"][:, None] / 700).log()  # (n, n_mels): where each bin's sound was
        bins = (source - mel[0]) / (mel[1] - mel[0])
        n_mels = torch.full_like(clips.lengths, features.shape[1])
        features = read_at(features.transpose(1, 2), bins, n_mels).transpose(1, 2)
        return self._resampled(features, clips.lengths, axes.features, clips, drawn, axes)

    def weights(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        return self._resampled(clips.weights, clips.weight_lengths, axes.weights, clips, drawn, axes)

    def _resampled(
        self, values: Tensor, lengths: Tensor, grid: FrameGrid, clips: Clips, drawn: Draws, axes: Axes
    ) -> tuple[Tensor, Tensor]:
        percent = drawn["percent"]
        resampled = torch.where(percent == 100, lengths, n_frames(grid, _faster(axes.n_samples(clips), percent)))
        frames = torch.arange(max(values.shape[-1], int(resampled.max())), device=values.device)
        time = (grid.offset + grid.hop_length * frames) * percent[:, None] / 100
        return read_at(values, (time - grid.offset) / grid.hop_length, lengths), resampled

    def labels(self, clips: Clips, drawn: Draws) -> tuple[Tensor, Tensor]:
        return clips.labels, clips.teacher_logits

    def events(self, clips: Clips, drawn: Draws, axes: Axes) -> tuple[Tensor, Tensor]:
        start, stop, percent = clips.event_start, clips.event_stop, drawn["percent"]
        return (
            torch.where(start >= 0, start * 100 // percent, start),
            torch.where(start >= 0, _faster(stop, percent), stop),
        )


def _faster(samples: Tensor, percent: Tensor) -> Tensor:
    """Returns how many samples are left of some when they are played at another speed; a part of one counts."""
    return -(-samples * 100 // percent)
