"""Detectors: one file per family, in the order docstring, key rules, head, detector, variants."""
