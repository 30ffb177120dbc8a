"""Networks from backbone maps to a feature pyramid."""

from pkdzoo.necks.fpn import FPN

__all__ = ["FPN"]
