"""The PKD paper's figures, and their numbers, for any teacher and any students."""

from pkdzoo.figures.curves import Run, read_run
from pkdzoo.figures.measure import PyramidMaps, extract_maps, pair_numbers

__all__ = ["PyramidMaps", "Run", "extract_maps", "pair_numbers", "read_run"]
