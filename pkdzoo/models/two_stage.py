"""Two-stage detectors: a network proposes regions, and a head classifies and refines each of them (Ren et al. 2015).

As mmdetection's TwoStageDetector with RPNHead and StandardRoIHead. ``RPN`` (``rpn.py``) and ``BoxHead`` hold the
parameters. ``RegionDetector`` proposes, samples and pools regions, ``TwoStageDetector`` runs one box head on them, and
a family combines them; ``cascade_rcnn.py`` has three box heads. Differs from the paper in the pyramid (Lin et al.
2017), RoIAlign instead of RoIPool, L1 instead of smooth L1, and class-specific boxes that are decoded from the
proposal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from pkdzoo.models.assigners.dense import box_dtype
from pkdzoo.models.assigners.max_iou import labels_of, match_by_iou
from pkdzoo.models.assigners.sampling import Sampling, sample
from pkdzoo.models.detector import Detector
from pkdzoo.models.rpn import RATIOS, RPN, SCALES, ProposalConfig, lie_inside, smooth_l1
from pkdzoo.models.trace import HeadTrace, LossTrace, Trace
from pkdzoo.ops.boxes import clip_boxes, decode_deltas, encode_deltas, has_area
from pkdzoo.ops.levels import flatten_level, flatten_levels
from pkdzoo.ops.nms import select_candidates, suppress
from pkdzoo.ops.priors import base_anchors, grid_priors, valid_prior_mask
from pkdzoo.ops.reduce import mean_over_ranks
from pkdzoo.ops.rois import pool_rois, to_rois
from pkdzoo.structures import (
    IGNORE,
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

BOX_STDS = (0.1, 0.1, 0.2, 0.2)  # of the box head's deltas; the RPN's are 1
ANCHOR_SAMPLING = Sampling(256, 0.5)
ROI_SAMPLING = Sampling(512, 0.25)
OBJECT, BACKGROUND = 0, 1  # labels of anchors: the RPN has one class


@dataclass
class RoITargets:
    """Targets of the sampled regions of one image.

    Attributes:
        boxes: (N, 4) xyxy, the regions; positives first.
        labels: (N,) int64, class of each region, C for background.
        objects: (N, 4) xyxy, box of the matched object; rows of background regions are undefined.
        matched: (N,) int64, index of the matched object, -1 for background.
        is_object: (N,) bool, True where the region is an object's own box.
    """

    boxes: Tensor
    labels: Tensor
    objects: Tensor
    matched: Tensor
    is_object: Tensor


class BoxHead(nn.Module):
    """Two fully connected layers on the pooled features of a region, then class logits and deltas for every class.

    Args:
        inputs: channels of the pyramid.
        num_classes: C.
        width: of the fully connected layers.
        size: height and width of the pooled features of a region.
        stds: the deltas are in units of these.
        class_specific: deltas for every class; False: one box for all classes.
    """

    def __init__(
        self,
        inputs: int,
        num_classes: int,
        width: int = 1024,
        size: int = 7,
        stds: tuple[float, ...] = BOX_STDS,
        class_specific: bool = True,
    ) -> None:
        super().__init__()
        self.size, self.stds, self.class_specific = size, stds, class_specific
        self.fc1 = nn.Linear(inputs * size * size, width)
        self.fc2 = nn.Linear(width, width)
        self.cls = nn.Linear(width, num_classes + 1)
        self.box = nn.Linear(width, 4 * (num_classes if class_specific else 1))
        nn.init.xavier_uniform_(self.fc1.weight)
        nn.init.xavier_uniform_(self.fc2.weight)
        nn.init.normal_(self.cls.weight, std=0.01)
        nn.init.normal_(self.box.weight, std=0.001)
        for layer in (self.fc1, self.fc2, self.cls, self.box):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, inputs, size, size) -> logits (N, C+1), background last, and deltas (N, C or 1, 4), at least float32."""
        x = F.relu(self.fc1(x.flatten(1).to(self.fc1.weight.dtype)))  # pooled in float32 also by a half detector
        x = F.relu(self.fc2(x))
        logits, deltas = float32_or_wider(self.cls(x)), float32_or_wider(self.box(x))
        return logits, deltas.unflatten(1, (-1, 4))  # type: ignore[no-untyped-call]

    def deltas_of(self, deltas: Tensor, regions: Tensor, labels: Tensor) -> Tensor:
        """The deltas (K, 4) of some regions (K,) for these classes (K,), from all deltas (N, C or 1, 4)."""
        return deltas[regions, labels if self.class_specific else torch.zeros_like(labels)]


