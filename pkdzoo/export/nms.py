"""NMS as one operation of an exported graph, with a result of the same shape as its input.

The number of boxes that remain depends on the data, and so would every later shape; the result is therefore a mask of
the remaining boxes. In an ONNX file the operation is NonMaxSuppression, the only one here without a counterpart in
torch. In a program of ``torch.export`` it is ``pkdzoo::survivors``, which ``import pkdzoo.export`` registers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms

INVALID = -1.0  # score where there is no candidate
EVERYTHING = 2**31 - 1  # NMS keeps any number of boxes; the best are selected afterward


@torch.library.custom_op("pkdzoo::survivors", mutates_args=())
def survivors(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """Greedy NMS inside every class of every group.

    Args:
        boxes: (B, N, 4) xyxy.
        scores: (B, C, N); negative where there is no candidate.
        iou: 0..1; a box that overlaps a box of its class with a higher score by more than this is dropped.

    Returns:
        (B, C, N) bool, True for the remaining candidates.
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for own, by_class, row in zip(boxes, scores, kept):
        for values, flags in zip(by_class, row):
            index = (values >= 0).nonzero().squeeze(1)
            flags[index[nms(own[index], values[index], iou)]] = True
    return kept


@survivors.register_fake
def _(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def onnx_translations() -> dict[Any, Any]:
    """The translation of :func:`survivors` for ``torch.onnx.export``."""
    import onnxscript

    op: Any = onnxscript.opset18

    def in_onnx(boxes: Any, scores: Any, iou: float) -> Any:
        limit = op.Constant(value_ints=[EVERYTHING])
        overlap, lowest = op.Constant(value_floats=[iou]), op.Constant(value_floats=[INVALID / 2])
        index = op.NonMaxSuppression(boxes, scores, limit, overlap, lowest)  # (K, 3): group, class, box
        # K ones, without an operation on shapes: a graph of fixed size has none
        column = op.Cast(op.ReduceMax(index, op.Constant(value_ints=[1]), keepdims=0), to=1)  # 1 is FLOAT
        marks = op.Add(op.Mul(column, op.Constant(value_float=0.0)), op.Constant(value_float=1.0))
        return op.Cast(op.ScatterND(op.Mul(scores, op.Constant(value_float=0.0)), index, marks), to=9)  # 9 is BOOL

    return {torch.ops.pkdzoo.survivors.default: in_onnx}
