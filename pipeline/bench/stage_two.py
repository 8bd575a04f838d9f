"""What distilling costs: a training step with the cache's targets, and with the teacher in the loop."""

import torch

from cache_schema import Cache
from pipeline.bench.compare import compare
from pipeline.distill.config import TrainConfig
from pipeline.distill.data import load_splits
from pipeline.distill.distillation import Distillation
from pipeline.distill.optimisation import build_optimizer
from pipeline.extract.attention import pool_attention
from pipeline.tasks import task_loss
from pipeline.teacher.model import Teacher
from students import build_student


def stage_two(name: str, cache: Cache, teacher: Teacher, batch_size: int = 64) -> dict[str, float]:
    """Returns the seconds of a training step: without KD, with KD from a cache, with the teacher in the loop.

    Without KD there is no query either: the step of a loop that knows nothing of distillation.
    """
    batch = load_splits(cache)["train"].take(range(batch_size))
    hop, n_frames = cache.metadata["teacher"]["hop_length"], cache.layout.n_frames
    waveforms = torch.randn(batch_size, hop * (n_frames + 1))
    config = TrainConfig(student=name)
    distillation = Distillation(build_student(name, 12), config, cache)
    plain, distilling = (build_optimizer(module, config) for module in (distillation.student, distillation))

    def step_without() -> None:
        output = distillation.student(batch.features.float(), batch.lengths)
        loss = task_loss(cache.task, output.logits, batch.labels)
        plain.zero_grad()
        loss.backward()
        plain.step()

    def step_with() -> None:
        loss = distillation(batch).total
        distilling.zero_grad()
        loss.backward()
        distilling.step()

    def step_with_teacher() -> None:
        pool_attention(teacher, waveforms)
        step_with()

    return compare({"plain": step_without, "cached": step_with, "teacher in loop": step_with_teacher})
