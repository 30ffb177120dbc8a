"""Global Knowledge: distilling object detectors with global knowledge (Tang et al. 2022, ECCV).

Each epoch begins with a search for prototypes: objects that represent the others well in the feature spaces of both
networks (see ``prototypes.py``). In training, a region whose nearest prototypes are equally near in both networks is
trusted, one where they differ is noise: its robust weight is ``1 - |cos_student - cos_teacher|``. Three terms are
weighted with it:

- features: the student's maps, through a 3x3 convolution, imitate the teacher's inside positive regions (each at the
  level of its size) and, with weight 4, outside;
- soft labels: class logits of positive regions at temperature 2;
- relations, off as released: similarities to all prototypes. The paper describes this term; in the released code it
  cannot be reached. ``relation=True`` turns it on.

The feature and relation terms fall by ``1 - epoch / epochs``, in steps of an epoch.

Positive regions are the student's sampled positives in two-stage detectors, its positive anchors in one-stage ones.
The released code has a part for one-stage detectors, which differs in three points: the feature term is summed over
levels (two-stage: the mean), the convolution is followed by a ReLU, and soft labels are over the logits of positive
anchors. Its convolution has no padding, so the code fails there; it is padded here. Only the Faster R-CNN configuration
was released: the other settings of one-stage detectors are assumed to be equal. Classes without candidates are trusted
fully (inferred). Published students start from trained weights, which the recipe configures.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from pkdzoo.distill.base import DistillMethod, require_same_classes, require_same_heads
from pkdzoo.distill.imitation import halved_mean, squared_difference
from pkdzoo.distill.masks import assign_size_levels, rectangles
from pkdzoo.distill.pairing import PyramidPairs
from pkdzoo.distill.prototypes import collect_candidates, gather_candidates, match_prototypes, pool_boxes
from pkdzoo.models.dense import DenseDetector
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import HeadTrace, LossTrace, Trace
from pkdzoo.models.two_stage import TwoStageDetector
from pkdzoo.ops.reduce import world_size
from pkdzoo.ops.rois import roi_levels
from pkdzoo.structures import Batch, FeaturePyramid, Instances
from pkdzoo.utils.precision import float32_or_wider


class GlobalKnowledge(DistillMethod):
    """Distillation of regions whose features have equal distances to prototypes in student and teacher.

    Prototypes are kept in buffers, so a checkpoint holds them. Until the first epoch starts every region is trusted.

    Args:
        student: detector that learns.
        teacher: of the same kind, classes and strides.
        object_weight: of features inside positive regions.
        background_weight: of features outside.
        soft_weight: of soft labels; 0 leaves them out.
        temperature: of soft labels.
        relation: add the relation term.
        relation_weight: of it.
        prototypes: of each class and level.
        num_images: maximum number of images per class from which candidates are taken.
        smallest: candidates are wider and higher than this, in pixels of the original image.
        alpha: weight of the agreement between the coefficients of both networks in the search.
        batches: maximum number of batches per process that are searched for candidates; None: until every class has
            its images, or all.
        levels: of the pyramids, counted from the finest; None means those that both have, at most five.
    """

    student_prototypes: Tensor
    teacher_prototypes: Tensor
    known: Tensor

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        object_weight: float = 1.0,
        background_weight: float = 4.0,
        soft_weight: float = 1.0,
        temperature: float = 2.0,
        relation: bool = False,
        relation_weight: float = 5.0,
        prototypes: int = 10,
        num_images: int = 800,
        smallest: float = 30.0,
        alpha: float = 10.0,
        batches: int | None = None,
        levels: int | None = None,
    ) -> None:
        super().__init__()
        require_same_heads(student, teacher, "global_knowledge")
        require_same_classes(student, teacher, "global_knowledge")
        for model in (student, teacher):
            if model.two_stage and soft_weight and not isinstance(model, TwoStageDetector):
                raise ValueError(
                    f"global_knowledge compares the class logits of one box head, and {model.name} has another kind of "
                    "head: write soft_weight=0, or choose a faster_rcnn_* or mask_rcnn_* detector"
                )
        self.pairs = PyramidPairs(student, teacher, levels, project="always", kernel=3, most=5)
        self.two_stage = student.two_stage
        if not self.two_stage and soft_weight:
            self.teacher_depth = "head"
        self.object_weight, self.background_weight = float(object_weight), float(background_weight)
        self.soft_weight, self.temperature = float(soft_weight), float(temperature)
        self.relation_weight = float(relation_weight) if relation else 0.0
        self.num_images, self.smallest, self.alpha, self.batches = num_images, smallest, alpha, batches
        size = (len(self.pairs), student.num_classes, prototypes)
        self.register_buffer("student_prototypes", torch.zeros(*size, self.pairs.student_channels[0]))
        self.register_buffer("teacher_prototypes", torch.zeros(*size, self.pairs.teacher_channels[0]))
        self.register_buffer("known", torch.zeros(student.num_classes, dtype=torch.bool))

    # -- prototypes ----------------------------------------------------------------------------------------------

    def on_epoch_start(self, epoch: int, student: Detector, teacher: Detector, loader: Iterable[Batch]) -> None:
        """Search prototypes with the current student. All processes end with the same prototypes."""
        modes = {module: module.training for module in student.modules()}  # parts may be frozen in eval mode
        student.eval()
        collected = collect_candidates(
            student, teacher, loader, self.pairs.levels, self.num_images, self.smallest, self.batches
        )
        for module, training in modes.items():
            module.training = training
        count = self.student_prototypes.shape[2]
        for label, candidates in enumerate(gather_candidates(collected)):
            self.known[label] = bool(candidates.student)
            if not candidates.student:
                continue
            of_student, of_teacher = (
                torch.stack(rows).to(self.student_prototypes) for rows in (candidates.student, candidates.teacher)
            )  # (N, L, C)
            for level in range(len(self.pairs)):
                picks = match_prototypes(of_student[:, level], of_teacher[:, level], count, self.alpha)
                self.student_prototypes[level, label] = of_student[picks, level]
                self.teacher_prototypes[level, label] = of_teacher[picks, level]
        if world_size() > 1:  # processors may round differently where two candidates are equal
            for buffer in (self.student_prototypes, self.teacher_prototypes):
                dist.broadcast(buffer, 0)

    def robust_weights(self, student: Tensor, teacher: Tensor, labels: Tensor, levels: Tensor) -> Tensor:
        """The robust weight of regions, without gradient.

        Args:
            student: (R, C) vectors of the regions.
            teacher: (R, C) likewise.
            labels: (R,) class of each.
            levels: (R,) level that each vector comes from.

        Returns:
            (R,) at most 1; 1 where the class has no prototypes.
        """
        nearest = [
            F.cosine_similarity(vectors.detach()[:, None], prototypes[levels, labels], dim=-1).amax(dim=1)
            for vectors, prototypes in ((student, self.student_prototypes), (teacher, self.teacher_prototypes))
        ]
        return torch.where(self.known[labels], 1 - (nearest[0] - nearest[1]).abs(), 1.0)

    # -- losses --------------------------------------------------------------------------------------------------

    def forward(self, student: LossTrace[Detector], teacher: Trace[Detector], batch: Batch) -> dict[str, Tensor]:
        regions = positive_regions(student)
        labels = torch.cat([r.labels for r in regions])
        levels = torch.cat([assign_size_levels(r.boxes, len(self.pairs)) for r in regions])
        vectors = self.region_vectors(student, regions, 0)
        teacher_vectors = self.region_vectors(teacher, regions, 1)
        weights = self.robust_weights(vectors, teacher_vectors, labels, levels)
        decay = max(0.0, 1.0 - self.progress.epoch / max(self.progress.epochs, 1))
        inside, outside = self.feature_losses(student, teacher, regions, weights)
        losses = {
            "loss_gk_object": decay * self.object_weight * inside,
            "loss_gk_background": decay * self.background_weight * outside,
        }
        if self.soft_weight:
            losses["loss_gk_soft"] = self.soft_weight * self.soft_label_loss(student, teacher, regions, weights)
        if self.relation_weight:
            difference = self.relation_loss(vectors, teacher_vectors, levels, weights)
            losses["loss_gk_relation"] = decay * self.relation_weight * difference
        self.logs = {"trust": weights.mean() if len(weights) else weights.new_ones(())}
        return losses

    def region_vectors(self, trace: Trace[Detector], regions: list[Instances], side: int) -> Tensor:
        """The mean of the map over each region, at the level of its size.

        Args:
            trace: the student's or the teacher's.
            regions: of each image, R in all.
            side: 0 for the student, 1 for the teacher.

        Returns:
            (R, C); with gradient only for the student, and only if the relation term needs it.
        """
        features = trace.features
        grad = bool(self.relation_weight) and side == 0
        with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
            rows = []
            for image, r in enumerate(regions):
                chosen = assign_size_levels(r.boxes, len(self.pairs))
                pooled = float32_or_wider(features.levels[0].new_zeros(len(r), features.levels[0].shape[1]))
                for level, pair in enumerate(self.pairs.levels):
                    at = (chosen == level).nonzero().squeeze(1)
                    scale = 1.0 / features.strides[pair[side]]
                    pooled_level = pool_boxes(features.levels[pair[side]][image], r.boxes[at], (scale, scale))
                    pooled = pooled.index_copy(0, at, pooled_level)
                rows.append(pooled)
        return torch.cat(rows)

    def feature_losses(
        self, student: Trace[Detector], teacher: Trace[Detector], regions: list[Instances], weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Imitation inside and outside the regions."""
        parts = []
        per_image = torch.split(weights, [len(r) for r in regions])
        for level, maps in enumerate(self.pairs(student.features, teacher.features)):
            projected = maps.student if self.two_stage else F.relu(maps.student)
            squares = squared_difference(projected, maps.teacher, normalize=False)
            masks = []
            for r, weight in zip(regions, per_image):
                at = assign_size_levels(r.boxes, len(self.pairs)) == level
                masks.append(fill_boxes(r.boxes[at], weight[at], (squares.shape[-2], squares.shape[-1]), maps.stride))
            mask = torch.stack(masks)[:, None]  # (B, 1, h, w)
            parts.append(torch.stack([halved_mean(squares, m) for m in (mask, (mask <= 0).float())]))
        per_level = torch.stack(parts)
        inside, outside = per_level.mean(dim=0) if self.two_stage else per_level.sum(dim=0)
        return inside, outside

    def soft_label_loss(
        self, student: LossTrace[Detector], teacher: Trace[Detector], regions: list[Instances], weights: Tensor
    ) -> Tensor:
        """KL of the class logits of regions, weighted with ``weights``; mean over classes and regions."""
        if not len(weights):
            return student.features.levels[0].sum() * 0.0
        if isinstance(student.model, TwoStageDetector) and isinstance(teacher.model, TwoStageDetector):
            boxes = [r.boxes for r in regions]
            pooled, logits = region_logits(student.model, student.features, boxes)
            with torch.no_grad():
                teacher_pooled, teacher_logits = region_logits(teacher.model, teacher.features, boxes)
            # here the weights come from the head's input
            levels = roi_levels(torch.cat(boxes), student.model.roi_levels)
            vectors = [p.mean(dim=(2, 3)) for p in (pooled, teacher_pooled)]
            weights = self.robust_weights(vectors[0], vectors[1], torch.cat([r.labels for r in regions]), levels)
        elif isinstance(student.model, DenseDetector) and isinstance(teacher, HeadTrace):
            at = student.model.positives(student.targets)
            logits, teacher_logits = (student.model.flat(t.outputs)[0][at] for t in (student, teacher))
        else:
            raise TypeError(f"soft labels need a two-stage or a dense detector, not {type(student.model).__name__}")
        t = self.temperature
        log_student, log_teacher = (logits / t).log_softmax(dim=1), (teacher_logits / t).log_softmax(dim=1)
        kl = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).mean(dim=1)  # (R,)
        return t**2 * (weights * kl).mean()

    def relation_loss(self, student: Tensor, teacher: Tensor, levels: Tensor, weights: Tensor) -> Tensor:
        """Difference of the regions' similarities to all prototypes of their level."""
        if not len(student) or not bool(self.known.any()):
            return student.sum() * 0.0
        similarities = []
        for vectors, prototypes in ((student, self.student_prototypes), (teacher, self.teacher_prototypes)):
            units = F.normalize(prototypes[:, self.known].flatten(1, 2), dim=-1)  # (L, K, C)
            with torch.autocast(vectors.device.type, enabled=False):  # matrix products would be in half precision
                cosines = torch.matmul(F.normalize(vectors, dim=1), units.transpose(1, 2))  # (L, R, K)
            similarities.append(weights[:, None] * cosines[levels, torch.arange(len(levels), device=levels.device)])
        return F.smooth_l1_loss(similarities[0], similarities[1])


