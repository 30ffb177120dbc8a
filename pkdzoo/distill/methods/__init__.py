"""Distillation methods, one file each; ``pkdzoo/distill/registry.py`` has the table."""
