"""Generators of files that are not written by hand: ``python -m pkdzoo.maintain``."""
