"""Everything a cache is built from, and what of it stands in the cache before the teacher runs."""

import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import numpy as np

from cache_schema import Cache, Layout, differences
from pipeline.data.clip import SPLITS
from pipeline.data.manifest import Manifest
from pipeline.data.views import ViewRecipe, with_views, without_views
from pipeline.errors import TkdError
from pipeline.extract.config import BuildConfig
from pipeline.extract.features import LogMel, LogMelConfig
from pipeline.tasks import label_tensor
from pipeline.teacher.model import Teacher, TeacherInfo, load_teacher, require_labels, require_lengths

# What a cache is known by; by which versions of software it was made is written down, too, and does not count.
PROVENANCE = ("layout", "teacher", "dataset", "features", "pooling")


@dataclass(frozen=True)
class Outline:
    """What a cache is begun with; see `cache_schema.create_cache`."""

    layout: Layout
    rows: Mapping[str, np.ndarray]
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """A cache to be built: its sources, loaded and checked against each other.

    It stays in its process, because a teacher cannot be pickled; another process makes its own with `plan_build`.
    """

    manifest: Manifest
    teacher: Teacher
    log_mel: LogMel
    config: BuildConfig
    outline: Outline


def plan_build(
    manifest: Manifest, teacher_name: str, config: BuildConfig, front_end: LogMelConfig | None = None
) -> Plan:
    """Returns what the cache of a dataset is built from.

    Args:
        manifest: The dataset; views that the configuration asks for are drawn, unless it has them.
        teacher_name: "bundled", or the folder of a trained teacher.
        config: How it is built.
        front_end: The students' features; None for this version's.

    Raises:
        TkdError: teacher and dataset do not fit, the teacher is damaged, a clip is too short, or one of which a view is
            to be drawn cannot be read.
    """
    front_end = front_end or LogMelConfig()
    teacher, info, weights_sha256 = load_teacher(teacher_name)
    require_labels(info, manifest, teacher_name)
    require_lengths(manifest, max(teacher.min_samples, front_end.win_length))
    manifest = with_views(manifest, ViewRecipe(config.views, config.seed))
    outline = Outline(
        _layout(manifest, teacher, front_end, config),
        _rows(manifest, teacher, front_end),
        _metadata(manifest, teacher, info, weights_sha256, front_end, config),
    )
    return Plan(manifest, teacher, LogMel(front_end), config, outline)


def views_of(cache: Cache) -> ViewRecipe | None:
    """Returns how a cache's views were drawn; None if it has none.

    Raises:
        TkdError: in a way that this version does not know.
    """
    stated = cache.metadata["dataset"].get("views")
    try:
        return None if stated is None else ViewRecipe.from_metadata(stated)
    except TkdError as error:
        raise TkdError(f"{cache.path}: {error}") from error


def versions(*packages: str) -> dict[str, str]:
    """Returns the installed versions, for the cache's `software`."""
    return {package: importlib.metadata.version(package) for package in packages}


def _layout(manifest: Manifest, teacher: Teacher, features: LogMelConfig, config: BuildConfig) -> Layout:
    longest = max(clip.n_samples for clip in manifest.clips)
    return Layout(
        n_clips=len(manifest.clips),
        n_frames=teacher.n_frames(longest),
        n_feature_frames=features.n_frames(longest),
        n_features=features.n_mels,
        n_classes=len(manifest.info.labels),
        n_layers=teacher.encoder.config.num_hidden_layers,
        n_heads=teacher.encoder.config.num_attention_heads,
        task=manifest.info.task,
        keep=config.keep,
        with_features=config.with_features,
        partition_size=config.partition_size,
    )


def _rows(manifest: Manifest, teacher: Teacher, features: LogMelConfig) -> dict[str, np.ndarray]:
    clips, info = manifest.clips, manifest.info
    labels = label_tensor(info.task, [clip.labels for clip in clips], len(info.labels)).numpy()
    single = info.task == "single_label"
    return {
        "clip_id": np.array([clip.clip_id for clip in clips], np.dtypes.StringDType()),
        "split": np.array([SPLITS.index(clip.split) for clip in clips], np.uint8),
        **({"label": labels.astype(np.int32)} if single else {"labels": labels.astype(np.uint8)}),
        "n_frames": np.array([teacher.n_frames(clip.n_samples) for clip in clips], np.int32),
        "n_feature_frames": np.array([features.n_frames(clip.n_samples) for clip in clips], np.int32),
        "event_start": np.array([clip.event_start for clip in clips], np.int64),
        "event_stop": np.array([clip.event_stop for clip in clips], np.int64),
        "view": np.array([clip.view for clip in clips], np.uint8),
    }


def _metadata(
    manifest: Manifest,
    teacher: Teacher,
    info: TeacherInfo,
    weights_sha256: str,
    features: LogMelConfig,
    config: BuildConfig,
) -> dict:
    encoder = teacher.encoder.config
    return {
        "teacher": {
            "name": info.base,
            "sha256": weights_sha256,
            "model_type": encoder.model_type,
            "n_parameters": sum(parameter.numel() for parameter in teacher.parameters()),
            "n_layers": encoder.num_hidden_layers,
            "n_heads": encoder.num_attention_heads,
            "hop_length": teacher.hop_length,
            "frame_offset": teacher.frame_offset,
            "sample_rate": manifest.info.sample_rate,
            "readout": info.readout,
            "score": {"metric": info.metric, "validation": info.validation, "test": info.test, "dataset": info.dataset},
        },
        "dataset": {
            "name": manifest.info.name,
            "manifest_sha256": without_views(manifest).sha256(),
            "task": manifest.info.task,
            "labels": list(manifest.info.labels),
            "licence": manifest.info.licence,
            "recipe": manifest.info.recipe,
            **({"views": ViewRecipe(config.views, config.seed).metadata()} if config.views else {}),
        },
        "features": features.metadata(),
        "pooling": {
            "rollout": "0.5 A + 0.5 I per layer, A the mean over heads; row of the readout (arXiv 2005.00928)",
            "weights": "mean over valid query frames",
            "arithmetic": "bfloat16" if config.bfloat16 else "float32",
        },
        "software": versions("tkd", "torch", "torchaudio", "transformers", "zarr", "numpy"),
    }


def other_than(metadata: Mapping[str, Any], outline: Outline, sections: Iterable[str] = PROVENANCE) -> list[str]:
    """Returns what a cache with that `tkd_cache` attribute was begun with that is not in the outline, in words."""
    here = {"layout": vars(outline.layout), **outline.metadata}
    return unequal(*({section: side.get(section) for section in sections} for side in (metadata, here)))


def unequal(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Returns in words each leaf of a cache's metadata that is another here."""
    return [
        f"{path} is {shorten(repr(found), 80)}, would be {shorten(repr(expected), 80)}"
        for path, found, expected in differences(there, json.loads(json.dumps(here)))
    ]
