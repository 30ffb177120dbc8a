"""Detectors: one file a family, in the order docstring, key rules, head, detector, variants."""
