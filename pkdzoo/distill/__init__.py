"""Distillation: a student, a frozen teacher, and one file for each method between them."""

from pkdzoo.distill.base import DistillMethod, Frozen, Progress
from pkdzoo.distill.distiller import Distiller
from pkdzoo.distill.inherit import freeze, inherit
from pkdzoo.distill.registry import METHODS, list_methods, method_options, register_method
from pkdzoo.distill.teacher import Teacher

__all__ = [
    "METHODS",
    "DistillMethod",
    "Distiller",
    "Frozen",
    "Progress",
    "Teacher",
    "freeze",
    "inherit",
    "list_methods",
    "method_options",
    "register_method",
]
