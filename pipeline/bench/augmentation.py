"""Whether augmented targets are true: `python -m pipeline.bench.augmentation data/mini` prints the table.

Each augmentation is made to what a cache holds of some clips, and once more to their recordings. The live teacher hears
those, and the front end, too; what they say is compared with what the cache's arrays became.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import click
import numpy as np
import torch
from torch import Tensor

from pipeline.bench.recordings import RECORDINGS, Waveforms
from pipeline.data.audio import render_clip, to_waveform
from pipeline.data.manifest import SAMPLE_RATE, Clip, Manifest, read_manifest
from pipeline.data.views import ViewRecipe, with_views
from pipeline.distill.augment import AUGMENTATIONS, DEFAULT_AUGMENTATIONS, Axes, apply, axes_of
from pipeline.distill.data import Clips
from pipeline.extract.attention import pool_attention
from pipeline.extract.features import LogMel, LogMelConfig
from pipeline.frames import without_readout
from pipeline.progress import Progress
from pipeline.tasks import label_tensor
from pipeline.teacher.clips import collate
from pipeline.teacher.model import Teacher, load_teacher

VIEWS = "stored views"
CHAIN = "the defaults, one after the other"


@dataclass(frozen=True)
class Truth:
    """How true an augmentation's targets are, over clips; cosines are between weights without the readout's place."""

    n_clips: int
    cosine: float  # of the weights that the augmentation gives to the live teacher's, mean
    worst: float
    unchanged: float  # of the clean clip's weights to the live teacher's, mean
    layers: float  # as cosine, of each layer's weights
    same_class: (
        float  # share of clips (multi_label: of classes) of which the teacher says what it says of the clean one
    )
    features_db: float  # mean difference of the features to those of the recording
    apart_db: float  # mean difference of the clean features to those of the recording


@dataclass(frozen=True)
class Heard:
    """What a cache holds of clips, and the weights of each layer (n, n_layers, T)."""

    clips: Clips
    layers: Tensor


def hear(manifest: Manifest, clips: Sequence[Clip], waveforms: Waveforms, teacher: Teacher, log_mel: LogMel) -> Heard:
    """Returns what stage one makes of recordings, to float16 as a cache has it.

    Args:
        manifest: The dataset of the clips.
        clips: Rows of the manifest; labels and events are theirs.
        waveforms: What is heard in their place.
        teacher: In eval mode.
        log_mel: The front end.
    """
    n, config = len(waveforms), log_mel.config
    lengths, n_frames = ([count(len(wave)) for wave in waveforms] for count in (config.n_frames, teacher.n_frames))
    features = torch.zeros(n, config.n_mels, max(lengths))
    rollout = torch.zeros(n, max(n_frames))
    layers = torch.zeros(n, teacher.encoder.config.num_hidden_layers, max(n_frames))
    logits = torch.zeros(n, len(manifest.info.labels))
    in_order = sorted(range(n), key=lambda row: len(waveforms[row]))
    for _, group in groupby(in_order, key=lambda row: len(waveforms[row])):
        same = list(group)
        for rows in (same[at : at + 16] for at in range(0, len(same), 16)):
            inputs = collate([{"waveform": waveforms[row]} for row in rows], teacher.do_normalize)["input_values"]
            pooled = pool_attention(teacher, inputs)
            width = pooled.rollout.shape[1]
            rollout[rows, :width], logits[rows] = pooled.rollout, pooled.logits
            layers[rows, :, :width] = pooled.head_weights.mean(dim=2)
            for row in rows:
                features[row, :, : lengths[row]] = torch.from_numpy(log_mel(waveforms[row]))
    info = manifest.info
    heard = Clips(
        np.array([clip.clip_id for clip in clips]),
        features.half(),
        torch.tensor(lengths),
        label_tensor(info.task, [clip.labels for clip in clips], len(info.labels)),
        without_readout(rollout.half().float(), teacher.readout),
        torch.tensor(n_frames),
        torch.tensor([clip.event_start for clip in clips]),
        torch.tensor([clip.event_stop for clip in clips]),
        logits.half().float(),
    )
    return Heard(heard, layers)


def truth_of(
    manifest: Manifest,
    clips: Sequence[Clip],
    teacher: Teacher,
    names: Sequence[str],
    seed: int = 0,
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, Truth]:
    """Returns how true each augmentation is over clips of a dataset; and stored views of them, if `VIEWS` is named.

    Args:
        manifest: The dataset.
        clips: Rows of it; for `VIEWS` of its training split.
        teacher: In eval mode.
        names: The augmentations; `CHAIN` for one after the other.
        seed: Of the draws.
        batch_size: Clips augmented together, in which mixup finds its partners.
        advance: Told how many clips have been heard.
    """
    log_mel, generator = LogMel(LogMelConfig()), torch.Generator().manual_seed(seed)
    axes = axes_of(
        {
            "features": log_mel.config.metadata(),
            "teacher": {"hop_length": teacher.hop_length, "frame_offset": teacher.frame_offset},
        }
    )
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for at in range(0, len(clips), batch_size):
        batch = list(clips[at : at + batch_size])
        waveforms = [to_waveform(render_clip(manifest.audio_root, clip)) for clip in batch]
        clean = hear(manifest, batch, waveforms, teacher, log_mel)
        advance(len(batch))
        for name in names:
            if name == VIEWS:
                stored = _views(manifest, batch, seed)
                changed = [to_waveform(render_clip(manifest.audio_root, view)) for view in stored]
                live = ours = hear(manifest, stored, changed, teacher, log_mel)
            else:
                ours, changed = clean, waveforms
                for one in DEFAULT_AUGMENTATIONS if name == CHAIN else (name,):
                    drawn = AUGMENTATIONS[one].draw(ours.clips, axes, generator)
                    ours, changed = _augmented(one, ours, drawn, axes), RECORDINGS[one](changed, drawn, log_mel)
                live = hear(manifest, batch, changed, teacher, log_mel)
            found[name].append(_compared(clean, ours, live))
            advance(len(batch))
    truths = {}
    for name, rows in found.items():
        each = torch.cat(rows)
        means = each.mean(dim=0).tolist()
        truths[name] = Truth(len(each), means[0], float(each[:, 0].min()), *means[1:])
    return truths


def _views(manifest: Manifest, clips: Sequence[Clip], seed: int) -> list[Clip]:
    """Returns a stored view of each clip."""
    drawn = with_views(dataclasses.replace(manifest, clips=tuple(clips)), ViewRecipe(1, seed)).clips
    views = {row.clip_id.removesuffix("#1"): row for row in drawn if row.view}
    return [views[clip.clip_id] for clip in clips]


def _augmented(name: str, clean: Heard, drawn: dict[str, Tensor], axes: Axes) -> Heard:
    clips = apply(AUGMENTATIONS[name], clean.clips, drawn, axes)
    by_layer = apply(AUGMENTATIONS[name], dataclasses.replace(clean.clips, weights=clean.layers), drawn, axes)
    return Heard(clips, by_layer.weights)


def _compared(clean: Heard, ours: Heard, live: Heard) -> Tensor:
    """Returns for each clip (n, 6) what `Truth` has the means of, from `cosine` on, without `worst`."""
    rows = []
    for row in range(len(live.clips)):
        n, n_features = int(live.clips.weight_lengths[row]), int(live.clips.lengths[row])
        heard = live.clips.features[row, :, :n_features].float()
        rows.append(
            [
                _cosine(ours.clips.weights[row], live.clips.weights[row], n),
                _cosine(clean.clips.weights[row], live.clips.weights[row], n),
                _cosine(ours.layers[row], live.layers[row], n),
                _agreement(clean.clips, live.clips, row),
                _apart(ours.clips.features[row], heard),
                _apart(clean.clips.features[row], heard),
            ]
        )
    return torch.tensor(rows)


def _cosine(ours: Tensor, live: Tensor, n_frames: int) -> float:
    """Returns the mean cosine over all but the first of a clip's frames; frames that one side lacks are 0 there."""
    sides = [torch.nn.functional.pad(side, (0, max(0, n_frames - side.shape[-1]))) for side in (ours, live)]
    return float(torch.cosine_similarity(*(side[..., 1:n_frames] for side in sides), dim=-1).mean())


