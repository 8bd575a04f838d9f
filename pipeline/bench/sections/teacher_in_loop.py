"""What a training costs that runs the teacher in every step, and after how many epochs a cache has paid for itself."""

import dataclasses
import math
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from pipeline.bench.compare import in_words, speed_row, take_turns
from pipeline.bench.results import Measured, Row, Table
from pipeline.bench.sections.spoken import spoken
from pipeline.bench.sections.stage_one import TEACHERS, teacher_of
from pipeline.bench.sections.stage_two import SECONDS, one_batch, steps
from pipeline.data.spoken.synth import MINI
from pipeline.distill.config import TrainConfig
from pipeline.extract.attention import pool_attention
from pipeline.extract.build import build_cache
from pipeline.extract.config import BuildConfig
from pipeline.progress import say
from students import PAPER_STUDENTS

_BATCHES = {"bundled": 8, "BASE": 2, "XLSR": 1}  # clips that the teacher is given at a time
_ROUNDS = {"bundled": 9, "BASE": 5, "XLSR": 3}


def build_seconds(quick: bool) -> float:
    """Returns the seconds a clip that a large data set takes in a whole stage one, with the bundled teacher."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        manifest = spoken(folder, 72 if quick else 488)
        few, many = len(manifest.clips) // 4, len(manifest.clips)
        taken = []
        for n in (few, few, many):  # the first one warms up
            part = dataclasses.replace(manifest, clips=manifest.clips[:n])
            started = time.perf_counter()
            build_cache(part, "bundled", folder / f"{len(taken)}.zarr", BuildConfig())
            taken.append(time.perf_counter() - started)
        # What only many clips take more: to start takes as long for any number.
        return max(0.0, taken[2] - taken[1]) / (many - few)


def measure(quick: bool) -> Measured:
    """Compares the five students' steps from a cache with steps that hear the teacher; and when a cache has paid."""
    names, config = (("bundled", "BASE") if quick else TEACHERS), TrainConfig()
    built, tables, clip_seconds = build_seconds(quick), [], dict[tuple[str, str], float]()
    with tempfile.TemporaryDirectory() as folder:
        cache, batch = one_batch(Path(folder))
    cached = {name: steps(name, cache, batch)["cached"] for name in PAPER_STUDENTS}
    for name in names:
        teacher, rows, n_clips = teacher_of(name), list[Row](), _BATCHES[name]
        waveforms = torch.randn(n_clips, 16000 * SECONDS)
        for bfloat16 in (False, True):
            precision = "bfloat16" if bfloat16 else "float32"

            def hear(teacher=teacher, waveforms=waveforms, bfloat16=bfloat16) -> None:
                pool_attention(teacher, waveforms, bfloat16=bfloat16)

            taken = take_turns({**cached, "teacher": hear}, 1 if quick else _ROUNDS[name])
            heard = [len(batch) / n_clips * seconds for seconds in taken["teacher"]]
            clip_seconds[name, precision] = median(heard) / len(batch)
            for student in PAPER_STUDENTS:
                together = [one + other for one, other in zip(taken[student], heard, strict=True)]
                rows.append(speed_row(f"{student}, {precision}", taken[student], together))
            say(f"teacher in the loop, {name}, {precision}: {1e3 * clip_seconds[name, precision]:.0f} ms a clip")
        tables.append(
            Table("speed of a step with KD from the cache", f"{name} in the loop", rows, higher_is_better=True)
        )
    n_train, n_all = MINI.clips[0], sum(MINI.clips)
    lines = [
        "| teacher | ms a clip in the loop | s an epoch in the loop | s for the cache | paid after epochs "
        f"| students of {config.epochs} epochs |",
        "|---|---|---|---|---|---|",
    ]
    for (name, precision), seconds in clip_seconds.items():
        once = n_all * (built if (name, precision) == ("bundled", "float32") else seconds)
        n_epochs = once / (n_train * seconds)
        n_students = n_epochs / config.epochs
        lines.append(
            f"| {name}, {precision} | {1e3 * seconds:.1f} | {n_train * seconds:.0f} | {once:.0f} | "
            f"{math.ceil(n_epochs)} ({n_epochs:.2f}) | {math.ceil(n_students)} ({n_students:.2f}) |"
        )
    shares, n_threads = ", ".join(f"{name} {_BATCHES[name]}" for name in names), in_words(torch.get_num_threads())
    return Measured(
        tables,
        [
            f"Batches of {len(batch)} clips of {SECONDS} s, {n_threads}. The teacher hears a part of the batch "
            f"({shares} clips) in turn with the students' steps; its time is scaled up to the batch. In the loop it "
            "gives what stage one keeps, in the pooled way of stage one.",
            f"When a cache of a set as large as mini ({n_train} training clips, {n_all} in all) has paid for itself, "
            "beside a loop in which the teacher hears the training clips. For the bundled teacher in float32 the "
            f"cache's cost is that of `tkd cache build` ({1e3 * built:.1f} ms a clip, rendering and writing included); "
            "for the others it is that of their pooled forward passes. It does not depend on the student.",
            "\n".join(lines),
        ],
    )
