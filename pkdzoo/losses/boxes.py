"""Losses between predicted and true boxes, one value a box."""

from __future__ import annotations

from torch import Tensor

from pkdzoo.ops.boxes import paired_giou, paired_iou


def giou_loss(predicted: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """``1 - GIoU`` of each pair; (..., 4) xyxy each -> (...,) in 0..2."""
    return 1 - paired_giou(predicted, target, eps)


def iou_log_loss(predicted: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """``-ln IoU`` of each pair (UnitBox, FCOS), IoU limited below at ``eps``; (..., 4) xyxy each -> (...,)."""
    return -paired_iou(predicted, target, eps).clamp(min=eps).log()
