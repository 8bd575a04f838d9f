"""The splits of a cache: resident where they fit the memory given, else read again in each pass."""

from collections.abc import Sequence
from pathlib import Path

from cache_schema import SPLITS, Cache
from pipeline.distill.data.memory import default_memory
from pipeline.distill.data.order import POOL
from pipeline.distill.data.splits import Split
from pipeline.distill.frame_weights import FrameWeights
from pipeline.errors import TkdError

_COPIES = 3  # of a partition, while it is read: compressed, decoded, verified
_READERS = 2  # the next training epoch is read ahead while another split is scored
_ROW_BYTES = 128  # of a clip: its name, label, lengths and event, always in memory; several labels come on top


def load_splits(
    cache: Cache,
    drop_first: bool = True,
    memory: int | None = None,
    names: Sequence[str] = SPLITS,
    pool: int = POOL,
    views: bool = True,
    frame_weights: str = "rollout",
    fraction: float = 1.0,
    seed: int = 0,
    decoded: Path | None = None,
) -> dict[str, Split]:
    """Returns splits of a cache, ready to be read; in the order of `names` each stays in memory if it fits.

    Args:
        cache: A finished cache with features.
        drop_first: Leave the readout's own place out of the rollout, see `without_readout`.
        memory: Bytes that all of them together may take; None for half of what is available.
        names: The splits wanted.
        pool: Partitions shuffled together; another number gives another order.
        views: False takes of every clip the clip itself, in each epoch.
        frame_weights: What the training clips are taught with, see `FrameWeights`. The other splits have the rollout.
        fraction: Share of the training clips that is used.
        seed: Draws that share.
        decoded: The folder of `decoded_once`: they are mapped from there, which takes no memory of this process.

    Raises:
        TkdError: the cache has no features or at another sample rate than the teacher's, not the frame weights, or a
            split without clips or without labels; or too little memory even to read it piece by piece.
        CacheError: the small columns are missing or damaged.
    """
    if not cache.layout.with_features:
        raise TkdError(
            f"{cache.path}: holds no features. Make them from your copy of the recordings with tkd cache attach."
        )
    rates = [cache.metadata[of]["sample_rate"] for of in ("features", "teacher")]
    if rates[0] != rates[1]:
        raise TkdError(
            f"{cache.path}: features at {rates[0]} Hz, frame weights and events at {rates[1]} Hz. Training needs them "
            "at one rate: make the features from recordings at the teacher's."
        )
    taught = FrameWeights.parse(frame_weights)
    taught.require(cache)
    splits = {
        name: Split(cache, name, drop_first, pool, views, taught, fraction, seed)
        if name == "train"
        else Split(cache, name, drop_first, pool, views, FrameWeights("rollout"))
        for name in names
    }
    if decoded is not None:
        for split in splits.values():
            split.map(decoded)
        return splits
    memory = default_memory() if memory is None else memory

    resident: list[str] = []
    for name in names:
        if _needed(splits, [*resident, name]) <= max(memory, _needed(splits, resident)):
            resident.append(name)
    needed = _needed(splits, resident)
    if needed > memory:
        raise TkdError(
            f"{cache.path}: reading it takes {needed:,} bytes of memory at least, it may take {memory:,}. "
            f"Give --memory {-(-needed // 2**20)}M or more."
        )
    for name, split in splits.items():
        split.resident = name in resident
    return splits


def _needed(splits: dict[str, Split], resident: Sequence[str]) -> int:
    """Returns the bytes at work at most if these splits are resident and the others are not."""
    any_split = next(iter(splits.values()))
    layout, rows = any_split.cache.layout, sum(map(len, splits.values()))
    kept = sum(splits[name].n_bytes for name in resident)
    streams = {name: split.stream_bytes(split.pool if name == "train" else 1) for name, split in splits.items()}
    streams = {name: 0 if name in resident else size for name, size in streams.items()}
    training = streams.pop("train", 0)  # is read ahead while another split is scored
    largest = max(split.read_bytes for split in splits.values())
    reading = _READERS * _COPIES * min(layout.partition_size, layout.n_clips) * largest
    row_bytes = _ROW_BYTES + (layout.n_classes if layout.task == "multi_label" else 0)
    return rows * row_bytes + reading + kept + training + max(streams.values(), default=0)
