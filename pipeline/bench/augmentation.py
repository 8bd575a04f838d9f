"""Whether augmented targets are true: `python -m pipeline.bench.augmentation data/mini` prints the table.

Each augmentation is made to what a cache holds of some clips, and once more to their recordings. The live teacher hears
those, and the front end, too; what they say is compared with what the cache's arrays became.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import torch
from torch import Tensor

from cache_schema import open_cache
from pipeline.bench.hearing import Heard, Truth, compared, hear
from pipeline.bench.recordings import RECORDINGS
from pipeline.data.audio import render_clip, to_waveform
from pipeline.data.clip import SAMPLE_RATE, Clip
from pipeline.data.manifest import Manifest, read_manifest
from pipeline.data.views import ViewRecipe, with_views
from pipeline.distill.augment import AUGMENTATIONS, DEFAULT_AUGMENTATIONS, Axes, apply, axes_of
from pipeline.distill.data import Clips, load_splits
from pipeline.extract.build import build_cache
from pipeline.extract.config import BuildConfig
from pipeline.extract.features import LogMel, LogMelConfig
from pipeline.progress import Progress
from pipeline.teacher.model import Teacher, load_teacher, require_labels

VIEWS = "stored views"
CHAIN = "the defaults, one after the other"


def truth_of(
    manifest: Manifest,
    clips: Sequence[Clip],
    teacher: Teacher,
    names: Sequence[str],
    seed: int = 0,
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, Truth]:
    """Returns how true each augmentation is over clips of a dataset.

    Args:
        manifest: The dataset.
        clips: Rows of it.
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
            ours, changed = clean, waveforms
            for one in DEFAULT_AUGMENTATIONS if name == CHAIN else (name,):
                drawn = AUGMENTATIONS[one].draw(ours.clips, axes, generator)
                ours, changed = _augmented(one, ours, drawn, axes), RECORDINGS[one](changed, drawn, log_mel)
            found[name].append(compared(clean, ours, hear(manifest, batch, changed, teacher, log_mel)))
            advance(len(batch))
    return {name: Truth.of(torch.cat(rows)) for name, rows in found.items()}


def truth_of_views(manifest: Manifest, clips: Sequence[Clip], teacher_name: str, seed: int = 0) -> Truth:
    """Returns how true stored views are: those of a cache that is built of clips of the training split, one a clip."""
    few, log_mel = dataclasses.replace(manifest, clips=tuple(clips)), LogMel(LogMelConfig())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "views.zarr"
        build_cache(few, teacher_name, path, BuildConfig(keep="layers", views=1, seed=seed))
        cache = open_cache(path)
        cached = Clips.concatenate(list(load_splits(cache, names=("train",))["train"].batches(256)))
        layers = torch.from_numpy(cache.read("layer_weights"))
    row_of = {clip_id: row for row, clip_id in enumerate(cached.clip_id.tolist())}
    views = [clip for clip in with_views(few, ViewRecipe(1, seed)).clips if clip.view]
    ours, clean = (
        Heard(cached.take(rows), layers[rows])
        for rows in (
            [row_of[view.clip_id] for view in views],
            [row_of[view.clip_id.removesuffix(f"#{view.view}")] for view in views],
        )
    )
    waveforms = [to_waveform(render_clip(manifest.audio_root, view)) for view in views]
    live = hear(manifest, views, waveforms, load_teacher(teacher_name)[0], log_mel)
    return Truth.of(compared(clean, ours, live))


def _augmented(name: str, clean: Heard, drawn: dict[str, Tensor], axes: Axes) -> Heard:
    clips = apply(AUGMENTATIONS[name], clean.clips, drawn, axes)
    by_layer = apply(AUGMENTATIONS[name], dataclasses.replace(clean.clips, weights=clean.layers), drawn, axes)
    return Heard(clips, by_layer.weights)


@click.command()
@click.argument("data")
@click.option("--teacher", "teacher_name", default="bundled", show_default=True)
@click.option(
    "--clips",
    "n_clips",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Of the validation split; views: of training.",
)
@click.option("--seed", default=0, show_default=True)
def main(data: str, teacher_name: str, n_clips: int, seed: int) -> None:
    """Prints how true each augmentation's weights and features are on a prepared data set."""
    manifest, (teacher, info, _) = read_manifest(data), load_teacher(teacher_name)
    require_labels(info, manifest, teacher_name)
    own, stored = manifest.split("validation")[:n_clips], manifest.split("train")[:n_clips]
    names = (*AUGMENTATIONS, CHAIN)
    with Progress("hearing", len(own) * (1 + len(names)), "clips") as progress:
        truths = truth_of(manifest, own, teacher, names, seed, advance=progress.advance)
    truths[VIEWS] = truth_of_views(manifest, stored, teacher_name, seed)
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
