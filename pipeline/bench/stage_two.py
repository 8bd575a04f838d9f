"""What distilling costs: a training step with the cache's targets, and with the teacher in the loop."""

import torch
from torch import nn

from pipeline.bench.compare import compare
from pipeline.distill.data import Clips
from pipeline.distill.losses import combined_loss
from pipeline.distill.train import loss_terms
from pipeline.extract.attention import pool_attention
from pipeline.extract.features import LogMelConfig
from pipeline.frames import FrameGrid, student_grid
from pipeline.teacher.model import Teacher
from students import build_student


def stage_two(name: str, teacher: Teacher, batch_size: int = 64, seconds: int = 4) -> dict[str, float]:
    """Returns the cost of a training step: without KD, with KD from a cache, with the teacher in the loop."""
    n_samples = 16000 * seconds
    features = LogMelConfig()
    n_teacher, n_features = teacher.n_frames(n_samples), features.n_frames(n_samples)
    clips = Clips(
        None,
        torch.randn(batch_size, features.n_mels, n_features),
        torch.full((batch_size,), n_features),
        torch.randint(0, 12, (batch_size,)),
        torch.rand(batch_size, n_teacher).softmax(dim=1),
        torch.full((batch_size,), n_teacher),
        *[torch.zeros(batch_size)] * 3,
    )
    waveforms = torch.randn(batch_size, n_samples)
    student = build_student(name, 12)
    query = nn.Parameter(torch.zeros(student.n_channels))
    optimizer = torch.optim.AdamW([*student.parameters(), query])
    source = FrameGrid(teacher.hop_length, teacher.frame_offset)
    target = student_grid({"features": features.metadata()}, student)

    def step(kd_weight: float) -> None:
        output = student(clips.features, clips.lengths)
        if kd_weight:
            terms = loss_terms("single_label", output, query, clips, source, target, kd_weight)
            loss = combined_loss(*terms, kd_weight)
        else:
            loss = nn.functional.cross_entropy(output.logits, clips.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def teacher_in_loop() -> None:
        pool_attention(teacher, waveforms)
        step(0.25)

    return compare({"plain": lambda: step(0.0), "cached": lambda: step(0.25), "teacher in loop": teacher_in_loop})
