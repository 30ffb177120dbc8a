"""Two-stage detectors: a network that proposes regions, and a head that looks at each of them (Ren et al. 2015).

As mmdetection's TwoStageDetector with RPNHead and StandardRoIHead. The parts stand here, a family puts them together:
``RPN`` and ``BoxHead`` hold the parameters, ``TwoStageDetector`` runs them. Differs from the paper in the pyramid
(Lin et al. 2017), in RoIAlign for RoIPool, in L1 for smooth L1, and in class-specific boxes decoded from the proposal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from pkdzoo.layers.conv import init_convs
from pkdzoo.models.assigners.max_iou import labels_of, match_by_iou
from pkdzoo.models.assigners.sampling import Sampling, sample
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import HeadTrace, LossTrace, Trace
from pkdzoo.ops.boxes import clip_boxes, decode_deltas, encode_deltas
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

if TYPE_CHECKING:
    from typing_extensions import Self

SCALES = (8.0,)  # of the stride
RATIOS = (0.5, 1.0, 2.0)
BOX_STDS = (0.1, 0.1, 0.2, 0.2)  # of the box head's deltas; the RPN's have 1
ANCHOR_SAMPLING = Sampling(256, 0.5)
ROI_SAMPLING = Sampling(512, 0.25)
OBJECT, BACKGROUND = 0, 1  # labels of anchors: the RPN knows one class


@dataclass(frozen=True)
class Proposing:
    """From outputs to proposals: of each level the best ``pre_nms_top_k``, after NMS the best ``max_proposals``."""

    pre_nms_top_k: int = 1000
    nms_threshold: float = 0.7
    max_proposals: int = 1000


@dataclass
class RoITargets:
    """What the regions of one image should say.

    Attributes:
        boxes: (N, 4) xyxy, the regions; positives first.
        labels: (N,) int64, class of each, C for background.
        objects: (N, 4) xyxy, box of the object that a positive stands for; rows of others mean nothing.
        matched: (N,) int64, index of that object, -1 for background.
    """

    boxes: Tensor
    labels: Tensor
    objects: Tensor
    matched: Tensor


class RPN(nn.Module):
    """Region proposal network: at every cell, for every anchor, one object logit and four deltas.

    Args:
        inputs: channels of the pyramid.
        width: channels of the shared convolution.
        anchors: A.
    """

    def __init__(self, inputs: int, width: int, anchors: int = len(SCALES) * len(RATIOS)) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, width, 3, padding=1)
        self.cls = nn.Conv2d(width, anchors, 1)
        self.box = nn.Conv2d(width, anchors * 4, 1)
        init_convs(self)

    def forward(self, levels: list[Tensor]) -> HeadOutputs:
        maps = [F.relu(self.conv(level)) for level in levels]
        return HeadOutputs([self.cls(x) for x in maps], [self.box(x) for x in maps])


class BoxHead(nn.Module):
    """Two fully connected layers over a region's cells, then class logits and the deltas of every class.

    Args:
        inputs: channels of the pyramid.
        num_classes: C.
        width: of the fully connected layers.
        size: cells along a side of each region.
    """

    def __init__(self, inputs: int, num_classes: int, width: int = 1024, size: int = 7) -> None:
        super().__init__()
        self.size = size
        self.fc1 = nn.Linear(inputs * size * size, width)
        self.fc2 = nn.Linear(width, width)
        self.cls = nn.Linear(width, num_classes + 1)
        self.box = nn.Linear(width, num_classes * 4)
        nn.init.xavier_uniform_(self.fc1.weight)
        nn.init.xavier_uniform_(self.fc2.weight)
        nn.init.normal_(self.cls.weight, std=0.01)
        nn.init.normal_(self.box.weight, std=0.001)
        for layer in (self.fc1, self.fc2, self.cls, self.box):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, inputs, size, size) -> logits (N, C+1), background last, and deltas (N, C, 4), both float32."""
        x = F.relu(self.fc1(x.flatten(1)))
        x = F.relu(self.fc2(x))
        return self.cls(x).float(), self.box(x).float().unflatten(1, (-1, 4))


