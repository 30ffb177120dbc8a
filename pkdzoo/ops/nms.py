"""From scored candidates to detections: threshold, top k, per-class suppression.

Threshold comes before sorting and suppression sees only what is left: mmdetection's order, and the fast one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from pkdzoo.structures import Detections


def select_candidates(
    scores: Tensor, threshold: float, top: int, sigmoid: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The best (prior, class) pairs of one level.

    Args:
        scores: (P, C) in 0..1; the answer is float32 whatever their type.
        threshold: pairs must score more than this.
        top: how many to keep at most.
        sigmoid: ``scores`` are logits. The sigmoid is taken of what may pass alone: nearly everything is background.

    Returns:
        Scores, prior indices and labels of the kept pairs, best first; each (K,), ``K <= top``.
    """
    flat, classes = scores.flatten(), scores.shape[1]
    if sigmoid and 0 < threshold < 1:
        # a little lower, so that rounding decides nothing here; the exact comparison follows on what is left
        maybe = (flat > math.log(threshold / (1 - threshold)) - 1e-3).nonzero().squeeze(1)
        values = flat[maybe].float().sigmoid()
        passed = values > threshold
        kept, values = maybe[passed], values[passed]
    else:
        flat = flat.float().sigmoid() if sigmoid else flat.float()
        kept = (flat > threshold).nonzero().squeeze(1)
        values = flat[kept]
    values, order = values.sort(descending=True, stable=True)
    pairs = kept[order[:top]]
    return values[:top], pairs.div(classes, rounding_mode="floor"), pairs % classes


def suppress(detections: Detections, iou: float, top: int) -> Detections:
    """Greedy per-class non-maximum suppression, then the best ``top``.

    Args:
        detections: candidates of one image in any order.
        iou: a box is dropped when it overlaps a better one of its class by more than this.
        top: how many detections an image may have.
    """
    # float32 whatever the autocast: half precision moves large coordinates by whole pixels
    kept = batched_nms(detections.boxes.float(), detections.scores.float(), detections.labels, iou)
    return detections[kept[:top]]


def concatenate(parts: list[Detections]) -> Detections:
    """Detections of several levels or views as one; masks only as ``mask_probabilities``, in all parts or in none."""
    boxes, scores, labels = (torch.cat([getattr(p, name) for p in parts]) for name in ("boxes", "scores", "labels"))
    cells = [p.mask_probabilities for p in parts if p.mask_probabilities is not None]
    return Detections(boxes, scores, labels, mask_probabilities=torch.cat(cells) if cells else None)
