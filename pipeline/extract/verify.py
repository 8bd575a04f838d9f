"""Whether a cache says what its teacher says: the teacher heard again on a sample of its clips."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, groupby, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from cache_schema import SPLITS, Cache
from pipeline.data.clip import Clip
from pipeline.data.manifest import Manifest
from pipeline.data.views import with_views
from pipeline.errors import TkdError
from pipeline.extract.config import BuildConfig
from pipeline.extract.features import LogMelConfig
from pipeline.extract.plan import Plan, plan_build, unequal, views_of
from pipeline.extract.targets import run_teacher
from pipeline.progress import Progress

WEIGHTS = ("rollout", "layer_weights", "head_weights")
# What may still be rounding. Measured on 48 clips of `mini` with the bundled teacher, mean KL and worst:
# - rollout in float16 2e-8, 3e-8; head weights in a byte 7.4e-4, 1.1e-3 (FORMAT.md allows a mean of 1e-3); features in
#   float16 within 3e-8 of a cosine of 1;
# - a bfloat16 cache heard in float32, further apart than two machines should be: rollout 1.8e-5, 4e-5; head weights
#   8e-4, 1.4e-3; logits at a cosine of 0.99997 or more. (24 random layers: head weights 5e-4, 2e-3 beside the byte's.)
# - a teacher with weights perturbed by a tenth: 1.1e-2, 4e-2; 4.8e-2, 0.44; logits 0.990 in the mean, 0.94 at worst;
# - a teacher of the same shape and labels from another training: 5e-2, 0.12; 0.29, 4; logits 0.95, 0.84.
LIMITS = {
    "rollout": {"mean_kl": 2e-3, "worst_kl": 2e-2},
    "layer_weights": {"mean_kl": 5e-3, "worst_kl": 0.1},
    "head_weights": {"mean_kl": 5e-3, "worst_kl": 0.1},
    "logits": {"mean_cosine": 0.999, "worst_cosine": 0.99},
    "features": {"mean_cosine": 0.9999, "worst_cosine": 0.999},
}


@dataclass(frozen=True)
class Agreement:
    """How near an array of the cache is to what the teacher, or the front end, gives now.

    Each row of frame weights (of a clip, a layer, a head) counts by itself; logits and features count by clip.
    """

    mean_cosine: float
    worst_cosine: float
    mean_kl: float | None  # KL(now || cached) of weights
    worst_kl: float | None
    worst_difference: float | None  # the largest absolute one of logits or features


@dataclass(frozen=True)
class Verification:
    """The outcome: the cache is verified if there are no problems."""

    n_clips: int  # heard again
    arrays: dict[str, Agreement]
    problems: list[str]


def verify_cache(cache: Cache, manifest: Manifest, teacher_name: str, n_clips: int = 32, seed: int = 0) -> Verification:
    """Returns how a sample of the cache agrees with its teacher, its dataset and its front end.

    Args:
        cache: The cache.
        manifest: The dataset it is said to be built from.
        teacher_name: The teacher it is said to be built with: "bundled", or a folder.
        n_clips: Size of the sample, spread evenly over the splits.
        seed: Of the draw.

    Raises:
        TkdError: the dataset has other labels than the cache, the teacher does not fit it, a recording cannot be read,
            or the cache has views that were drawn in a way unknown here.
        CacheError: what is read of the cache is damaged.
    """
    front_end, problems = _front_end(cache)
    views = views_of(cache)
    if views is not None:
        manifest = with_views(manifest, views)
    config = BuildConfig(
        keep=cache.layout.keep,
        bfloat16=cache.metadata["pooling"].get("arithmetic") == "bfloat16",
        with_features=cache.layout.with_features and front_end is not None,
        views=0 if views is None else views.n,
    )
    stated = cache.metadata["dataset"]
    if list(manifest.info.labels) != list(stated["labels"]):
        raise TkdError(
            f"{manifest.root}: the dataset {manifest.info.name} has the labels {', '.join(manifest.info.labels)}; the "
            f"cache was built from {stated['name']}, with {', '.join(stated['labels'])}. Give that with --data."
        )
    plan = plan_build(manifest, teacher_name, config, front_end)
    clips, ids = {clip.clip_id: clip for clip in manifest.clips}, cache.read("clip_id").tolist()
    problems += _provenance_problems(cache.metadata, plan, teacher_name)
    problems += _missing_clips(ids, clips, manifest.root)
    sample = draw(cache, [row for row, clip_id in enumerate(ids) if clip_id in clips], n_clips, seed)
    now, cached = _hear_again(cache, plan, sample, [clips[ids[row]] for row in sample])
    for row, digest, stated in zip(sample, now.pop("audio_sha256"), cached.pop("audio_sha256"), strict=True):
        if digest != stated:
            problems.append(f"audio: clip {ids[row]} is not the recording that the cache was made from.")
    arrays = {}
    for name in now if sample else ():
        lengths = cache.read("n_feature_frames" if name == "features" else "n_frames")[sample]
        stops = [None] * len(sample) if name == "logits" else lengths.tolist()
        pairs = [(a[..., :stop], b[..., :stop]) for a, b, stop in zip(now[name], cached[name], stops, strict=True)]
        if any(a.shape != b.shape for a, b in pairs):
            problems.append(f"{name}: the cache has other sizes than this teacher and dataset give.")
            continue
        arrays[name] = agreement(name, pairs)
        problems += _beyond_rounding(name, arrays[name])
    return Verification(len(sample), arrays, problems)


def draw(cache: Cache, rows: Iterable[int], n_clips: int, seed: int) -> list[int]:
    """Returns up to `n_clips` of the rows, ascending, of each split as many as there are; views count as clips."""
    rng, rows = np.random.default_rng(seed), np.array(list(rows), int)
    by_split = [rng.permutation(np.intersect1d(rows, cache.split_rows(split))).tolist() for split in SPLITS]
    in_turn = [row for row in chain.from_iterable(zip_longest(*by_split)) if row is not None]
    return sorted(in_turn[:n_clips])


def agreement(name: str, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Agreement:
    """Returns how near pairs (now, cached) of one clip each are; both (..., valid frames) or (class,)."""
    cosines, divergences, differences = [], [], []
    for pair in pairs:
        now, cached = (values.astype(np.float64) for values in pair)
        if name in WEIGHTS:
            divergences.append(_kl(now, cached).ravel())
        else:
            now, cached = now.ravel(), cached.ravel()
            differences.append(np.abs(now - cached).max())
        cosines.append(
            np.ravel((now * cached).sum(-1) / np.linalg.norm(now, axis=-1) / np.linalg.norm(cached, axis=-1))
        )
    cosine, kl = np.concatenate(cosines), np.concatenate(divergences) if divergences else None
    return Agreement(
        float(cosine.mean()),
        float(cosine.min()),
        None if kl is None else float(kl.mean()),
        None if kl is None else float(kl.max()),
        float(max(differences)) if differences else None,
    )


def _kl(now: np.ndarray, cached: np.ndarray) -> np.ndarray:
    """Returns KL(now || cached) over the last axis; a weight that float16 made 0 counts as half its smallest number."""
    cached = np.maximum(cached, 2.0**-25)
    now, cached = (weights / weights.sum(-1, keepdims=True) for weights in (now, cached))
    return (now * np.log(np.maximum(now, 1e-30) / cached)).sum(-1)


def _hear_again(
    cache: Cache, plan: Plan, sample: list[int], clips: list[Clip]
) -> tuple[dict[str, list[np.ndarray]], dict[str, list[np.ndarray]]]:
    """Returns, by array and clip, what the teacher and the front end give now, and what the cache holds."""
    names = ["rollout", "logits", "audio_sha256"]
    names += ["features"] if plan.config.with_features else []
    names += {"rollout": [], "layers": ["layer_weights"], "heads": ["head_weights"]}[plan.config.keep]
    now, cached = {name: [] for name in names}, {name: [] for name in names}
    size = cache.layout.partition_size
    with Progress("running the teacher", len(sample), "clips") as progress:
        for index, group in groupby(zip(sample, clips, strict=True), lambda pair: pair[0] // size):
            rows, heard = zip(*group, strict=True)
            said = run_teacher(plan, heard, progress)
            for name in names:
                stored = cache.read(name, [index], decode=False)[[row - index * size for row in rows]]
                now[name] += list(said[name])
                cached[name] += list(cache.decode(name, stored))
    return now, cached


def _front_end(cache: Cache) -> tuple[LogMelConfig | None, list[str]]:
    """Returns the cache's front end, None if it is unknown here; and in words, where it is not this version's."""
    differing = unequal(cache.metadata["features"], LogMelConfig().metadata())
    problems = [f"front end: {text} with this tkd." for text in differing]
    try:
        return LogMelConfig.from_metadata(cache.metadata["features"]), problems
    except TkdError:
        return None, problems


def _provenance_problems(metadata: Mapping[str, Any], plan: Plan, teacher_name: str) -> Iterator[str]:
    """Yields how the cache's teacher, dataset and pooling are not the given ones."""
    here = plan.outline.metadata
    for what, given, key in (
        ("teacher", teacher_name, "sha256"),
        ("dataset", plan.manifest.root, "manifest_sha256"),
    ):
        digests = [side[what][key][:12] for side in (here, metadata)]
        if digests[0] != digests[1]:
            yield f"{what}: {given} is not the cache's: its digest is {digests[0]}..., the cache's {digests[1]}..."
    readouts = [side["teacher"].get("readout") for side in (here, metadata)]
    if readouts[0] != readouts[1]:
        yield f"teacher: {teacher_name} has the readout {readouts[0]}, the cache's had {readouts[1]}."
    yield from (f"pooling: {text} with this tkd." for text in unequal(metadata["pooling"], here["pooling"]))


def _missing_clips(ids: Iterable[str], clips: Mapping[str, Clip], root: Path) -> Iterator[str]:
    missing = [clip_id for clip_id in ids if clip_id not in clips]
    if missing:
        first = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        yield f"dataset: {len(missing)} clips of the cache are not in {root}: {first}"


def _beyond_rounding(name: str, found: Agreement) -> Iterator[str]:
    for figure, limit in LIMITS[name].items():
        value, is_kl = getattr(found, figure), figure.endswith("kl")
        if not (value <= limit if is_kl else value >= limit):  # NaN, too
            yield f"{name}: {figure} {value:.3g}, rounding leaves {'at most' if is_kl else 'at least'} {limit:g}."
