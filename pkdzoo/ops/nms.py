"""From scored candidates to detections: score threshold, top k, non-maximum suppression (NMS) per class.

The threshold comes first, then sorting, then NMS on the rest: this is mmdetection's order, and the fastest.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from pkdzoo.structures import Detections

FLOAT32_RANGE = 2**18  # pixels up to which float32 tells coordinates apart by at most 1/32 of a pixel


def select_candidates(
    scores: Tensor, threshold: float, top_k: int, sigmoid: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The (prior, class) pairs of highest score of one level.

    Args:
        scores: (P, C) in 0..1, of any float type.
        threshold: pairs with a score of at most this are dropped, 0..1.
        top_k: maximum number of pairs.
        sigmoid: ``scores`` are logits. For speed, the sigmoid is computed only of pairs that can pass the threshold.

    Returns:
        Scores (float32), prior indices and labels of the pairs, highest score first; each (K,) with ``K <= top_k``.
    """
    flat, classes = scores.flatten(), scores.shape[1]
    if sigmoid and 0 < threshold < 1:
        # with a margin for rounding; the exact comparison follows
        maybe = (flat > math.log(threshold / (1 - threshold)) - 1e-3).nonzero().squeeze(1)
        values = flat[maybe].float().sigmoid()
        passed = values > threshold
        kept, values = maybe[passed], values[passed]
    else:
        flat = flat.float().sigmoid() if sigmoid else flat.float()
        kept = (flat > threshold).nonzero().squeeze(1)
        values = flat[kept]
    values, order = values.sort(descending=True, stable=True)
    pairs = kept[order[:top_k]]
    return values[:top_k], pairs.div(classes, rounding_mode="floor"), pairs % classes


def suppress(detections: Detections, nms_threshold: float, max_detections: int) -> Detections:
    """Greedy per-class non-maximum suppression, then the ``max_detections`` of highest score.

    Args:
        detections: candidates of one image in any order.
        nms_threshold: IoU above which the lower-scoring of two boxes of one class is dropped, 0..1.
        max_detections: maximum number of detections.
    """
    # float32 also under autocast: half precision moves large coordinates by whole pixels
    boxes = detections.boxes.float()
    if len(boxes):  # torchvision tells classes apart by moving them beyond the largest coordinate, from 0 up
        boxes = boxes - boxes.amin().clamp(max=0)
        if detections.labels.amax() * (boxes.amax() + 1) > FLOAT32_RANGE:  # many classes on a large image
            device = "cpu" if boxes.device.type == "mps" else boxes.device  # MPS has no float64
            boxes = boxes.to(device, torch.float64)
    scores = detections.scores.float().to(boxes)
    kept = batched_nms(boxes, scores, detections.labels.to(boxes.device), nms_threshold)
    return detections[kept[:max_detections].to(detections.boxes.device)]


def concatenate(parts: list[Detections]) -> Detections:
    """Join detections of several levels or views, without ``masks``; all or none must have ``mask_probabilities``."""
    boxes, scores, labels = (torch.cat([getattr(p, name) for p in parts]) for name in ("boxes", "scores", "labels"))
    masks = [p.mask_probabilities for p in parts if p.mask_probabilities is not None]
    return Detections(boxes, scores, labels, mask_probabilities=torch.cat(masks) if masks else None)
