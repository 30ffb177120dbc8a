"""Distillation: a student, a frozen teacher, and methods between them, one file per method.

The package can be called: ``pkdzoo.distill(data=..., student=...)`` is
:func:`pkdzoo.training.own_data.api.distill`, which trains on one's own data.
"""

from pkdzoo.distill.base import DistillMethod, FrozenTeacher, Progress
from pkdzoo.distill.distiller import Distiller
from pkdzoo.distill.inherit import freeze, inherit
from pkdzoo.distill.pairing import PyramidPairs
from pkdzoo.distill.prototypes import match_prototypes
from pkdzoo.distill.registry import METHODS, list_methods, method_options, register_method
from pkdzoo.distill.student import Student
from pkdzoo.distill.teacher import Teacher
from pkdzoo.utils.lazy import make_callable

__all__ = [
    "METHODS",
    "DistillMethod",
    "Distiller",
    "FrozenTeacher",
    "Progress",
    "PyramidPairs",
    "Student",
    "Teacher",
    "freeze",
    "inherit",
    "list_methods",
    "match_prototypes",
    "method_options",
    "register_method",
]

make_callable(__name__, "pkdzoo.training.own_data.api:distill")
