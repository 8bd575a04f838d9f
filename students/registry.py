"""The students by name."""

from difflib import get_close_matches
from types import MappingProxyType

from students.att_rnn import AttRnn, MhAttRnn
from students.base import Student
from students.crnn import Crnn
from students.lstm_p import LstmP
from students.tc_resnet import TcResNet

STUDENTS = MappingProxyType({student.name: student for student in (LstmP, TcResNet, Crnn, AttRnn, MhAttRnn)})
"""Name -> class, in the order of the tables of arXiv 2110.14131."""


def build_student(name: str, n_classes: int, n_mels: int = 40) -> Student:
    """A student with fresh weights, drawn from torch's global random state.

    Args:
        name: One of `STUDENTS`.
        n_classes: Size of the logits.
        n_mels: Mel bins of the features it will be given.

    Raises:
        ValueError: If no student has that name, or it needs more mel bins.
    """
    if name not in STUDENTS:
        nearest = get_close_matches(name, STUDENTS, n=1)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(f"student {name!r} is unknown, expected one of {', '.join(STUDENTS)}.{hint}")
    return STUDENTS[name](n_classes, n_mels)
