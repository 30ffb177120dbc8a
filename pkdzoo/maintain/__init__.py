"""Generators of the files that are not written by hand: ``python -m pkdzoo.maintain``."""
