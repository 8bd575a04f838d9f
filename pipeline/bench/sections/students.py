"""What a training step of a student costs on a CPU, with torch's own layers and with ours.

A step is forward, cross-entropy, backward and fused AdamW, on clips of 4 s.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pipeline.bench.compare import in_words, speed_row, take_turns, thread_counts, threads
from pipeline.bench.results import Measured, Row, Table
from pipeline.distill.config import TrainConfig
from pipeline.extract.features import LogMelConfig
from pipeline.progress import say
from students import PAPER_STUDENTS, build_student, convolution
from students.networks.lstm_p import PeepholeLstm
from students.recurrent import Gru

N_CLASSES = 12
SECONDS = 4  # a clip


@contextmanager
def torch_layers() -> Iterator[None]:
    """Within, students train as torch itself would have them.

    Recurrent layers are nn.GRU and a loop of torch's operations, and convolutions in torch's order of memory.
    """
    Gru.by_hand = PeepholeLstm.by_hand = False
    convolution.ORDER = torch.contiguous_format
    try:
        yield
    finally:
        Gru.by_hand = PeepholeLstm.by_hand = True
        convolution.ORDER = torch.channels_last


def training_step(name: str, batch_size: int, bfloat16: bool) -> Callable[[], None]:
    """Returns what does one step of training on noise, in float32 or under autocast to bfloat16."""
    config = LogMelConfig()
    features = torch.randn(batch_size, config.n_mels, config.n_frames(16000 * SECONDS))
    labels = torch.randint(0, N_CLASSES, (batch_size,))
    student = build_student(name, N_CLASSES, config.n_mels)
    optimizer = torch.optim.AdamW(student.parameters(), fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = student(features).logits
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def step_seconds(name: str, batch_size: int, bfloat16: bool, rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of a training step, "torch" and "ours", round by round, run in turn."""
    step = training_step(name, batch_size, bfloat16)

    def by_torch() -> None:
        with torch_layers():
            step()

    return take_turns({"torch": by_torch, "ours": step}, rounds)


def measure(quick: bool) -> Measured:
    """Compares the five of the paper with themselves on torch's own layers."""
    batch_size, tables = TrainConfig().batch_size, []
    for bfloat16 in (False, True):
        rows: list[Row] = []
        for n_threads in thread_counts():
            with threads(n_threads):
                for name in PAPER_STUDENTS:
                    taken = step_seconds(name, batch_size, bfloat16, 1 if quick else 7)
                    rows.append(speed_row(f"{name}, {in_words(n_threads)}", taken["ours"], taken["torch"]))
                    say(f"students, {rows[-1].what}: {rows[-1].ratio:.2f} times as fast")
        precision = "bfloat16" if bfloat16 else "float32"
        tables.append(
            Table(f"speed of a student's training step, {precision}", "torch's own layers", rows, higher_is_better=True)
        )
    return Measured(
        tables, [f"Batches of {batch_size} clips of {SECONDS} s; torch's own: nn.GRU, operations frame by frame, NCHW."]
    )
