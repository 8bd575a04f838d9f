"""The students by name."""

from difflib import get_close_matches
from types import MappingProxyType

from students.base import Student
from students.networks.att_rnn import AttRnn, MhAttRnn
from students.networks.bc_resnet import BcResNet1, BcResNet2, BcResNet3, BcResNet6, BcResNet8
from students.networks.crnn import Crnn
from students.networks.ds_tc_resnet import DsTcResNet, MatchboxNet
from students.networks.kwt import Kwt1
from students.networks.lstm_p import LstmP
from students.networks.tc_resnet import TcResNet, TcResNet8, TcResNet14

PAPER_STUDENTS = ("lstm_p", "tc_resnet", "crnn", "att_rnn", "mhatt_rnn")
"""Those of arXiv 2110.14131, in the order of its tables."""

_CLASSES: tuple[type[Student], ...] = (
    *(LstmP, TcResNet, Crnn, AttRnn, MhAttRnn),
    *(TcResNet8, TcResNet14, DsTcResNet, MatchboxNet),
    *(BcResNet1, BcResNet2, BcResNet3, BcResNet6, BcResNet8),
    Kwt1,
)
STUDENTS = MappingProxyType({student.name: student for student in _CLASSES})
"""Name -> class, `PAPER_STUDENTS` first."""


def build_student(name: str, n_classes: int, n_mels: int = 40) -> Student:
    """A student with fresh weights, drawn from torch's global random state.

    Args:
        name: One of `STUDENTS`.
        n_classes: Size of the logits.
        n_mels: Mel bins of the features it will be given.

    Raises:
        ValueError: If no student has that name, or it needs other mel bins.
    """
    if name not in STUDENTS:
        nearest = get_close_matches(name, STUDENTS, n=1)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(f"student {name!r} is unknown, expected one of {', '.join(STUDENTS)}.{hint}")
    return STUDENTS[name](n_classes, n_mels)
