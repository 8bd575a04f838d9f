"""What a version-1 cache holds: its sizes, its arrays and the metadata it must carry, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cache_schema.errors import CacheError
from cache_schema.format.coding import DELTA_UINT8

FORMAT_VERSION = 1
SPLITS = ("train", "validation", "test")  # a split is stored as its position here
KEEPS = ("rollout", "layers", "heads")  # attention kept, from least to most
CHUNK_CLIPS = 64  # clips per inner chunk: the unit of one read

# What `tkd_cache` must say beside the layout. Further keys are welcome: they are kept and become part of cache_id.
REQUIRED_METADATA = {
    "teacher": ("name", "sha256", "n_layers", "n_heads", "hop_length", "frame_offset", "sample_rate", "score"),
    "dataset": ("name", "manifest_sha256", "task", "labels", "licence", "recipe"),
    "features": ("kind", "sample_rate", "hop_length"),
    "pooling": (),
    "software": (),
}
STATE_KEYS = ("format_version", "cache_id", "complete", "layout")  # written by this package, never by its caller
# Not part of cache_id: the id itself, the flag, and the versions that happened to make the same content.
UNIDENTIFYING_KEYS = ("cache_id", "complete", "software")


@dataclass(frozen=True)
class Layout:
    """The sizes of a cache and what it keeps; every shape follows from it.

    Attributes:
        n_clips: rows.
        n_frames: teacher frames of the longest clip; shorter ones are padded to it.
        n_feature_frames: feature frames of the longest clip.
        n_features: values per feature frame (mel bands).
        n_classes: classes of the task.
        n_layers: attention layers of the teacher.
        n_heads: attention heads per layer.
        task: one label per clip, or any number of them.
        keep: attention kept beside `rollout`: nothing, `layer_weights`, or `head_weights`.
        with_features: False for a detached cache, whose features its reader computes.
        partition_size: clips per partition; a multiple of 64, or less than 64.

    Raises:
        CacheError: a size is not positive, or a choice is unknown.
    """

    n_clips: int
    n_frames: int
    n_feature_frames: int
    n_features: int
    n_classes: int
    n_layers: int
    n_heads: int
    task: Literal["single_label", "multi_label"]
    keep: Literal["rollout", "layers", "heads"] = "rollout"
    with_features: bool = True
    partition_size: int = 512

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if (name.startswith("n_") or name == "partition_size") and not (type(value) is int and value > 0):
                raise CacheError(f"layout: {name} is {value!r}, it must be a positive int.")
        for name, known in (("task", ("single_label", "multi_label")), ("keep", KEEPS)):
            if getattr(self, name) not in known:
                raise CacheError(f"layout: unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}.")
        if self.partition_size > CHUNK_CLIPS and self.partition_size % CHUNK_CLIPS:
            raise CacheError(f"layout: partition_size {self.partition_size} is not a multiple of {CHUNK_CLIPS}.")

    @property
    def n_partitions(self) -> int:
        return -(-self.n_clips // self.partition_size)

    def partition_rows(self, index: int) -> slice:
        """The rows of partition `index`; the last partition may be shorter.

        Raises:
            CacheError: there is no such partition.
        """
        if not 0 <= index < self.n_partitions:
            raise CacheError(f"no partition {index}; this layout has partitions 0 to {self.n_partitions - 1}.")
        start = index * self.partition_size
        return slice(start, min(start + self.partition_size, self.n_clips))

    def place(self, index: int) -> str:
        """Partition `index` in words, for messages."""
        rows = self.partition_rows(index)
        return f"partition {index} (clips {rows.start} to {rows.stop - 1})"

    def size(self, dim: str) -> int:
        """The length of the named dimension."""
        return getattr(self, "n_classes" if dim == "class" else f"n_{dim}s")


@dataclass(frozen=True)
class Grid:
    """How an array lies on disk: its shape, the inner chunks, and the shards (None: every chunk is its own file)."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None