class TwoStageDetector(Detector):
    """Backbone, pyramid, RPN and box head.

    Args:
        rpn: proposes.
        box_head: judges.
        roi_levels: so many levels, from the finest on, are read by the box head; the RPN sees all.
        low_quality: overlap from which an object also takes the proposals that overlap it most, even where another
            object overlaps them more; None: never.
        sample: learn from a random choice of anchors and regions; False takes all of them.
        kwargs: as :class:`Detector`.
    """

    two_stage = True
    train_proposing = Proposing(pre_nms_top_k=2000)
    test_proposing = Proposing(pre_nms_top_k=1000)

    def __init__(
        self,
        *,
        rpn: RPN,
        box_head: BoxHead,
        roi_levels: int = 4,
        low_quality: float | None = None,
        sample: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rpn = rpn
        self.box_head = box_head
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

    def make_anchors(self, features: FeaturePyramid) -> Priors:
        """The RPN's anchors over a pyramid of these sizes."""
        cells = [base_anchors(stride, SCALES, RATIOS).to(features.levels[0].device) for stride in features.strides]
        return grid_priors(cells, features.sizes, features.strides)

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
        sampled = [self.assign_regions(*pair) for pair in zip(proposals, instances)]
        positive = [t.labels < self.num_classes for t in sampled]
        regions = [Instances(t.boxes[kept], t.labels[kept]) for t, kept in zip(sampled, positive)]
        losses |= self.roi_losses(features, sampled, instances)
        return LossTrace(self, features, rpn.outputs, rpn.priors, targets, losses, proposals=proposals, regions=regions)

    def postprocess(self, trace: Trace[Self], batch: Batch, config: PostProcess | None = None) -> list[Detections]:
        """Run the box head over the proposals; then threshold, decode, clip, suppress, keep the best."""
        if not isinstance(trace, HeadTrace):
            raise ValueError('this trace stops at the features: write model.trace(batch, upto="head")')
        config = config or self.postprocess_config
        proposals = trace.proposals
        if isinstance(trace, LossTrace):  # it has the proposals for training
            proposals = self.propose(trace, batch, self.test_proposing)
        cls, deltas = self.box_head(self.pool(trace.features, proposals, self.box_head.size))
        counts = [len(boxes) for boxes in proposals]
        found = []
        for boxes, logits, delta, size in zip(proposals, cls.split(counts), deltas.split(counts), batch.sizes):
            scores = logits.softmax(dim=1)[:, :-1]  # background is the last
            values, region, labels = select_candidates(scores, config.score_threshold, scores.numel())
            decoded = clip_boxes(decode_deltas(delta[region, labels], boxes[region], BOX_STDS), size)
            found.append(suppress(Detections(decoded, values, labels), config.nms_threshold, config.max_detections))
        return found

    # -- first stage ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def assign_anchors(self, trace: HeadTrace[Self], batch: Batch, instances: list[Instances]) -> DenseTargets:
        """Positive from IoU 0.7, background below 0.3, every object gets its best anchors; then a random choice.

        ``num_pos`` counts positives and negatives, each at least 1 an image: the RPN's losses are a mean over both.
        """
        priors, features = trace.priors, trace.features
        labels = torch.full((len(instances), len(priors)), IGNORE, device=priors.boxes.device)
        boxes = priors.boxes.new_zeros(*labels.shape, 4)
        for i, (objects, size) in enumerate(zip(instances, batch.sizes)):
            cells = len(SCALES) * len(RATIOS)
            valid = valid_prior_mask(features.sizes, features.strides, size, cells, device=labels.device)
            inside = valid.nonzero().squeeze(1)
            matched = match_by_iou(priors.boxes[inside], objects.boxes, 0.7, 0.3, low_quality=0.3)
            positives, negatives = sample(matched, self.anchor_sampling)
            labels[i, inside[positives]] = OBJECT
            labels[i, inside[negatives]] = BACKGROUND
            if len(objects):
                boxes[i, inside[positives]] = objects.boxes[matched[positives]]
        counts = torch.stack([(labels == kind).sum(dim=1) for kind in (OBJECT, BACKGROUND)])
        return DenseTargets(labels, boxes, None, mean_over_ranks(counts.clamp(min=1).sum().float()))

    def rpn_losses(self, trace: HeadTrace[Self], targets: DenseTargets) -> dict[str, Tensor]:
        """Binary cross entropy of the chosen anchors and L1 of the positive ones, over the number of chosen."""
        outputs, priors = trace.outputs, trace.priors
        logits = flatten_levels(outputs.cls, 1)[..., 0].float()  # (B, P)
        deltas = flatten_levels(outputs.box, 4)
        chosen = targets.labels != IGNORE
        is_object = (targets.labels[chosen] == OBJECT).float()
        image, prior = (targets.labels == OBJECT).nonzero(as_tuple=True)
        wanted = encode_deltas(targets.boxes[image, prior], priors.boxes[prior])
        cross_entropy = F.binary_cross_entropy_with_logits(logits[chosen], is_object, reduction="sum")
        return {
            "loss_rpn_cls": cross_entropy / targets.num_pos,
            "loss_rpn_box": (deltas[image, prior].float() - wanted).abs().sum() / targets.num_pos,
        }

    @torch.no_grad()
    def propose(self, trace: HeadTrace[Self], batch: Batch, proposing: Proposing) -> list[Tensor]:
        """The regions that the RPN believes in, best first.

        Returns:
            For each image (N, 4) xyxy inside the image, of positive size, without gradient.
        """
        anchors = torch.split(trace.priors.boxes, trace.priors.counts)
        boxes, scores, levels = [], [], []
        for i, (cls, box) in enumerate(zip(trace.outputs.cls, trace.outputs.box)):
            logits = flatten_level(cls, 1)[..., 0].float()  # (B, p)
            best, index = logits.topk(min(proposing.pre_nms_top_k, logits.shape[1]), dim=1)
            deltas = flatten_level(box, 4).float().gather(1, index[..., None].expand(-1, -1, 4))
            boxes.append(decode_deltas(deltas, anchors[i][index]))
            scores.append(best.sigmoid())
            levels.append(torch.full_like(index[0], i))
        level = torch.cat(levels)
        proposals = []
        for found, score, size in zip(torch.cat(boxes, dim=1), torch.cat(scores, dim=1), batch.sizes):
            found = clip_boxes(found, size)
            real = (found[:, 2:] > found[:, :2]).all(dim=1)
            found = found[real]
            proposals.append(
                found[batched_nms(found, score[real], level[real], proposing.nms_threshold)[: proposing.max_proposals]]
            )
        return proposals

    # -- second stage --------------------------------------------------------------------------------------------

    def pool(self, features: FeaturePyramid, boxes: list[Tensor], size: int) -> Tensor:
        """Features of regions of all images: (N, channels, size, size)."""
        used = slice(self.roi_levels)
        return pool_rois(features.levels[used], features.strides[used], to_rois(boxes), size)

    @torch.no_grad()
    def assign_regions(self, proposals: Tensor, objects: Instances) -> RoITargets:
        """The objects themselves and the proposals; positive from IoU 0.5, all others background; a random choice.

        The objects' own boxes join after the assignment: they must not take part in who overlaps an object most.
        """
        matched = match_by_iou(proposals, objects.boxes, 0.5, 0.5, self.low_quality)
        matched = torch.cat([torch.arange(len(objects), device=matched.device), matched])
        chosen = torch.cat(sample(matched, self.roi_sampling))
        matched = matched[chosen]
        boxes = torch.cat([objects.boxes.to(proposals.dtype), proposals])[chosen]
        wanted = objects.boxes[matched.clamp(min=0)] if len(objects) else torch.zeros_like(boxes)
        return RoITargets(boxes, labels_of(matched, objects.labels, self.num_classes), wanted, matched)

    def roi_losses(
        self, features: FeaturePyramid, targets: list[RoITargets], instances: list[Instances]
    ) -> dict[str, Tensor]:
        """Losses of the heads on the chosen regions: cross entropy, and L1 of the positives, over all regions."""
        cls, deltas = self.box_head(self.pool(features, [t.boxes for t in targets], self.box_head.size))
        labels = torch.cat([t.labels for t in targets])
        positive = (labels < self.num_classes).nonzero().squeeze(1)
        boxes = torch.cat([t.boxes for t in targets])[positive]
        wanted = encode_deltas(torch.cat([t.objects for t in targets])[positive], boxes, BOX_STDS)
        count = mean_over_ranks(cls.new_tensor(float(len(labels))), least=1)
        return {
            "loss_cls": F.cross_entropy(cls, labels, reduction="sum") / count,
            "loss_box": (deltas[positive, labels[positive]] - wanted).abs().sum() / count,
        }
