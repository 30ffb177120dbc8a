"""LD: localization distillation for dense object detection (Zheng et al. 2022, arXiv:2102.12252).

A head that predicts the distance to each side of a box as a distribution over bins (GFL) says how certain it is of a
side. The student learns the teacher's distributions at its own positive priors, softened by a temperature T:

    loss_ld = weight * sum over positives of w * mean over 4 sides of T^2 / bins * KL(teacher || student)

w is the student's best class score, without gradient. As mmdetection's LDHead: the sum is divided by nothing, so it
grows with the number of positives, although the detector's own box losses are divided by the sum of w.

The authors' later code has three more terms, which are off by default here. Their weights there:

- ``cls_weight`` 10, main KD: the class logits of positives, as a softmax over the classes (which the detector trains as
  separate scores) of temperature 2; a mean over the positives of a level, summed over levels.
- ``region_weight`` 0.25, valuable localization region: the same KL at priors around the objects that are no positives,
  weighted by their IoU with the object and divided by 4 once more. The region of an object are the priors whose DIoU
  with it lies between a quarter of ATSS' threshold and the threshold.
- ``feat_weight`` 2 (in one of the three configurations): squared difference of the maps, see ``feat_region``.

``anchor_area=True`` takes the DIoU as released: it divides the intersection by the anchor's own area where a DIoU has
the union. The authors' published APs were trained with that. Their ``loss_kd_neg`` is multiplied by 0 and left out.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

from pkdzoo.distill.base import DistillMethod, priors_per_location, require_same_classes
from pkdzoo.distill.imitation import squared_difference
from pkdzoo.distill.masks import objects_of
from pkdzoo.distill.pairing import Adapter, PyramidPairs, check_choice, shape_of
from pkdzoo.losses import kl_divergence
from pkdzoo.models.assigners.atss import nearest_anchors, overlap_thresholds
from pkdzoo.models.dense import DenseDetector
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Depth, HeadTrace, LossTrace
from pkdzoo.structures import IGNORE, Batch

FeatRegion = Literal["near", "disputed"]
LOWEST = 0.25  # of ATSS' threshold: DIoU from which a prior lies in the valuable region
NEAR = 0.5  # of an object's highest IoU: IoU from which a prior is near it
DISPUTED, MAX_OVERLAP = 10, 0.3  # number of disputed priors of a level, and IoU of two of their boxes


def softened_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 / n * KL(teacher || student)`` of logits (..., n) at temperature T: (...). The teacher gets no gradient."""
    return temperature**2 / student.shape[-1] * kl_divergence(student / temperature, teacher / temperature)


def distance_iou(anchors: Tensor, boxes: Tensor, anchor_area: bool = False, eps: float = 1e-6) -> Tensor:
    """DIoU (Zheng et al. 2020): IoU minus squared distance of the centers over squared diagonal of the hull.

    Args:
        anchors: (P, 4) xyxy.
        boxes: (G, 4) xyxy.
        anchor_area: divide the intersection by the anchor's area instead of the union, as LD's authors do.
        eps: lower limit of both denominators.

    Returns:
        (G, P); at most 1.
    """
    a, b = anchors[None], boxes[:, None]
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    inter = sides[..., 0] * sides[..., 1]
    areas = [(x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, b)]
    whole = areas[0] if anchor_area else areas[0] + areas[1] - inter
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    apart = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]).square().sum(dim=-1) / 4
    return inter / whole.clamp(min=eps) - apart / hull.square().sum(dim=-1).clamp(min=eps)


@torch.no_grad()
def valuable_region(anchors: Tensor, counts: list[int], boxes: Tensor, anchor_area: bool = False) -> Tensor:
    """The weight of each anchor of one image in the valuable localization region.

    Args:
        anchors: (P, 4) xyxy, level by level.
        counts: number of anchors of each level.
        boxes: (G, 4) xyxy of the objects.
        anchor_area: see :func:`distance_iou`.

    Returns:
        (P,) the highest IoU with an object in whose region the anchor lies; 0 outside of all.
    """
    if not len(boxes) or not len(anchors):
        return anchors.new_zeros(len(anchors))
    overlaps = box_iou(boxes, anchors)  # (G, P)
    thresholds = overlap_thresholds(overlaps.gather(1, nearest_anchors(anchors, counts, boxes)))[:, None]
    diou = distance_iou(anchors, boxes, anchor_area)
    inside = (diou < thresholds) & (diou >= LOWEST * thresholds)
    return torch.where(inside, overlaps, 0.0).amax(dim=0)