def _agreement(clean: Clips, live: Clips, row: int) -> float:
    """Returns 1 where a clip's logits mean the same class; of a clip with several, the share of classes."""
    before, after = clean.teacher_logits[row], live.teacher_logits[row]
    if clean.labels.ndim == 1:
        return float(before.argmax() == after.argmax())
    return float(((before > 0) == (after > 0)).float().mean())


def _apart(ours: Tensor, heard: Tensor) -> float:
    """Returns the mean difference in dB over the frames that both have."""
    n = min(ours.shape[1], heard.shape[1])
    return float((ours[:, :n].float() - heard[:, :n]).abs().mean() * 20 / np.log(10))


@click.command()
@click.argument("data")
@click.option("--teacher", "teacher_name", default="bundled", show_default=True)
@click.option("--clips", "n_clips", default=128, show_default=True, help="Of the validation split; views: of training.")
@click.option("--seed", default=0, show_default=True)
def main(data: str, teacher_name: str, n_clips: int, seed: int) -> None:
    """Prints how true each augmentation's weights and features are on a prepared data set."""
    manifest, teacher = read_manifest(data), load_teacher(teacher_name)[0]
    own, stored = manifest.split("validation")[:n_clips], manifest.split("train")[:n_clips]
    names = (*AUGMENTATIONS, CHAIN)
    with Progress("hearing", len(own) * (1 + len(names)) + len(stored) * 2, "clips") as progress:
        truths = truth_of(manifest, own, teacher, names, seed, advance=progress.advance)
        truths |= truth_of(manifest, stored, teacher, (VIEWS,), seed, advance=progress.advance)
    seconds = sum(clip.n_samples for clip in own) / SAMPLE_RATE
    print(f"{len(own)} clips, {seconds:.0f} s; seed {seed}\n")
    print("| | default | cosine | worst | unchanged | layers | same class | features dB | clean features dB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, truth in truths.items():
        default = "no" if name in AUGMENTATIONS and name not in DEFAULT_AUGMENTATIONS else "yes"
        print(
            f"| {name} | {default} | {truth.cosine:.3f} | {truth.worst:.3f} | {truth.unchanged:.3f} | "
            f"{truth.layers:.3f} | {truth.same_class:.2f} | {truth.features_db:.2f} | {truth.apart_db:.2f} |"
        )


if __name__ == "__main__":
    main()
