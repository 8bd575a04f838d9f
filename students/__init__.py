"""Five small keyword-spotting networks whose intermediate frames can be distilled into.

The configurations of kws_streaming (Rybakov et al. 2020, arXiv 2005.06720) that Choi et al. 2022
(arXiv 2110.14131) train.
"""

from students.base import Student, StudentOutput, count_parameters
from students.front_end import Mfcc
from students.registry import STUDENTS, build_student

__all__ = ["STUDENTS", "Mfcc", "Student", "StudentOutput", "build_student", "count_parameters"]
