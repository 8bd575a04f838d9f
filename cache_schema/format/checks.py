"""What the values of a cache must be: one table, held when a cache is written and again when it is validated."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache_schema.format.coding import code_levels
from cache_schema.format.schema import REQUIRED_METADATA, SPLITS, ArraySpec, Layout

SUM_TOLERANCE = 2e-3  # float16 rounds each weight by up to 2**-11 of it, unbiased; a wrong pooling misses by far more


@dataclass(frozen=True)
class Context:
    """What the values of a range of clips are checked against.

    Attributes:
        layout: the sizes.
        metadata: the `tkd_cache` attribute.
        rows: the row arrays that could be read, of the same clips.
        first_row: the row number of the first of them.
    """

    layout: Layout
    metadata: Mapping[str, Any]
    rows: Mapping[str, np.ndarray]
    first_row: int = 0

    def beyond(self, ndim: int) -> np.ndarray:
        """True beyond the valid frames; (clip, 1, ..., frame) with `ndim` axes."""
        beyond = np.arange(self.layout.n_frames) >= self.rows["n_frames"][:, None]
        return np.expand_dims(beyond, tuple(range(1, ndim - 1)))


@dataclass(frozen=True)
class Check:
    """A promise about each clip of an array.

    Attributes:
        promise: what must hold, in words.
        test: from values and context to (bad (clip,) bool, found (clip, ...): what to show of a bad clip).
        needs: row arrays the test looks at.
    """

    promise: str
    test: Callable[[np.ndarray, Context], tuple[np.ndarray, np.ndarray]]
    needs: tuple[str, ...] = ()


def _per_clip(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)  # (clip, everything else)


def _finite(values: np.ndarray, _: Context) -> tuple[np.ndarray, np.ndarray]:
    n_bad = _per_clip(~np.isfinite(values)).sum(axis=1)
    return n_bad > 0, n_bad


def _non_negative(values: np.ndarray, _: Context) -> tuple[np.ndarray, np.ndarray]:
    lowest = _per_clip(values).min(axis=1)
    return lowest < 0, lowest


def _zero_beyond(values: np.ndarray, context: Context) -> tuple[np.ndarray, np.ndarray]:
    n_bad = _per_clip((values != 0) & context.beyond(values.ndim)).sum(axis=1)
    return n_bad > 0, n_bad


def _normalised(values: np.ndarray, context: Context) -> tuple[np.ndarray, np.ndarray]:
    totals = _per_clip(values.sum(axis=-1, dtype=np.float64, where=~context.beyond(values.ndim)))
    worst = np.abs(totals - 1).argmax(axis=1)
    found = np.take_along_axis(totals, worst[:, None], axis=1)[:, 0]
    return ~(np.abs(found - 1) <= SUM_TOLERANCE), found


def _coded(codes: np.ndarray, context: Context) -> tuple[np.ndarray, np.ndarray]:
    n_bad = _per_clip((code_levels(codes) == 0) != context.beyond(codes.ndim)).sum(axis=1)
    return n_bad > 0, n_bad


def _between(low: int, high: Callable[[Layout], int]) -> Callable[[np.ndarray, Context], tuple[np.ndarray, np.ndarray]]:
    def test(values: np.ndarray, context: Context) -> tuple[np.ndarray, np.ndarray]:
        outside = _per_clip((values < low) | (values > high(context.layout)))
        found = np.take_along_axis(_per_clip(values), outside.argmax(axis=1)[:, None], axis=1)[:, 0]
        return outside.any(axis=1), found

    return test


def _unique(values: np.ndarray, _: Context) -> tuple[np.ndarray, np.ndarray]:
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return (first[inverse] != np.arange(len(values))) | (values == ""), values


def _in_split_order(values: np.ndarray, _: Context) -> tuple[np.ndarray, np.ndarray]:
    return values < np.maximum.accumulate(values), values


def _event(starts: np.ndarray, context: Context) -> tuple[np.ndarray, np.ndarray]:
    stops = context.rows["event_stop"]
    # A teacher whose frame 0 is centred at frame_offset sees 2 * frame_offset samples per frame, and drops the rest.
    try:
        teacher = context.metadata["teacher"]
        end = context.rows["n_frames"].astype(np.int64) * teacher["hop_length"] + 2 * teacher["frame_offset"]
    except (KeyError, TypeError):  # metadata_faults names them
        end = np.inf
    inside = (starts >= 0) & (starts < stops) & (stops <= end)
    return ~(inside | ((starts == -1) & (stops == -1))), np.stack([starts, stops], axis=1)


def _view(views: np.ndarray, context: Context) -> tuple[np.ndarray, np.ndarray]:
    ids, labels = context.rows["clip_id"], context.rows.get("label", context.rows.get("labels"))
    row_of = {ids[row]: row for row in np.flatnonzero(views == 0)}
    bad = (views > 0) & (context.rows["split"] != SPLITS.index("train"))
    for row in np.flatnonzero(views):
        clip = row_of.get(ids[row].removesuffix(f"#{views[row]}"))
        bad[row] |= clip is None or (labels is not None and not np.array_equal(labels[row], labels[clip]))
    return bad, views


def _sha256(values: np.ndarray, _: Context) -> tuple[np.ndarray, np.ndarray]:
    bad = [len(text) != 64 or bool(set(text) - set("0123456789abcdef")) for text in values]
    return np.array(bad, bool), values


FINITE = Check("finite as float16 (up to 65504); found is the number of values that are not", _finite)
WEIGHTS = (
    FINITE,
    Check("non-negative", _non_negative),
    Check("exactly 0 beyond n_frames; found is the number of values that are not", _zero_beyond, ("n_frames",)),
    Check(f"of sum 1 +- {SUM_TOLERANCE} over the valid frames", _normalised, ("n_frames",)),
)
CODES = (
    Check("of level 0 beyond n_frames and nowhere else; found is the number of exceptions", _coded, ("n_frames",)),
)
CHECKS = {
    "clip_id": (Check("unique and not empty", _unique),),
    "split": (
        Check(f"0 to {len(SPLITS) - 1} ({', '.join(SPLITS)})", _between(0, lambda _: len(SPLITS) - 1)),
        Check("in split order", _in_split_order),
    ),
    "label": (Check("a class index, 0 to n_classes - 1", _between(0, lambda layout: layout.n_classes - 1)),),
    "labels": (Check("0 or 1", _between(0, lambda _: 1)),),
    "n_frames": (Check("1 to the length of frame", _between(1, lambda layout: layout.n_frames)),),
    "n_feature_frames": (
        Check("1 to the length of feature_frame", _between(1, lambda layout: layout.n_feature_frames)),
    ),
    "event_start": (
        Check("0 <= event_start < event_stop <= the clip's samples, or -1 -1", _event, ("event_stop", "n_frames")),
    ),
    "view": (
        Check("0, or k > 0 of a row CLIP#k in train that has the labels of the row CLIP", _view, ("clip_id", "split")),
    ),
    "rollout": WEIGHTS,
    "layer_weights": CODES,
    "head_weights": CODES,
    "logits": (FINITE,),
    "features": (FINITE,),
    "audio_sha256": (Check("64 lower-case hex digits", _sha256),),
}


def value_faults(name: str, values: np.ndarray, context: Context, checks: Sequence[Check] | None = None) -> list[str]:
    """Every promise the values break, each with the number of clips, the first of them and what stands there.

    Args:
        name: the array's name.
        values: stored values (clip, ...) of the clips of `context`.
        context: what to check against; a check whose row arrays are not there is left out.
        checks: other checks than those of the array's name.
    """
    faults = []
    for check in CHECKS.get(name, ()) if checks is None else checks:
        if not set(check.needs) <= set(context.rows):
            continue
        with np.errstate(invalid="ignore"):  # NaN is a finding of its own
            bad, found = check.test(values, context)
        if bad.any():
            first = int(bad.argmax())
            clip = f", {context.rows['clip_id'][first]!r}" if "clip_id" in context.rows else ""
            where = f"{int(bad.sum())} of {len(bad)} clips, first row {context.first_row + first}{clip}"
            faults.append(f"{name}: {where}: found {found[first]}, must be {check.promise}.")
    return faults


def name_faults(found: Iterable[str], specs: Mapping[str, ArraySpec]) -> Iterator[str]:
    """The arrays that are missing and those that are not of the format."""
    found = set(found)
    for name in sorted(specs.keys() - found):
        yield f"{name}: missing."
    for name in sorted(found - specs.keys()):
        yield f"{name}: not an array of this layout; it has {', '.join(specs)}."


def metadata_faults(metadata: Mapping[str, Any], layout: Layout) -> list[str]:
    """Everything `tkd_cache` lacks, or says otherwise than the layout does."""
    faults = []
    for section, keys in REQUIRED_METADATA.items():
        if not isinstance(metadata.get(section), Mapping):
            faults.append(f"tkd_cache.{section}: missing; it holds {', '.join(keys) or 'anything'}.")
        else:
            faults += [f"tkd_cache.{section}.{key}: missing." for key in keys if key not in metadata[section]]
    if faults:
        return faults
    teacher, dataset = metadata["teacher"], metadata["dataset"]
    pairs = [
        ("dataset.task", dataset["task"], layout.task),
        ("teacher.n_layers", teacher["n_layers"], layout.n_layers),
        ("teacher.n_heads", teacher["n_heads"], layout.n_heads),
    ]
    faults += [
        f"tkd_cache.{key}: {found!r}, the layout says {sized!r}." for key, found, sized in pairs if found != sized
    ]
    labels = dataset["labels"]
    if not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        faults.append("tkd_cache.dataset.labels: must be a list of names.")
    elif len(set(labels)) != layout.n_classes or len(labels) != layout.n_classes:
        faults.append(
            f"tkd_cache.dataset.labels: {len(labels)} names, n_classes is {layout.n_classes}; all must differ."
        )
    for key in ("hop_length", "sample_rate"):
        if not (isinstance(teacher[key], int) and teacher[key] > 0):
            faults.append(f"tkd_cache.teacher.{key}: {teacher[key]!r}, it must be a positive whole number.")
    if not (isinstance(teacher["frame_offset"], int | float) and teacher["frame_offset"] >= 0):
        faults.append(f"tkd_cache.teacher.frame_offset: {teacher['frame_offset']!r}, it must be samples, 0 or more.")
    return faults
