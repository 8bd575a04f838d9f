"""What a student costs and how far it hears: for tables, and for choosing one."""

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from students.base import Student, count_parameters
from students.registry import build_student


@dataclass(frozen=True)
class StudentFacts:
    """A student in numbers.

    Attributes:
        name: As in `STUDENTS`.
        paper: Where it is published.
        n_parameters: As Keras counts: moving statistics of BatchNorm included.
        n_trained: Without them.
        macs_per_second: Multiply-accumulates for a clip of one second, see `count_macs`.
        frame_seconds: From one student frame to the next.
        receptive_field_seconds: Audio that a student frame depends on; None where that is every earlier sample or
            the whole clip, see `scope`.
        scope: See `Student`.
        streamable: Whether its frames can be computed while the audio arrives.
        look_ahead_seconds: Audio it must hear after a frame's centre before it can compute the frame; None if not
            streamable.
    """

    name: str
    paper: str
    n_parameters: int
    n_trained: int
    macs_per_second: int
    frame_seconds: float
    receptive_field_seconds: float | None
    scope: str
    streamable: bool
    look_ahead_seconds: float | None


def count_macs(student: Student, n_frames: int) -> int:
    """Multiply-accumulates of one clip in the network: its convolutions, matrix products and attention.

    The front end is not counted, nor is what works number by number: normalisation, activations, gates, peepholes,
    additions. Papers that count a multiplication and an addition as two operations state twice as much.

    Args:
        student: Not changed; nothing is computed, so that size does not matter.
        n_frames: Feature frames, at least the student's `min_frames`.
    """
    shell = deepcopy(student).to("meta").eval()
    n_rows = student.n_mfcc or student.n_mels
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shell.compute(torch.empty(1, n_rows, n_frames, device="meta"), None)
    return counter.get_total_flops() // 2


def student_facts(
    name: str, hop_seconds: float, window_seconds: float, n_classes: int = 12, n_mels: int = 40
) -> StudentFacts:
    """The facts about a student on features with that hop and window.

    Raises:
        ValueError: If no student has that name, or it needs other mel bins.
    """
    student = build_student(name, n_classes, n_mels)
    n_frames = round((1 - window_seconds) / hop_seconds) + 1  # in a second
    streamable = student.scope != "clip"
    nearby = student.scope == "nearby"
    return StudentFacts(
        name=name,
        paper=student.paper,
        n_parameters=count_parameters(student),
        n_trained=sum(parameter.numel() for parameter in student.parameters()),
        macs_per_second=count_macs(student, n_frames),
        frame_seconds=student.stride * hop_seconds,
        receptive_field_seconds=round(2 * student.reach * hop_seconds + window_seconds, 6) if nearby else None,
        scope=student.scope,
        streamable=streamable,
        look_ahead_seconds=round(student.reach * hop_seconds + window_seconds / 2, 6) if streamable else None,
    )
