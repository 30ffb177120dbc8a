"""Distillation: a student, a frozen teacher, and methods between them, one file per method."""

from pkdzoo.distill.base import DistillMethod, FrozenTeacher, Progress
from pkdzoo.distill.distiller import Distiller
from pkdzoo.distill.inherit import freeze, inherit
from pkdzoo.distill.pairing import PyramidPairs
from pkdzoo.distill.prototypes import match_prototypes
from pkdzoo.distill.registry import METHODS, list_methods, method_options, register_method
from pkdzoo.distill.student import Student
from pkdzoo.distill.teacher import Teacher

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
