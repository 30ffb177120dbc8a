"""Networks from backbone maps to a feature pyramid."""

from pkdzoo.models.necks.fpn import FPN

__all__ = ["FPN"]
