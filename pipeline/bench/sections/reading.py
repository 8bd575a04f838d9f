"""How fast clips come from a cache, beside a numpy memmap of the decoded arrays."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from cache_schema import Cache, convert_cache, open_cache
from pipeline.bench.compare import speed_row, take_turns
from pipeline.bench.results import Measured, Row, Table
from pipeline.bench.sections.noise_cache import make_cache
from pipeline.bench.sections.stage_two import optimise
from pipeline.distill.config import TrainConfig
from pipeline.distill.data import Clips, Split, load_splits
from pipeline.distill.distillation import Distillation
from pipeline.distill.optimisation import build_optimizer
from pipeline.progress import say
from students import build_student

_BATCH_SIZE = 64
_LARGE = ("features", "rollout", "logits")


class Memmap:
    """The reference: the training clips decoded into .npy files, taken from them at random, batch by batch."""

    def __init__(self, cache: Cache, folder: Path) -> None:
        rows = cache.split_rows("train")
        for name in _LARGE:
            np.save(folder / f"{name}.npy", cache.read(name)[rows])
        self.large = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in _LARGE]
        self.clip_id = cache.read("clip_id")[rows]
        self.lengths, self.labels, self.weight_lengths, self.start, self.stop = (
            torch.from_numpy(cache.read(name)[rows]).long()
            for name in ("n_feature_frames", "label", "n_frames", "event_start", "event_stop")
        )

    def batches(self) -> Iterable[Clips]:
        """Yields the batches of an epoch."""
        for rows in torch.randperm(len(self.clip_id)).split(_BATCH_SIZE):
            features, rollout, logits = (torch.from_numpy(values[rows.numpy()]) for values in self.large)
            yield Clips(
                self.clip_id[rows.numpy()],
                features,
                self.lengths[rows],
                self.labels[rows],
                rollout.float(),
                self.weight_lengths[rows],
                self.start[rows],
                self.stop[rows],
                logits.float(),
            )


def sources(path: Path, budget: float, pool: int) -> dict[str, Callable[[], Iterable[Clips]]]:
    """Returns what gives an epoch's batches: the memmap, and the cache resident and streamed, from both containers.

    Args:
        path: A Zarr cache; the other files are written beside it.
        budget: Memory of the streamed ones, as a share of the cache's arrays.
        pool: Partitions shuffled together.
    """
    convert_cache(path, path.with_suffix(".h5"))
    made = {"memmap": Memmap(open_cache(path), path.parent).batches}
    for memory in ("resident", "streamed"):
        for suffix in (".zarr", ".h5"):
            cache = open_cache(path.with_suffix(suffix))
            limit = None if memory == "resident" else int(budget * array_bytes(cache))
            split = load_splits(cache, memory=limit, pool=pool)["train"]
            if split.resident != (memory == "resident"):
                raise RuntimeError(f"{memory} expected; memory {limit}")
            made[f"{memory}, {suffix}"] = _epoch(split)
    return made


def array_bytes(cache: Cache) -> int:
    """Returns the size of the cache's large arrays in memory."""
    layout = cache.layout
    return 2 * layout.n_clips * (layout.n_features * layout.n_feature_frames + layout.n_frames + layout.n_classes)


def _epoch(split: Split) -> Callable[[], Iterable[Clips]]:
    return lambda: split.shuffled(_BATCH_SIZE, [0])


def load(batches: Iterable[Clips]) -> None:
    """Takes the batches and does nothing with them."""
    for batch in batches:
        batch.features.float()


def trainer(cache: Cache) -> Callable[[Iterable[Clips]], None]:
    """Returns what trains a student on batches, as `tkd train` does."""
    config = TrainConfig(student="tc_resnet")
    distillation = Distillation(build_student(config.student, 12), config, cache)
    optimizer = build_optimizer(distillation, config)

    def train(batches: Iterable[Clips]) -> None:
        for batch in batches:
            optimise(distillation(batch).total, distillation.student, optimizer, config)

    return train


def first_batch_seconds(path: Path, memory: int | None, pool: int) -> float:
    """Returns the time from opening a cache to its first training batch."""
    started = time.perf_counter()
    next(iter(load_splits(open_cache(path), memory=memory, pool=pool)["train"].shuffled(_BATCH_SIZE, [0])))
    return time.perf_counter() - started


def peak_growth(path: Path, memory: int, pool: int) -> int:
    """Returns by how many bytes a fresh process grows at most while it goes through an epoch."""
    program = f"""
from cache_schema import open_cache
from pipeline.bench.compare import peak_memory
from pipeline.distill.data import load_splits
cache = open_cache({str(path)!r})
before = peak_memory()
for batch in load_splits(cache, memory={memory}, pool={pool})["train"].shuffled({_BATCH_SIZE}, [0]):
    pass
print(peak_memory() - before)
"""
    return int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)


def measure(quick: bool) -> Measured:
    """Compares reading a cache with reading a memmap, alone and in training; some 0.7 GB of temporary files."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name in ("alone", "training"):
            (folder / name).mkdir()
        few = make_cache(folder / "training" / "cache.zarr", 512, 64, 32)
        epochs, train = sources(few, 0.9, 4), trainer(open_cache(few))
        variants = {name: lambda epoch=epoch: train(epoch()) for name, epoch in epochs.items()}
        training = _rows(take_turns(variants, 1 if quick else 5))
        notes = ["Clips of 8 s, batches of 64; streamed: the cache is larger than the memory it may take."]
        if quick:
            many, budget, pool = make_cache(folder / "alone" / "cache.zarr", 512, 64, 32), 0.9, 4
        else:
            many, budget, pool = make_cache(folder / "alone" / "cache.zarr", 8192, 256, 256), 0.75, 8
        epochs = sources(many, budget, pool)
        variants = {name: lambda epoch=epoch: load(epoch()) for name, epoch in epochs.items()}
        alone = _rows(take_turns(variants, 3 if quick else 9))
        n_bytes = array_bytes(open_cache(many))
        for suffix in (".zarr", ".h5"):
            path, memory = many.with_suffix(suffix), int(budget * n_bytes)
            size, budgeted = f"{n_bytes / 2**20:.0f} MiB", f"{memory / 2**20:.0f} MiB"
            resident, streamed = first_batch_seconds(path, None, pool), first_batch_seconds(path, memory, pool)
            notes.append(
                f"`{suffix}` with {size} of arrays: the first batch after {resident:.2f} s where it is kept in memory, "
                f"{streamed:.2f} s where {budgeted} are allowed; the process then grows by "
                f"{peak_growth(path, memory, pool) / 2**20:.0f} MiB."
            )
    memmap = "numpy memmap of the decoded arrays"
    return Measured(
        [
            Table("speed of training TC-ResNet from a cache", memmap, training, higher_is_better=True),
            Table("speed of reading a cache, alone", memmap, alone, higher_is_better=True),
        ],
        notes,
    )


def _rows(seconds: dict[str, list[float]]) -> list[Row]:
    rows = [speed_row(name, own, seconds["memmap"]) for name, own in seconds.items() if name != "memmap"]
    say("reading: " + ", ".join(f"{row.what} {row.ratio:.2f}" for row in rows))
    return rows
