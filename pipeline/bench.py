"""`make bench`: what the two stages cost, as ratios to their references within one run.

Variants are run in turn (A B C A B C ...) after a warm-up, and medians compared, so that a machine that speeds up or
slows down does so for all of them.
"""

import platform
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn

from pipeline.distill.data import Clips
from pipeline.distill.losses import combined_loss
from pipeline.distill.train import loss_terms
from pipeline.extract.attention import pool_attention
from pipeline.extract.features import LogMelConfig
from pipeline.frames import FrameGrid, student_grid
from pipeline.teacher.model import Teacher, load_teacher
from students import STUDENTS, build_student

_ROUNDS = 7


def compare(variants: dict[str, Callable[[], object]], rounds: int = _ROUNDS) -> dict[str, float]:
    """Returns the median seconds of each variant, run in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            if round_ > 0:
                seconds[name].append(time.perf_counter() - started)
    return {name: median(values) for name, values in seconds.items()}


def stage_one(teacher: Teacher, seconds: int, batch_size: int) -> dict[str, float]:
    """Returns the cost of a batch: plain fused forward pass, pooled while it runs, and all maps kept (naive)."""
    waveforms = torch.randn(batch_size, 16000 * seconds)

    @torch.inference_mode()
    def plain() -> None:
        teacher.encoder.set_attn_implementation("sdpa")
        teacher(waveforms)

    @torch.inference_mode()
    def naive() -> None:
        teacher.encoder.set_attn_implementation("eager")
        maps = torch.stack(teacher.encoder(waveforms, output_attentions=True).attentions).mean(
            dim=2
        )  # (layer, batch, T, T)
        product = identity = torch.eye(maps.shape[-1])
        for attention in maps:
            product = (0.5 * attention + 0.5 * identity) @ product

    return compare({"plain": plain, "pooled": lambda: pool_attention(teacher, waveforms), "naive": naive})


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
            terms = loss_terms(output, query, clips, source, target, kd_weight)
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


def main() -> None:
    """Prints the tables."""
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    teacher = load_teacher("bundled")[0]
    print("\nstage one, bundled teacher, float32: ratio to the plain forward pass (fused attention, no maps)")
    for seconds, batch_size in ((2, 16), (8, 4), (30, 1)):
        cost = stage_one(teacher, seconds, batch_size)
        print(
            f"  {seconds:>2} s clips: pooled {cost['pooled'] / cost['plain']:.2f}, "
            f"all maps kept and full rollout {cost['naive'] / cost['plain']:.2f}   ({cost['plain']:.3f} s a batch)"
        )
    print("\nstage two, batch 64 of 4 s clips: ratio to a step without distillation")
    for name in STUDENTS:
        cost = stage_two(name, teacher)
        print(
            f"  {name:<10} from the cache {cost['cached'] / cost['plain']:.2f}, "
            f"teacher in the loop {cost['teacher in loop'] / cost['plain']:.2f}   ({cost['plain']:.3f} s a step)"
        )


if __name__ == "__main__":
    main()
