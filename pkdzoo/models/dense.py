"""One-stage detectors: a head that predicts classes and boxes at every location of the pyramid.

Modeled on detectron2's dense_detector: a family provides a ``head`` and implements ``assign``, ``loss`` and
``decode``. Heads that consist of two equal towers derive from ``TowerHead`` and implement only ``predict``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pkdzoo.layers.norm import Norm
from pkdzoo.layers.towers import Tower
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import NO_TAPS, HeadTrace, LossTrace, Taps, Trace
from pkdzoo.ops.boxes import clip_boxes, has_area
from pkdzoo.ops.levels import flatten_level, flatten_levels
from pkdzoo.ops.nms import concatenate, select_candidates, suppress
from pkdzoo.ops.priors import grid_priors, valid_prior_mask
from pkdzoo.structures import (
    Batch,
    DenseTargets,
    Detections,
    FeaturePyramid,
    HeadOutputs,
    Instances,
    PostProcess,
    Priors,
)
from pkdzoo.utils.precision import float32_or_wider

if TYPE_CHECKING:
    from typing_extensions import Self


class TowerHead(nn.Module):
    """A class tower and a box tower, shared by all levels; a subclass implements ``predict`` on their outputs.

    Args:
        inputs: channels of the pyramid.
        width: channels of the towers.
        depth: blocks per tower.
        norm: norm in the towers, or None.
        bias: whether the towers' convolutions have biases; None means only without a norm.
    """

    def __init__(
        self, inputs: int, width: int = 256, depth: int = 4, norm: Norm | None = None, bias: bool | None = None
    ) -> None:
        super().__init__()
        self.depth = depth
        self.cls_tower = Tower(inputs, width, depth, norm, bias)
        self.reg_tower = Tower(inputs, width, depth, norm, bias)

    def predict(self, cls: list[Tensor], reg: list[Tensor]) -> HeadOutputs:
        """Compute the head's outputs from the outputs of the towers.

        Args:
            cls: L maps (B, width, h, w) of the class tower.
            reg: L maps (B, width, h, w) of the box tower.
        """
        raise NotImplementedError

    def forward(self, features: Sequence[Tensor], tap: int | None = None) -> tuple[HeadOutputs, Taps | None]:
        """The head's outputs for a pyramid, and the maps after block ``tap`` of both towers (None without a tap)."""
        if tap is not None and not 0 <= tap <= self.depth:
            raise ValueError(f"tap={tap}: the towers have {self.depth} blocks; write 0 (their input) to {self.depth}")
        cls = [self.cls_tower(level, tap) for level in features]
        reg = [self.reg_tower(level, tap) for level in features]
        taps = None if tap is None else Taps([kept for _, kept in cls], [kept for _, kept in reg], tap)
        return self.predict([x for x, _ in cls], [x for x, _ in reg]), taps

    def resume(self, taps: Taps) -> HeadOutputs:
        """Compute the outputs from tapped maps, which may come from another head."""
        cls = [self.cls_tower.resume(x, taps.after) for x in taps.cls]
        reg = [self.reg_tower.resume(x, taps.after) for x in taps.reg]
        return self.predict(cls, reg)