@dataclass(frozen=True)
class ArraySpec:
    """One array of the format.

    Attributes:
        name: its name; never that of a dimension, which xarray would take for a coordinate.
        dims: dimension names; the first is `clip`, or `partition`.
        dtype: stored dtype by numpy's name, or "string" (UTF-8, any length).
        fill: what a lost file reads as; never a value that a whole cache may hold.
        written: at creation (one chunk), with its partition (one shard each), or by finalise.
        description: stored beside the data.
        required_if: the layout fields, with their values, under which the array is required; otherwise it is absent.
        attributes: further attributes stored beside the data.
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    fill: float | int | str
    written: Literal["creation", "partition", "finalise"]
    description: str
    required_if: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def coding(self) -> Mapping[str, Any] | None:
        """How stored codes become values, or None where values are stored as they are."""
        return self.attributes.get("coding")

    def grid(self, layout: Layout) -> Grid:
        """The shape, chunks and shards under `layout`."""
        first, *others = (layout.size(dim) for dim in self.dims)
        if self.written != "partition":
            return Grid((first, *others), (first, *others), None)
        chunk_clips = min(CHUNK_CLIPS, layout.partition_size)
        return Grid((first, *others), (chunk_clips, *others), (layout.partition_size, *others))


NAN = float("nan")
ARRAYS = (
    ArraySpec("clip_id", ("clip",), "string", "", "creation", "unique name of the clip: the key"),
    ArraySpec(
        "split",
        ("clip",),
        "uint8",
        255,
        "creation",
        "split the clip belongs to; rows are in split order",
        attributes={"flag_values": list(range(len(SPLITS))), "flag_meanings": " ".join(SPLITS)},
    ),
    ArraySpec(
        "label",
        ("clip",),
        "int32",
        -1,
        "creation",
        "index into tkd_cache.dataset.labels",
        required_if={"task": "single_label"},
    ),
    ArraySpec(
        "labels",
        ("clip", "class"),
        "uint8",
        255,
        "creation",
        "1 where the clip has the class of this index",
        required_if={"task": "multi_label"},
    ),
    ArraySpec("n_frames", ("clip",), "int32", -1, "creation", "valid teacher frames"),
    ArraySpec("n_feature_frames", ("clip",), "int32", -1, "creation", "valid feature frames"),
    ArraySpec("event_start", ("clip",), "int64", -2, "creation", "first sample of the event, -1 if unknown"),
    ArraySpec("event_stop", ("clip",), "int64", -2, "creation", "sample after the event's last, -1 if unknown"),
    ArraySpec("view", ("clip",), "uint8", 255, "creation", "0: the clean row; 1, 2, ...: augmentations of the clip"),
    ArraySpec(
        "rollout",
        ("clip", "frame"),
        "float16",
        NAN,
        "partition",
        "attention rollout of the readout: >= 0, sums to 1 over the valid frames, 0 beyond",
    ),
    ArraySpec(
        "layer_weights",
        ("clip", "layer", "frame"),
        "uint8",
        0,
        "partition",
        "attention each frame receives, per layer, mean over heads",
        required_if={"keep": "layers"},
        attributes={"coding": DELTA_UINT8},
    ),
    ArraySpec(
        "head_weights",
        ("clip", "layer", "head", "frame"),
        "uint8",
        0,
        "partition",
        "attention each frame receives, per layer and head",
        required_if={"keep": "heads"},
        attributes={"coding": DELTA_UINT8},
    ),
    ArraySpec("logits", ("clip", "class"), "float16", NAN, "partition", "the teacher's output before softmax/sigmoid"),
    ArraySpec(
        "features",
        ("clip", "feature", "feature_frame"),
        "float16",
        NAN,
        "partition",
        "what students train on; made as tkd_cache.features says",
        required_if={"with_features": True},
    ),
    ArraySpec("audio_sha256", ("clip",), "string", "", "partition", "SHA-256 of the clip's PCM, lower-case hex"),
    ArraySpec("partition_digest", ("partition",), "string", "", "finalise", "digest of the partition's content"),
)


def required_arrays(layout: Layout, written: str | None = None) -> dict[str, ArraySpec]:
    """The arrays a cache of this layout holds, by name; only those written at the given moment if one is given."""
    return {
        spec.name: spec
        for spec in ARRAYS
        if all(getattr(layout, name) == value for name, value in spec.required_if.items())
        and written in (None, spec.written)
    }