class RegionDetector(Detector):
    """Backbone, pyramid and RPN: proposes regions, samples them for training, and pools their features.

    Args:
        rpn: proposes regions.
        roi_levels: number of levels, from the finest on, that regions are pooled from; the RPN uses all levels.
        low_quality: minimum IoU at which an object also takes the proposals that overlap it most, even if they overlap
            another object more; None means never.
        sample: compute losses on a random sample of anchors and regions; False: on all of them.
        kwargs: see :class:`Detector`.
    """

    two_stage = True
    train_proposing = ProposalConfig(pre_nms_top_k=2000)
    test_proposing: ProposalConfig = ProposalConfig(pre_nms_top_k=1000)
    rpn_beta = 0.0  # of the RPN's smooth L1 loss; 0 is L1
    anchors_inside = False  # whether the RPN is trained only on anchors that lie in the image as a whole

    def __init__(
        self,
        *,
        rpn: RPN,
        roi_levels: int = 4,
        low_quality: float | None = None,
        sample: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rpn = rpn
        self.roi_levels = roi_levels
        self.low_quality = low_quality
        self.anchor_sampling = ANCHOR_SAMPLING if sample else None
        self.roi_sampling = ROI_SAMPLING if sample else None

    # -- one pass ------------------------------------------------------------------------------------------------

    def run_rpn(self, features: FeaturePyramid) -> HeadTrace[Self]:
        """Outputs of the RPN and its anchors, without proposals."""
        return HeadTrace(self, features, self.rpn(features.levels), self.make_anchors(features))

    def run_head(self, features: FeaturePyramid, batch: Batch, tap: int | None = None) -> HeadTrace[Self]:
        """Outputs of the RPN, its anchors, and the proposals for detection."""
        trace = self.run_rpn(features)
        return replace(trace, proposals=self.propose(trace, batch, self.test_proposing))

    def flat(self, outputs: HeadOutputs) -> tuple[Tensor, Tensor]:
        """The RPN's logits (B, P, 1) and deltas (B, P, 4), in float32 also under autocast."""
        return float32_or_wider(flatten_levels(outputs.cls, 1)), float32_or_wider(flatten_levels(outputs.box, 4))

    def decode(self, box: Tensor, priors: Priors) -> Tensor:
        """Boxes from rows of the RPN's deltas: (..., P, 4) -> (..., P, 4) xyxy in pixels, not clipped."""
        return decode_deltas(box, priors.boxes)

    def make_anchors(self, features: FeaturePyramid) -> Priors:
        """The RPN's anchors for a pyramid of this size."""
        device = features.levels[0].device
        anchors = [base_anchors(stride, SCALES, RATIOS).to(device) for stride in features.strides]
        return grid_priors(anchors, features.sizes, features.strides)

    def run_losses(
        self, features: FeaturePyramid, batch: Batch, instances: list[Instances], tap: int | None = None
    ) -> LossTrace[Self]:
        """Targets and losses of the RPN; then proposals, and the losses of the heads on a sample of them.

        The proposals are those for training, which are more than those for detection.
        """
        rpn = self.run_rpn(features)
        targets = self.assign_anchors(rpn, batch, instances)
        losses = self.rpn_losses(rpn, targets)
        proposals = self.propose(rpn, batch, self.train_proposing)
        regions, head_losses = self.region_losses(features, batch, proposals, instances)
        losses |= head_losses
        return LossTrace(self, features, rpn.outputs, rpn.priors, targets, losses, proposals=proposals, regions=regions)

    def region_losses(
        self, features: FeaturePyramid, batch: Batch, proposals: list[Tensor], instances: list[Instances]
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Sample regions from the proposals; the positive ones of each image, and the losses of the heads by name."""
        raise NotImplementedError

    def proposals_for_detection(self, trace: Trace[Self], batch: Batch) -> list[Tensor]:
        """The proposals of a pass, for detection also after a pass up to the losses, which has those for training."""
        if not isinstance(trace, HeadTrace):
            raise ValueError('this trace stops at the features: write model.trace(batch, upto="head")')
        return self.propose(trace, batch, self.test_proposing) if isinstance(trace, LossTrace) else trace.proposals

    def positive_regions(self, sampled: list[RoITargets]) -> list[Instances]:
        """The positive regions of each image, with their labels."""
        positive = [t.labels < self.num_classes for t in sampled]
        return [Instances(t.boxes[kept], t.labels[kept]) for t, kept in zip(sampled, positive)]

    # -- first stage ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def assign_anchors(self, trace: HeadTrace[Self], batch: Batch, instances: list[Instances]) -> DenseTargets:
        """Anchors are positive from IoU 0.7, background below 0.3; each object takes its best anchors; then sampling.

        ``num_pos`` counts positives and negatives, at least 1 of each per image: the RPN's losses are means over both.
        """
        priors, features = trace.priors, trace.features
        labels = torch.full((len(instances), len(priors)), IGNORE, device=priors.boxes.device)
        boxes = priors.boxes.new_zeros(*labels.shape, 4, dtype=box_dtype(instances))
        per_location = len(SCALES) * len(RATIOS)
        for i, (objects, size) in enumerate(zip(instances, batch.sizes)):
            valid = valid_prior_mask(features.sizes, features.strides, size, per_location, device=labels.device)
            if self.anchors_inside:
                valid &= lie_inside(priors.boxes, size)
            valid_index = valid.nonzero().squeeze(1)
            matched = match_by_iou(priors.boxes[valid_index], objects.boxes, 0.7, 0.3, low_quality=0.3)
            positives, negatives = sample(matched, self.anchor_sampling)
            labels[i, valid_index[positives]] = OBJECT
            labels[i, valid_index[negatives]] = BACKGROUND
            if len(objects):
                boxes[i, valid_index[positives]] = objects.boxes[matched[positives]].to(boxes.dtype)
        counts = torch.stack([(labels == kind).sum(dim=1) for kind in (OBJECT, BACKGROUND)])
        num_pos = mean_over_ranks(counts.clamp(min=1).sum().float())
        return DenseTargets(labels, boxes, (labels == OBJECT).float(), num_pos)

    def rpn_losses(self, trace: HeadTrace[Self], targets: DenseTargets) -> dict[str, Tensor]:
        """Binary cross entropy of sampled anchors and (smooth) L1 of positives, over the number of sampled ones."""
        outputs, priors = trace.outputs, trace.priors
        logits = float32_or_wider(flatten_levels(outputs.cls, 1)[..., 0])  # (B, P)
        deltas = flatten_levels(outputs.box, 4)
        sampled = targets.labels != IGNORE
        is_object = (targets.labels[sampled] == OBJECT).to(logits.dtype)
        image, prior = (targets.labels == OBJECT).nonzero(as_tuple=True)
        target_deltas = encode_deltas(targets.boxes[image, prior], priors.boxes[prior])
        difference = smooth_l1(float32_or_wider(deltas[image, prior]), target_deltas, self.rpn_beta)
        cross_entropy = F.binary_cross_entropy_with_logits(logits[sampled], is_object, reduction="sum")
        return {
            "loss_rpn_cls": cross_entropy / targets.num_pos,
            "loss_rpn_box": difference / targets.num_pos,
        }

    @torch.no_grad()
    def propose(self, trace: HeadTrace[Self], batch: Batch, config: ProposalConfig) -> list[Tensor]:
        """The proposals of each image, highest score first.

        Returns:
            For each image (N, 4) xyxy inside the image, with a positive area, without gradient.
        """
        anchors = torch.split(trace.priors.boxes, trace.priors.counts)
        boxes, scores, levels = [], [], []
        for i, (cls, box) in enumerate(zip(trace.outputs.cls, trace.outputs.box)):
            logits = float32_or_wider(flatten_level(cls, 1)[..., 0])  # (B, p)
            best, index = logits.topk(min(config.pre_nms_top_k, logits.shape[1]), dim=1)
            deltas = float32_or_wider(flatten_level(box, 4)).gather(1, index[..., None].expand(-1, -1, 4))
            boxes.append(decode_deltas(deltas, anchors[i][index]))
            scores.append(best.sigmoid())
            levels.append(torch.full_like(index[0], i))
        level = torch.cat(levels)
        proposals = []
        for candidates, score, size in zip(torch.cat(boxes, dim=1), torch.cat(scores, dim=1), batch.sizes):
            candidates = clip_boxes(candidates, size)
            valid = has_area(candidates)
            candidates = candidates[valid]
            kept = batched_nms(candidates, score[valid], level[valid], config.nms_threshold)
            proposals.append(candidates[kept[: config.max_proposals]])
        return proposals

    # -- second stage --------------------------------------------------------------------------------------------

    def pool(self, features: FeaturePyramid, boxes: list[Tensor], size: int) -> Tensor:
        """Pooled features of the regions of all images: (N, channels, size, size)."""
        used = slice(self.roi_levels)
        return pool_rois(features.levels[used], features.strides[used], to_rois(boxes), size)

    @torch.no_grad()
    def assign_regions(self, proposals: Tensor, objects: Instances, positive: float = 0.5) -> RoITargets:
        """Sample from the proposals and the objects' boxes; positive from an IoU on, all others background.

        The objects' boxes are added after the assignment: they must not count as the proposals of highest overlap.
        """
        matched = match_by_iou(proposals, objects.boxes, positive, positive, self.low_quality)
        matched = torch.cat([torch.arange(len(objects), device=matched.device), matched])
        sampled = torch.cat(sample(matched, self.roi_sampling))
        matched = matched[sampled]
        boxes = torch.cat([objects.boxes.to(proposals.dtype), proposals])[sampled]
        matched_boxes = objects.boxes[matched.clamp(min=0)] if len(objects) else torch.zeros_like(boxes)
        labels = labels_of(matched, objects.labels, self.num_classes)
        return RoITargets(boxes, labels, matched_boxes, matched, sampled < len(objects))

    def box_losses(
        self, head: BoxHead, cls: Tensor, deltas: Tensor, targets: list[RoITargets], beta: float = 0.0
    ) -> dict[str, Tensor]:
        """Cross entropy of all sampled regions, and (smooth) L1 of the positives, both over all sampled regions.

        Args:
            head: what predicted them.
            cls: (N, C+1) logits of the sampled regions of all images.
            deltas: (N, C or 1, 4).
            targets: of each image.
            beta: of smooth L1; 0 is L1.
        """
        labels = torch.cat([t.labels for t in targets])
        positive = (labels < self.num_classes).nonzero().squeeze(1)
        boxes = torch.cat([t.boxes for t in targets])[positive]
        target_deltas = encode_deltas(torch.cat([t.objects for t in targets])[positive], boxes, head.stds)
        count = mean_over_ranks(cls.new_tensor(float(len(labels))), least=1)
        difference = smooth_l1(head.deltas_of(deltas, positive, labels[positive]), target_deltas, beta)
        return {"loss_cls": F.cross_entropy(cls, labels, reduction="sum") / count, "loss_box": difference / count}

    def select_detections(
        self,
        head: BoxHead,
        cls: Tensor,
        deltas: Tensor,
        regions: list[Tensor],
        batch: Batch,
        config: PostProcess | None = None,
    ) -> list[Detections]:
        """Score threshold, decoding, clipping, NMS and the best detections of each image.

        Args:
            head: what predicted them.
            cls: (N, C+1) logits of the regions of all images.
            deltas: (N, C or 1, 4).
            regions: (N_i, 4) xyxy of each image, to which the deltas refer.
            batch: the images.
            config: thresholds; None means ``self.postprocess_config``.
        """
        config = config or self.postprocess_config
        counts = [len(boxes) for boxes in regions]
        detections = []
        for boxes, logits, delta, size in zip(
            regions, torch.split(cls, counts), torch.split(deltas, counts), batch.sizes
        ):
            scores = logits.softmax(dim=1)[:, :-1]  # background is the last
            values, region, labels = select_candidates(scores, config.score_threshold, scores.numel())
            decoded = decode_deltas(head.deltas_of(delta, region, labels), boxes[region], head.stds)
            candidates = Detections(clip_boxes(decoded, size), values, labels)
            detections.append(suppress(candidates, config.nms_threshold, config.max_detections))
        return detections


class TwoStageDetector(RegionDetector):
    """Backbone, pyramid, RPN and one box head.

    Args:
        box_head: classifies and refines the regions.
        kwargs: see :class:`RegionDetector`.
    """

    def __init__(self, *, box_head: BoxHead, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.box_head = box_head

    def region_losses(
        self, features: FeaturePyramid, batch: Batch, proposals: list[Tensor], instances: list[Instances]
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        sampled = [self.assign_regions(*pair) for pair in zip(proposals, instances)]
        return self.positive_regions(sampled), self.roi_losses(features, sampled, instances)

    def roi_losses(
        self, features: FeaturePyramid, targets: list[RoITargets], instances: list[Instances]
    ) -> dict[str, Tensor]:
        """Losses of the box head on the sampled regions: cross entropy, and L1 of the positives, over all regions."""
        cls, deltas = self.box_head(self.pool(features, [t.boxes for t in targets], self.box_head.size))
        return self.box_losses(self.box_head, cls, deltas, targets)

    def postprocess(self, trace: Trace[Self], batch: Batch, config: PostProcess | None = None) -> list[Detections]:
        """Run the box head on the proposals; then score threshold, decoding, clipping, NMS and the best detections."""
        proposals = self.proposals_for_detection(trace, batch)
        cls, deltas = self.box_head(self.pool(trace.features, proposals, self.box_head.size))
        return self.select_detections(self.box_head, cls, deltas, proposals, batch, config)