class DenseDetector(Detector):
    """A detector with a dense head. A family provides ``head`` and implements ``assign``, ``loss`` and ``decode``.

    Args:
        head: called as ``head(levels, tap) -> (HeadOutputs, taps)``.
        base_anchors: L tensors (A, 4), the priors of one location on each level, xyxy in pixels and centered on zero.
        offset: position of the first location in strides, 0 or 0.5.
        kwargs: see :class:`Detector`.
    """

    box_channels = 4  # values per prior in HeadOutputs.box
    bins = 0  # of the distribution of each side's distance in HeadOutputs.box; 0: the head predicts no distributions
    class_logits = True  # HeadOutputs.cls holds logits, whose sigmoid is the score; False: probabilities
    clip_before_nms = True
    keeps_empty_boxes = False  # boxes without area stay among the detections; predictions and evaluation drop them
    top_k_of_all_levels = False  # pre_nms_top_k applies to the candidates of all levels together as well

    def __init__(self, *, head: nn.Module, base_anchors: list[Tensor], offset: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.head = head
        self.base_anchors = base_anchors
        self.offset = offset

    # -- implemented by a family ---------------------------------------------------------------------------------

    def assign(self, outputs: HeadOutputs, priors: Priors, instances: list[Instances], valid: Tensor) -> DenseTargets:
        """Targets of every prior.

        Args:
            outputs: the head's outputs, for detectors whose targets depend on predictions.
            priors: the P priors, the same for all images.
            instances: objects of each image, without crowd regions.
            valid: (B, P) bool, False for priors on padding that only other images of the batch need.
        """
        raise NotImplementedError

    def loss(self, outputs: HeadOutputs, priors: Priors, targets: DenseTargets) -> dict[str, Tensor]:
        """Weighted losses by name."""
        raise NotImplementedError

    def decode(self, box: Tensor, priors: Priors) -> Tensor:
        """Boxes from rows of the head's box output: (..., P, D) -> (..., P, 4) xyxy in pixels, not clipped."""
        raise NotImplementedError

    def class_scores(self, cls: Tensor) -> Tensor:
        """Scores 0..1 from the head's class output."""
        return cls.sigmoid() if self.class_logits else cls

    # -- shared by all families ----------------------------------------------------------------------------------

    def make_priors(self, features: FeaturePyramid) -> Priors:
        """The priors for a pyramid of this size."""
        device = features.levels[0].device
        anchors = [level.to(device) for level in self.base_anchors]
        return grid_priors(anchors, features.sizes, features.strides, self.offset)

    def run_head(self, features: FeaturePyramid, batch: Batch, tap: int | None = None) -> HeadTrace[Self]:
        """Outputs and priors."""
        outputs, taps = self.head(features.levels, tap)
        return HeadTrace(self, features, outputs, self.make_priors(features), taps=taps or NO_TAPS)

    def run_losses(
        self, features: FeaturePyramid, batch: Batch, instances: list[Instances], tap: int | None = None
    ) -> LossTrace[Self]:
        """Outputs, priors, targets and losses."""
        head = self.run_head(features, batch, tap)
        targets = self.assign(head.outputs, head.priors, instances, self.valid_priors(features, batch))
        wide = float32_or_wider(features.levels[0]).dtype
        targets = replace(targets, boxes=targets.boxes.to(wide), quality=targets.quality.to(wide))
        losses = self.loss(head.outputs, head.priors, targets)
        return LossTrace(self, features, head.outputs, head.priors, targets, losses, taps=head.taps)

    def valid_priors(self, features: FeaturePyramid, batch: Batch) -> Tensor:
        """(B, P) bool: the priors inside each image's size, rounded up to a multiple of 32."""
        device, count = features.levels[0].device, len(self.base_anchors[0])
        masks = {
            size: valid_prior_mask(features.sizes, features.strides, size, count, device=device) for size in batch.sizes
        }
        return torch.stack([masks[size] for size in batch.sizes])

    def postprocess(self, trace: Trace[Self], batch: Batch, config: PostProcess | None = None) -> list[Detections]:
        """Apply score threshold, top k and decoding to each level; then clip, run NMS, and keep the best."""
        if not isinstance(trace, HeadTrace):
            raise ValueError('this trace stops at the features: write model.trace(batch, upto="head")')
        outputs, priors = trace.outputs, trace.priors
        config = config or self.postprocess_config
        starts = [sum(priors.counts[:i]) for i in range(len(priors.counts))]
        candidates: list[list[Detections]] = [[] for _ in batch.sizes]
        for level, start in enumerate(starts):
            count = priors.counts[level]
            cls = flatten_level(outputs.cls[level], self.num_classes)  # (B, p, C)
            box = flatten_level(outputs.box[level], self.box_channels)
            quality = None if not outputs.quality else flatten_level(outputs.quality[level], 1)[..., 0].sigmoid()
            assert cls.shape[1] == count
            for i, image in enumerate(candidates):
                values, index, labels = select_candidates(
                    cls[i], config.score_threshold, config.pre_nms_top_k, sigmoid=self.class_logits
                )
                boxes = self.decode(float32_or_wider(box[i, index]), priors.take(index + start))
                if quality is not None:
                    values = values * quality[i, index]
                image.append(Detections(boxes, values, labels))
        return [self._finish(concatenate(parts), size, config) for parts, size in zip(candidates, batch.sizes)]

    def _finish(self, candidates: Detections, size: tuple[int, int], config: PostProcess) -> Detections:
        if self.top_k_of_all_levels and len(candidates) > config.pre_nms_top_k:
            candidates = candidates[candidates.scores.topk(config.pre_nms_top_k).indices]
        if self.clip_before_nms:
            candidates = replace(candidates, boxes=clip_boxes(candidates.boxes, size))
        if not self.keeps_empty_boxes:  # clipped boxes outside the image are empty
            candidates = candidates[has_area(candidates.boxes)]
        detections = suppress(candidates, config.nms_threshold, config.max_detections)
        if self.clip_before_nms:
            return detections
        return replace(detections, boxes=clip_boxes(detections.boxes, size))

    def positives(self, targets: DenseTargets) -> tuple[Tensor, Tensor]:
        """Image index and prior index (K,) of the positive priors."""
        image, prior = ((targets.labels >= 0) & (targets.labels < self.num_classes)).nonzero(as_tuple=True)
        return image, prior

    def flat(self, outputs: HeadOutputs) -> tuple[Tensor, Tensor]:
        """Class outputs (B, P, C) and box outputs (B, P, D), in float32 also under autocast, or wider."""
        cls = flatten_levels(outputs.cls, self.num_classes)
        box = flatten_levels(outputs.box, self.box_channels)
        return float32_or_wider(cls), float32_or_wider(box)
