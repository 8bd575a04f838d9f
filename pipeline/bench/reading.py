"""How fast clips come from a cache, beside a numpy memmap of the decoded arrays."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from cache_schema import Cache, Layout, convert_cache, create_cache, finalise, open_cache, write_partition
from pipeline.bench.compare import speeds
from pipeline.distill.config import TrainConfig
from pipeline.distill.data import Clips, Split, load_splits
from pipeline.distill.distillation import Distillation
from pipeline.distill.optimisation import build_optimizer
from pipeline.extract.features import LogMel, LogMelConfig
from students import build_student

_N_SAMPLES = 8 * 16000  # 8 s
_N_FRAMES = 399  # of features and teacher
_N_DISTINCT = 64  # clips; they recur, once in each chunk, which are compressed one by one
_BATCH_SIZE = 64
_LARGE = ("features", "rollout", "logits")


def make_cache(path: Path, n_train: int, n_heldout: int, partition_size: int) -> Path:
    """Writes a cache of 8 s clips with real log-mels of bursts in noise; `n_heldout` clips each in the other splits."""
    rng, n = np.random.default_rng(0), n_train + 2 * n_heldout
    layout = Layout(n, _N_FRAMES, _N_FRAMES, 40, 12, 4, 4, "single_label", partition_size=partition_size)
    log_mel, config = LogMel(LogMelConfig()), LogMelConfig()
    time_ = np.linspace(-1, 1, _N_SAMPLES)
    envelopes = [0.01 + 0.3 * np.exp(-((time_ - centre) ** 2) / 0.01) for centre in rng.uniform(-1, 1, _N_DISTINCT)]
    features = np.stack(
        [log_mel((envelope * rng.standard_normal(_N_SAMPLES)).astype(np.float32)) for envelope in envelopes]
    )
    weights = rng.dirichlet(np.full(_N_FRAMES, 0.3), _N_DISTINCT).astype(np.float32)
    rows = {
        "clip_id": np.array([f"{i:06d}" for i in range(n)]),
        "split": np.repeat(np.arange(3, dtype=np.uint8), [n_train, n_heldout, n_heldout]),
        "label": rng.integers(0, 12, n, dtype=np.int32),
        "n_frames": np.full(n, _N_FRAMES, np.int32),
        "n_feature_frames": np.full(n, _N_FRAMES, np.int32),
        "event_start": np.full(n, -1),
        "event_stop": np.full(n, -1),
        "view": np.zeros(n, np.uint8),
    }
    clock = {"hop_length": 320, "frame_offset": 199.5, "sample_rate": 16000}
    described = {
        "teacher": {"name": "bench", "sha256": "0" * 64, "n_layers": 4, "n_heads": 4, "score": 0.0, **clock},
        "dataset": {
            "name": "bench",
            "manifest_sha256": "0" * 64,
            "task": "single_label",
            "labels": [f"label {i}" for i in range(12)],
            "licence": "none",
            "recipe": {},
        },
        "features": config.metadata(),
        "pooling": {},
        "software": {},
    }
    create_cache(path, layout, rows, described)
    for index in range(layout.n_partitions):
        held = layout.partition_rows(index)
        chosen = np.arange(held.stop - held.start) % _N_DISTINCT
        arrays = {
            "features": features[chosen],
            "rollout": weights[chosen],
            "logits": rng.standard_normal((len(chosen), 12)).astype(np.float32),
            "audio_sha256": np.full(len(chosen), "0" * 64),
        }
        write_partition(path, index, arrays)
    finalise(path)
    return path


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


def trainer(cache: Cache, name: str = "tc_resnet") -> Callable[[Iterable[Clips]], None]:
    """Returns what trains a student on batches, as `tkd train` does."""
    config = TrainConfig(student=name)
    distillation = Distillation(build_student(name, 12), config, cache)
    optimizer = build_optimizer(distillation, config)

    def train(batches: Iterable[Clips]) -> None:
        for batch in batches:
            loss = distillation(batch).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return train


def first_batch_seconds(path: Path, memory: int | None) -> float:
    """Returns the time from opening a cache to its first training batch."""
    started = time.perf_counter()
    next(iter(load_splits(open_cache(path), memory=memory)["train"].shuffled(_BATCH_SIZE, [0])))
    return time.perf_counter() - started


def peak_growth(path: Path, memory: int) -> int:
    """Returns by how many bytes a fresh process grows at most while it goes through an epoch."""
    program = f"""
from cache_schema import open_cache
from pipeline.bench.compare import peak_memory
from pipeline.distill.data import load_splits
cache = open_cache({str(path)!r})
before = peak_memory()
for batch in load_splits(cache, memory={memory})["train"].shuffled({_BATCH_SIZE}, [0]):
    pass
print(peak_memory() - before)
"""
    return int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)


def main(folder: Path) -> None:
    """Prints the tables; writes some 0.7 GB into the folder."""
    (folder / "large").mkdir()
    large = make_cache(folder / "large" / "large.zarr", 8192, 256, 256)
    n_bytes, budget = array_bytes(open_cache(large)), 0.75
    print(f"\nreading 8 s clips in batches of {_BATCH_SIZE}: speed as a ratio to a numpy memmap of the decoded arrays")
    epochs = sources(large, budget, 8)
    _show("without training", speeds({name: lambda epoch=epoch: load(epoch()) for name, epoch in epochs.items()}, 9))
    (folder / "small").mkdir()
    small = make_cache(folder / "small" / "small.zarr", 512, 64, 32)
    epochs, train = sources(small, 0.9, 4), trainer(open_cache(small))
    _show("training TC-ResNet", speeds({name: lambda epoch=epoch: train(epoch()) for name, epoch in epochs.items()}, 5))
    print(f"\na cache of {n_bytes / 2**20:.0f} MB of arrays; streamed with --memory {budget * n_bytes / 2**20:.0f}M")
    for suffix in (".zarr", ".h5"):
        path, memory = large.with_suffix(suffix), int(budget * n_bytes)
        print(
            f"  {suffix[1:]:<5} first batch after {first_batch_seconds(path, None):.2f} s resident, "
            f"{first_batch_seconds(path, memory):.2f} s streamed; "
            f"streamed, the process grows by {peak_growth(path, memory) / 2**20:.0f} MB"
        )


def _show(what: str, ratios: dict[str, float]) -> None:
    print(f"  {what:<19}" + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
