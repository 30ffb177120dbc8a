"""Global Knowledge: distilling object detectors with global knowledge (Tang et al. 2022, ECCV).

Each epoch begins with a search for prototypes: objects that both networks place alike among the others (see
``prototypes.py``). In training, a region whose nearest prototypes are equally near in both networks is trusted, one
where they differ is noise: its robust weight is ``1 - |cos_student - cos_teacher|``. Three terms are weighed with it:

- features: the student's maps, through a 3x3 convolution, imitate the teacher's inside positive regions (each at the
  level of its size) and, with weight 4, outside;
- soft labels: class logits of positive regions at temperature 2;
- relations, off as released: similarities to all prototypes. The paper describes this term; in the released code it
  can't be reached. ``relation=True`` turns it on.

The feature and relation terms fall by ``1 - epoch / epochs``, in steps of an epoch.

Positive regions are the student's sampled positives in two-stage detectors, its positive anchors in one-stage ones.
Only the Faster R-CNN configuration was released: one-stage settings are assumed equal (but the feature term is summed
over levels there, where two-stage has the mean), and soft labels of one-stage detectors, here over the logits of
positive anchors, are inferred. The released one-stage adapter has no padding and fails; it is padded here. Classes
without candidates are trusted fully (inferred). Published students start from trained weights: the recipe's business.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from pkdzoo.distill.base import DistillMethod, require_same_classes, require_same_heads
from pkdzoo.distill.masks import rectangles, size_levels
from pkdzoo.distill.methods.imitation import halved_mean, squared_difference
from pkdzoo.distill.pairing import match_levels, shape_of
from pkdzoo.distill.projector import adapters
from pkdzoo.distill.prototypes import collect, match_prototypes, of_all_ranks, pool_boxes
from pkdzoo.models.dense import DenseDetector
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Trace
from pkdzoo.models.two_stage import TwoStageDetector
from pkdzoo.ops.reduce import world_size
from pkdzoo.ops.rois import roi_levels
from pkdzoo.structures import Batch, Instances

__all__ = ["GlobalKnowledge", "match_prototypes"]


class GlobalKnowledge(DistillMethod):
    """Distillation of regions that student and teacher see alike.

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
        num_images: candidates come from at most so many images of each class.
        smallest: candidates are wider and higher than this, in pixels of the original image.
        alpha: how much the coefficients of both networks must agree in the search.
        batches: look at no more than so many batches of a process for candidates; None: until every class has its
            images, or all.
        levels: of the pyramids, counted from the finest.
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
        levels: int = 5,
    ) -> None:
        super().__init__()
        require_same_heads(student, teacher, "global_knowledge")
        require_same_classes(student, teacher, "global_knowledge")
        shapes = shape_of(student), shape_of(teacher)
        self.pairs = match_levels(*shapes, levels, same_channels=False)
        self.adapters = adapters(*shapes, self.pairs, kernel=3, always=True)
        self.two_stage = student.two_stage
        if not self.two_stage and soft_weight:
            self.teacher_depth = "head"
        self.object_weight, self.background_weight = float(object_weight), float(background_weight)
        self.soft_weight, self.temperature = float(soft_weight), float(temperature)
        self.relation_weight = float(relation_weight) if relation else 0.0
        self.num_images, self.smallest, self.alpha, self.batches = num_images, smallest, alpha, batches
        classes = student.num_classes
        for name, shape, side in (("student_prototypes", shapes[0], 0), ("teacher_prototypes", shapes[1], 1)):
            width = shape.channels[self.pairs[0][side]]
            self.register_buffer(name, torch.zeros(len(self.pairs), classes, prototypes, width))
        self.register_buffer("known", torch.zeros(classes, dtype=torch.bool))

    # -- prototypes ----------------------------------------------------------------------------------------------

    def on_epoch_start(self, epoch: int, student: Detector, teacher: Detector, loader: Iterable[Batch]) -> None:
        """Search anew with the student of this moment. All processes end with the same prototypes."""
        modes = {module: module.training for module in student.modules()}  # parts may be frozen in eval mode
        student.eval()
        found = collect(student, teacher, loader, self.pairs, self.num_images, self.smallest, self.batches)
        for module, training in modes.items():
            module.training = training
        count = self.student_prototypes.shape[2]
        for label, candidates in enumerate(of_all_ranks(found)):
            self.known[label] = bool(candidates.student)
            if not candidates.student:
                continue
            ours, theirs = (
                torch.stack(rows).to(self.student_prototypes) for rows in (candidates.student, candidates.teacher)
            )  # (N, L, C)
            for level in range(len(self.pairs)):
                picks = match_prototypes(ours[:, level], theirs[:, level], count, self.alpha)
                self.student_prototypes[level, label] = ours[picks, level]
                self.teacher_prototypes[level, label] = theirs[picks, level]
        if world_size() > 1:  # two processors may round a tie differently
            for buffer in (self.student_prototypes, self.teacher_prototypes):
                dist.broadcast(buffer, 0)

    def trust(self, student: Tensor, teacher: Tensor, labels: Tensor, levels: Tensor) -> Tensor:
        """The robust weight of regions, without gradient.

        Args:
            student: (R, C) vectors of the regions.
            teacher: (R, C) likewise.
            labels: (R,) class of each.
            levels: (R,) level each was read from.

        Returns:
            (R,) at most 1; 1 where the class has no prototypes.
        """
        nearest = [
            F.cosine_similarity(vectors.detach()[:, None], prototypes[levels, labels], dim=-1).amax(dim=1)
            for vectors, prototypes in ((student, self.student_prototypes), (teacher, self.teacher_prototypes))
        ]
        return torch.where(self.known[labels], 1 - (nearest[0] - nearest[1]).abs(), 1.0)

    # -- losses --------------------------------------------------------------------------------------------------

    def forward(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        regions = positive_regions(student)
        labels = torch.cat([r.labels for r in regions])
        levels = torch.cat([size_levels(r.boxes, len(self.pairs)) for r in regions])
        ours, theirs = self.vectors(student, regions, 0), self.vectors(teacher, regions, 1)
        weights = self.trust(ours, theirs, labels, levels)
        fall = max(0.0, 1.0 - self.progress.epoch / max(self.progress.epochs, 1))
        inside, outside = self.features(student, teacher, regions, weights)
        losses = {
            "loss_gk_object": fall * self.object_weight * inside,
            "loss_gk_background": fall * self.background_weight * outside,
        }
        if self.soft_weight:
            losses["loss_gk_soft"] = self.soft_weight * self.soft_labels(student, teacher, regions, weights)
        if self.relation_weight:
            difference = self.relations(ours, theirs, levels, weights)
            losses["loss_gk_relation"] = fall * self.relation_weight * difference
        self.logs = {"trust": weights.mean() if len(weights) else weights.new_ones(())}
        return losses

    def vectors(self, trace: Trace, regions: list[Instances], side: int) -> Tensor:
        """The mean of the map over each region, at the level of its size: (R, C)."""
        grad = bool(self.relation_weight) and side == 0
        with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
            rows = []
            for image, r in enumerate(regions):
                chosen = size_levels(r.boxes, len(self.pairs))
                pooled = trace.features.levels[0].new_zeros(
                    (len(r), trace.features.levels[0].shape[1]), dtype=torch.float32
                )
                for level, pair in enumerate(self.pairs):
                    at = (chosen == level).nonzero().squeeze(1)
                    step = 1.0 / trace.features.strides[pair[side]]
                    found = pool_boxes(trace.features.levels[pair[side]][image], r.boxes[at], (step, step))
                    pooled = pooled.index_copy(0, at, found)
                rows.append(pooled)
        return torch.cat(rows)

    def features(
        self, student: Trace, teacher: Trace, regions: list[Instances], weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Imitation inside and outside the regions."""
        parts = []
        per_image = torch.split(weights, [len(r) for r in regions])
        for level, (adapt, (i, j)) in enumerate(zip(self.adapters, self.pairs)):
            squares = squared_difference(adapt(student.features.levels[i]), teacher.features.levels[j], False)
            size, stride = (squares.shape[-2], squares.shape[-1]), student.features.strides[i]
            masks = []
            for r, weight in zip(regions, per_image):
                at = size_levels(r.boxes, len(self.pairs)) == level
                masks.append(paint(r.boxes[at], weight[at], size, stride))
            mask = torch.stack(masks)[:, None]  # (B, 1, h, w)
            parts.append(torch.stack([halved_mean(squares, m) for m in (mask, (mask <= 0).float())]))
        found = torch.stack(parts)
        inside, outside = found.mean(dim=0) if self.two_stage else found.sum(dim=0)
        return inside, outside

    def soft_labels(self, student: Trace, teacher: Trace, regions: list[Instances], weights: Tensor) -> Tensor:
        """KL of the class logits of regions, weighed with trust; mean over classes and regions."""
        if not len(weights):
            return student.features.levels[0].sum() * 0.0
        if self.two_stage:
            assert isinstance(student.model, TwoStageDetector) and isinstance(teacher.model, TwoStageDetector)
            boxes = [r.boxes for r in regions]
            pooled = student.model.pool(student.features, boxes, student.model.box_head.size)
            ours, _ = student.model.box_head(pooled)
            with torch.no_grad():
                wanted_pooled = teacher.model.pool(teacher.features, boxes, teacher.model.box_head.size)
                theirs, _ = teacher.model.box_head(wanted_pooled)
            # here trust is asked of what the head sees
            levels = roi_levels(torch.cat(boxes), student.model.roi_levels)
            vectors = [p.mean(dim=(2, 3)) for p in (pooled, wanted_pooled)]
            weights = self.trust(vectors[0], vectors[1], torch.cat([r.labels for r in regions]), levels)
        else:
            assert isinstance(student.model, DenseDetector) and student.targets is not None
            assert student.outputs is not None and teacher.outputs is not None
            at = student.model.positives(student.targets)
            ours, theirs = (student.model.flat(t.outputs)[0][at] for t in (student, teacher) if t.outputs is not None)
        t = self.temperature
        ours, theirs = (ours / t).log_softmax(dim=1), (theirs / t).log_softmax(dim=1)
        kl = F.kl_div(ours, theirs, reduction="none", log_target=True).mean(dim=1)  # (R,)
        return t**2 * (weights * kl).mean()

    def relations(self, student: Tensor, teacher: Tensor, levels: Tensor, weights: Tensor) -> Tensor:
        """Difference of the regions' similarities to all prototypes of their level."""
        if not len(student) or not bool(self.known.any()):
            return student.sum() * 0.0
        similarities = []
        for vectors, prototypes in ((student, self.student_prototypes), (teacher, self.teacher_prototypes)):
            units = F.normalize(prototypes[:, self.known].flatten(1, 2), dim=-1)  # (L, K, C)
            with torch.autocast(vectors.device.type, enabled=False):  # products of matrices would be half precision
                every = torch.matmul(F.normalize(vectors, dim=1), units.transpose(1, 2))  # (L, R, K)
            similarities.append(weights[:, None] * every[levels, torch.arange(len(levels), device=levels.device)])
        return F.smooth_l1_loss(similarities[0], similarities[1])


def positive_regions(trace: Trace) -> list[Instances]:
    """Boxes and labels that the student learned objects from: sampled regions, or positive anchors."""
    if trace.regions is not None:
        return trace.regions
    assert isinstance(trace.model, DenseDetector) and trace.targets is not None and trace.priors is not None
    image, prior = trace.model.positives(trace.targets)
    labels = trace.targets.labels[image, prior]
    images = range(len(trace.targets.labels))
    return [Instances(trace.priors.boxes[prior[image == i]], labels[image == i]) for i in images]


def paint(boxes: Tensor, values: Tensor, size: tuple[int, int], stride: float) -> Tensor:
    """Write a value into each box's cells, later boxes over earlier ones.

    Args:
        boxes: (R, 4) xyxy pixels; the cells are ``trunc(x1 / stride) .. trunc(x2 / stride)``, at least one.
        values: (R,).
        size: (h, w) of the map.
        stride: pixels a cell.

    Returns:
        (h, w), 0 where there is no box.
    """
    if not len(boxes):
        return values.new_zeros(size)
    cells = (boxes / stride).trunc()
    cells[:, 2:] = torch.maximum(cells[:, 2:], cells[:, :2] + 1)
    order = torch.arange(1, len(boxes) + 1, device=boxes.device, dtype=torch.int32)
    last = torch.zeros(size, device=boxes.device, dtype=torch.int32)  # number of the last box, 0: none
    for some, numbers in zip(
        torch.split(cells, 64), torch.split(order, 64)
    ):  # a one-stage detector has thousands of positives
        last = torch.maximum(last, (rectangles(some, size) * numbers[:, None, None]).amax(dim=0))
    return torch.cat([values.new_zeros(1), values])[last.long()]
