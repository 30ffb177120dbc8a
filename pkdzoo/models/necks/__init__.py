"""Necks: networks from the backbone's maps to a feature pyramid."""

from pkdzoo.models.necks.fpn import FPN

__all__ = ["FPN"]
