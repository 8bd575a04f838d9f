"""Small keyword-spotting networks whose intermediate frames can be distilled into.

Five are the configurations of kws_streaming (Rybakov et al. 2020, arXiv 2005.06720) that Choi et al. 2022
(arXiv 2110.14131) train; the others are later or smaller ones, each of the file that bears its family's name.
"""

from students.base import Student, StudentOutput, count_parameters
from students.facts import StudentFacts, count_macs, student_facts
from students.front_end import Mfcc
from students.registry import PAPER_STUDENTS, STUDENTS, build_student

__all__ = [
    "PAPER_STUDENTS",
    "STUDENTS",
    "Mfcc",
    "Student",
    "StudentFacts",
    "StudentOutput",
    "build_student",
    "count_macs",
    "count_parameters",
    "student_facts",
]
