"""What reading from a cache costs a training: its speed beside the same loop over tensors in memory."""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import torch

from cache_schema import Cache, open_cache
from pipeline.bench.compare import in_words, speed_row, take_turns
from pipeline.bench.results import Measured, Row, Table
from pipeline.bench.sections.noise_cache import make_cache
from pipeline.bench.sections.stage_two import SECONDS, optimise
from pipeline.distill.config import TrainConfig
from pipeline.distill.data import Clips, Split, load_splits
from pipeline.distill.distillation import Distillation
from pipeline.distill.optimisation import build_optimizer
from pipeline.progress import say
from students import PAPER_STUDENTS, build_student

_N_CLIPS = 256  # an epoch


def from_tensors(split: Split, batch_size: int) -> Iterator[Clips]:
    """Yields shuffled batches without end, of tensors that hold the whole split; no code of the cache is in use."""
    whole = Clips.concatenate(list(split.batches(len(split))))
    tensors = [value for name, value in vars(whole).items() if name != "clip_id"]
    while True:
        for rows in torch.randperm(len(whole)).split(batch_size):
            yield Clips(whole.clip_id[rows.numpy()], *(tensor.index_select(0, rows) for tensor in tensors))


def epoch(name: str, cache: Cache, batches: Iterator[Clips], n_steps: int) -> Callable[[], None]:
    """Returns what trains a student of its own for the next epoch of the batches."""
    config = TrainConfig(student=name)
    distillation = Distillation(build_student(name, len(cache.labels)), config, cache)
    optimizer = build_optimizer(distillation, config)

    def train() -> None:
        for batch in islice(batches, n_steps):
            optimise(distillation(batch).total, distillation.student, optimizer, config)

    return train


def measure(quick: bool) -> Measured:
    """Compares the five students of the paper, at the settings that `tkd train` has by default."""
    size, rows = TrainConfig().batch_size, list[Row]()
    n_clips = 2 * size if quick else _N_CLIPS
    with tempfile.TemporaryDirectory() as folder:
        cache = open_cache(make_cache(Path(folder) / "epoch.zarr", n_clips, 8, size, SECONDS))
        split = load_splits(cache)["train"]
        for name in PAPER_STUDENTS:
            with (
                closing(split.shuffled(size, itertools.count())) as cached,
                closing(from_tensors(split, size)) as tensors,
            ):
                loops = {
                    what: epoch(name, cache, batches, n_clips // size)
                    for what, batches in {"cache": cached, "tensors": tensors}.items()
                }
                taken = take_turns(loops, 2 if quick else 9)
            rows.append(speed_row(name, taken["cache"], taken["tensors"]))
            say(f"an epoch from a cache, {name}: {rows[-1].ratio:.3f} of the speed over tensors in memory")
    title = "speed of an epoch from a cache"
    return Measured(
        [Table(title, "the loop over tensors in memory", rows, target=0.95, higher_is_better=True)],
        [
            f"Epochs of {n_clips} clips of {SECONDS} s in batches of {size}, float32, "
            f"{in_words(torch.get_num_threads())}; the cache is kept in memory, as one that fits half of it is. In the "
            "first epoch, the warm-up, it is read."
        ],
    )