class LD(DistillMethod):
    """Localization distillation between heads that predict distributions.

    Args:
        student: detector of the family gfl.
        teacher: of the same family, strides and priors; with ``cls_weight`` of the same classes, with ``feat_weight``
            of as many channels.
        weight: of the distributions at positives.
        temperature: of the distributions.
        region_weight: of the distributions in the valuable region; the authors' 0.25.
        cls_weight: of the class logits at positives; the authors' 10.
        cls_temperature: of the class logits.
        feat_weight: of the maps; the authors' 2 for their R50 student, 0 for the others.
        feat_region: where the maps are compared: ``near`` objects (IoU above half of the highest of the object), or at
            the ten most ``disputed`` priors of a level: class scores differ most, boxes do not overlap. The ten are
            of the whole batch of a process, as released, and boxes of different images suppress each other.
        anchor_area: the region's DIoU as released, see the module's text; published APs were trained with it.
        adapter: of the feature term, where numbers of channels differ: see ``pkd``.

    Raises:
        ValueError: for heads without distributions, and for pairs whose heads do not fit.
    """

    teacher_depth: Depth = "head"

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        weight: float = 0.25,
        temperature: float = 10.0,
        region_weight: float = 0.0,
        cls_weight: float = 0.0,
        cls_temperature: float = 2.0,
        feat_weight: float = 0.0,
        feat_region: FeatRegion = "near",
        anchor_area: bool = False,
        adapter: Adapter = False,
    ) -> None:
        super().__init__()
        check_choice("feat_region", feat_region, ("near", "disputed"))
        self.bins = require_same_distributions(student, teacher)
        if cls_weight or (feat_weight and feat_region == "disputed"):
            require_same_classes(student, teacher, "ld with cls_weight or disputed priors")
        self.pairs = (
            PyramidPairs(student, teacher, len(shape_of(student).strides), adapter=adapter) if feat_weight else None
        )
        self.weight, self.temperature = float(weight), float(temperature)
        self.cls_weight, self.cls_temperature = float(cls_weight), float(cls_temperature)
        self.region_weight, self.anchor_area = float(region_weight), anchor_area
        self.feat_weight, self.feat_region = float(feat_weight), feat_region

    def forward(
        self, student: LossTrace[DenseDetector], teacher: HeadTrace[DenseDetector], batch: Batch
    ) -> dict[str, Tensor]:
        cls, box = student.model.flat(student.outputs)
        teacher_cls, teacher_box = teacher.model.flat(teacher.outputs)
        at = student.model.positives(student.targets)
        score = cls[at].detach().sigmoid().amax(dim=-1)
        losses = {"loss_ld": self.weight * (self.sides_kl(box[at], teacher_box[at]) * score).sum()}
        if self.cls_weight:
            per_positive = softened_kl(cls[at], teacher_cls[at], self.cls_temperature)
            losses["loss_ld_cls"] = self.cls_weight * (per_positive / self.count_of_level(student)).sum()
        if self.region_weight:
            weights = self.region_weights(student, batch)
            inside = weights.nonzero(as_tuple=True)
            per_prior = self.sides_kl(box[inside], teacher_box[inside])
            losses["loss_ld_region"] = self.region_weight / 4 * (per_prior * weights[inside]).sum()
        if self.feat_weight:
            losses["loss_ld_feat"] = self.feat_weight * self.feature_loss(student, teacher, batch)
        return losses

    def sides_kl(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean softened KL of the four sides: box outputs (K, 4 * bins) of both -> (K,)."""
        s, t = (x.reshape(-1, 4, self.bins) for x in (student, teacher))
        return softened_kl(s, t, self.temperature).mean(dim=-1)

    def count_of_level(self, student: LossTrace[DenseDetector]) -> Tensor:
        """(K,) for each positive the number of positives of its level in the batch of this process."""
        _, prior = student.model.positives(student.targets)
        counts = student.priors.counts
        level = torch.arange(len(counts), device=prior.device).repeat_interleave(prior.new_tensor(counts))[prior]
        return torch.bincount(level, minlength=len(counts))[level]

    @torch.no_grad()
    def region_weights(self, student: LossTrace[DenseDetector], batch: Batch) -> Tensor:
        """(B, P) weights of the valuable region, see :func:`valuable_region`."""
        valid = student.targets.labels != IGNORE
        per_level = torch.stack([x.sum(dim=1) for x in torch.split(valid, student.priors.counts, dim=1)], dim=1)
        weights = torch.zeros_like(valid, dtype=student.priors.boxes.dtype)
        for image, (objects, counts) in enumerate(zip(objects_of(batch), per_level.tolist())):
            anchors = student.priors.boxes[valid[image]]
            weights[image, valid[image]] = valuable_region(anchors, counts, objects.boxes, self.anchor_area)
        return weights

    # -- maps ----------------------------------------------------------------------------------------------------

    def feature_loss(
        self, student: LossTrace[DenseDetector], teacher: HeadTrace[DenseDetector], batch: Batch
    ) -> Tensor:
        """Mean squared difference at the chosen locations of each level with a positive, summed over levels."""
        assert self.pairs is not None
        model, counts = student.model, student.priors.counts
        chosen = self.near_priors(student, batch) if self.feat_region == "near" else disputed_priors(student, teacher)
        _, positive = model.positives(student.targets)
        total, start = student.features.levels[0].new_zeros((), dtype=torch.float32), 0
        for count, maps in zip(counts, self.pairs(student.features, teacher.features)):
            squares = squared_difference(maps.student, maps.teacher, normalize=False).flatten(2).transpose(1, 2)
            at = chosen[:, start : start + count]  # one prior per location
            has_positive = ((positive >= start) & (positive < start + count)).any()
            mean = squares[at].sum() / (at.sum() * squares.shape[2]).clamp(min=1)
            total = total + torch.where(has_positive, mean, 0.0)
            start += count
        return total

    @torch.no_grad()
    def near_priors(self, student: LossTrace[DenseDetector], batch: Batch) -> Tensor:
        """(B, P) bool: priors whose IoU with an object is above half of the object's highest."""
        valid = student.targets.labels != IGNORE
        near = torch.zeros_like(valid)
        for image, objects in enumerate(objects_of(batch)):
            if len(objects):
                overlaps = box_iou(objects.boxes, student.priors.boxes) * valid[image]
                near[image] = (overlaps > NEAR * overlaps.amax(dim=1, keepdim=True)).any(dim=0)
        return near


@torch.no_grad()
def disputed_priors(student: LossTrace[DenseDetector], teacher: HeadTrace[DenseDetector]) -> Tensor:
    """(B, P) bool: on each level, over the whole batch, the ten priors that both detectors score most differently.

    The box of a prior is that of the detector with the higher score of the class in question; of two boxes that overlap
    only the more disputed one stays. As released, priors on padding take part, with their box moved to the origin.
    """
    (cls, box), (teacher_cls, teacher_box) = (t.model.flat(t.outputs) for t in (student, teacher))
    difference = teacher_cls.sigmoid() - cls.sigmoid()
    score, index = difference.abs().max(dim=-1)  # (B, P)
    of_teacher = difference.gather(-1, index[..., None]) >= 0
    teacher_boxes, student_boxes = (student.model.decode(x, student.priors) for x in (teacher_box, box))
    on_padding = (student.targets.labels == IGNORE)[..., None]
    boxes = torch.where(of_teacher, teacher_boxes, student_boxes)
    boxes = boxes - torch.where(on_padding, student.priors.centers.repeat(1, 2), 0.0)
    chosen, start = torch.zeros_like(score, dtype=torch.bool), 0
    for count in student.priors.counts:
        part = slice(start, start + count)
        kept = nms(boxes[:, part].flatten(0, 1), score[:, part].flatten(), MAX_OVERLAP)[:DISPUTED]
        chosen[kept // count, kept % count + start] = True
        start += count
    return chosen


def require_same_distributions(student: Detector, teacher: Detector) -> int:
    """The number of bins of both heads, after refusing heads without distributions and heads that do not fit."""
    for model in (student, teacher):
        if not isinstance(model, DenseDetector) or not model.bins:
            raise ValueError(
                f"ld compares distributions over the distances to a box's sides, and {model.name} predicts none: it "
                "works between two detectors of the family gfl"
            )
    heads = [
        (cast(Any, model).bins, shape_of(model).strides, priors_per_location(model)) for model in (student, teacher)
    ]
    if heads[0] != heads[1]:
        raise ValueError(
            "ld compares predictions prior by prior: bins, strides and priors per location of the student are "
            f"{heads[0]}, of the teacher {heads[1]}"
        )
    return int(heads[0][0])
