"""What a training step of a student costs on a CPU, with torch's own layers and with ours.

`python -m pipeline.bench.students` prints the table for the five of the paper. A step is forward, cross-entropy,
backward and fused AdamW, on clips of 4 s.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pipeline.bench.compare import compare
from pipeline.extract.features import LogMelConfig
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


def step_seconds(name: str, batch_size: int, bfloat16: bool, rounds: int = 7) -> dict[str, float]:
    """Returns the median seconds of a training step, "torch" and "ours", run in turn."""
    step = training_step(name, batch_size, bfloat16)

    def by_torch() -> None:
        with torch_layers():
            step()

    return compare({"torch": by_torch, "ours": step}, rounds)


def main() -> None:
    """Prints the table: milliseconds a training step, by threads, precision, batch size and student."""
    n_threads = torch.get_num_threads()
    print(f"a training step on clips of {SECONDS} s in milliseconds, torch's own layers > ours (times as fast)")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for bfloat16 in (False, True):
            for batch_size in (32, 64):
                print(f"{threads} thread(s), {'bfloat16' if bfloat16 else 'float32'}, batch {batch_size}")
                for name in PAPER_STUDENTS:
                    taken = step_seconds(name, batch_size, bfloat16)
                    print(
                        f"  {name:<10} {1e3 * taken['torch']:4.0f} > {1e3 * taken['ours']:4.0f}   "
                        f"({taken['torch'] / taken['ours']:.2f})",
                        flush=True,
                    )
    torch.set_num_threads(n_threads)


if __name__ == "__main__":
    main()
