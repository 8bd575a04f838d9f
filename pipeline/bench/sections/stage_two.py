"""What distilling costs: a training step with the cache's targets beside the step of a loop that knows of none."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cache_schema import Cache, open_cache
from pipeline.bench.compare import in_words, row, take_turns, thread_counts, threads
from pipeline.bench.results import Measured, Row, Table
from pipeline.bench.sections.noise_cache import make_cache
from pipeline.distill.config import TrainConfig
from pipeline.distill.data import Clips, load_splits
from pipeline.distill.distillation import Distillation
from pipeline.distill.optimisation import build_optimizer
from pipeline.errors import TkdError
from pipeline.progress import say
from pipeline.tasks import task_loss
from students import PAPER_STUDENTS, build_student

SECONDS = 4  # a clip, as in mini


def optimise(loss: Tensor, student: nn.Module, optimizer: Optimizer, config: TrainConfig) -> None:
    """Does what `tkd train` does in a step once it has the loss."""
    if not torch.isfinite(loss):
        raise TkdError(f"{student.name}: the loss is {loss.item()}. Nothing can be measured on that.")
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(student.parameters(), config.max_grad_norm)
    optimizer.step()


def one_batch(folder: Path) -> tuple[Cache, Clips]:
    """Returns a cache, made in `folder`, and a batch of it, of the default size."""
    size = TrainConfig().batch_size
    cache = open_cache(make_cache(folder / "batch.zarr", size, 8, size, SECONDS))
    return cache, load_splits(cache)["train"].take(range(size))


def steps(name: str, cache: Cache, batch: Clips) -> dict[str, Callable[[], None]]:
    """Returns what does a training step, each with a student of its own: "plain", and "cached" with KD.

    Without KD there is no query either.
    """
    config = TrainConfig(student=name)
    student = build_student(name, len(cache.labels))
    distillation = Distillation(build_student(name, len(cache.labels)), config, cache)
    optimizer, distilling = build_optimizer(student, config), build_optimizer(distillation, config)

    def plain() -> None:
        output = student(batch.features.float(), batch.lengths)
        optimise(task_loss(cache.task, output.logits, batch.labels), student, optimizer, config)

    def cached() -> None:
        optimise(distillation(batch).total, distillation.student, distilling, config)

    return {"plain": plain, "cached": cached}


def measure(quick: bool) -> Measured:
    """Compares the five students of the paper, at the settings that `tkd train` has by default."""
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        cache, batch = one_batch(Path(folder))
        for n_threads in thread_counts():
            rows: list[Row] = []
            with threads(n_threads):
                for name in PAPER_STUDENTS:
                    taken = take_turns(steps(name, cache, batch), 3 if quick else 41)
                    rows.append(row(name, taken["cached"], taken["plain"]))
                    say(f"a step with KD, {name}, {in_words(n_threads)}: {rows[-1].ratio:.3f} of one without")
            title = f"a training step with KD, {in_words(n_threads)}"
            tables.append(Table(title, "the step without KD", rows, target=1.03))
    return Measured(
        tables,
        [f"Batches of {len(batch)} clips of {SECONDS} s, float32, no augmentation; as `tkd train` does a step."],
    )
