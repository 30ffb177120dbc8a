"""Images and numbers of what distillation works on: the PKD paper's figures for any teacher and any students."""

from pkdzoo.figures.curves import Run, read_run
from pkdzoo.figures.measure import Look, look, pair_numbers

__all__ = ["Look", "Run", "look", "pair_numbers", "read_run"]