def region_logits(model: TwoStageDetector, features: FeaturePyramid, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Pooled features (R, C, size, size) and class logits (R, classes + 1) of regions of each image."""
    pooled = model.pool(features, boxes, model.box_head.size)
    logits, _ = model.box_head(pooled)
    return pooled, logits


def positive_regions(trace: LossTrace[Detector]) -> list[Instances]:
    """Boxes and labels of the positives that the student was trained on: sampled regions, or positive anchors."""
    if not isinstance(trace.model, DenseDetector):
        return trace.regions
    image, prior = trace.model.positives(trace.targets)
    labels = trace.targets.labels[image, prior]
    images = range(len(trace.targets.labels))
    return [Instances(trace.priors.boxes[prior[image == i]], labels[image == i]) for i in images]


def fill_boxes(boxes: Tensor, values: Tensor, size: tuple[int, int], stride: float) -> Tensor:
    """A map with a value at each box's locations; later boxes overwrite earlier ones.

    Args:
        boxes: (R, 4) xyxy pixels; the locations are ``trunc(x1 / stride) .. trunc(x2 / stride)``, at least one.
        values: (R,).
        size: (h, w) of the map.
        stride: of the map, in pixels.

    Returns:
        (h, w), 0 where there is no box.
    """
    if not len(boxes):
        return values.new_zeros(size)
    corners = (boxes / stride).trunc()
    corners[:, 2:] = torch.maximum(corners[:, 2:], corners[:, :2] + 1)
    order = torch.arange(1, len(boxes) + 1, device=boxes.device, dtype=torch.int32)
    last = torch.zeros(size, device=boxes.device, dtype=torch.int32)  # number of the last box, 0: none
    # in blocks, since a one-stage detector has thousands of positives
    for block, numbers in zip(torch.split(corners, 64), torch.split(order, 64)):
        last = torch.maximum(last, (rectangles(block, size) * numbers[:, None, None]).amax(dim=0))
    return torch.cat([values.new_zeros(1), values])[last.long()]
