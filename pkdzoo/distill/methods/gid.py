"""GID: general instance distillation (Dai et al. 2021, arXiv:2103.02340).

No boxes of people are used: where student and teacher disagree most about a prior's best class score, there is a
general instance, with the box of whoever is more confident. On these instances three things are distilled: their
features (RoIAlign), the distances between them (relation), and the predictions of the priors near them (response).

After the authors' re-implementation for RetinaNet ("for reference only"). Weights are those of its configuration file
(its code has other defaults: 5e-3 for features, 0.1 for boxes). Its 3x3 adapter is configured but never applied; here
it is on, as the paper describes, and ``adapter=False`` is that code. Read from the code and not from the paper's text,
which could not be had. Inferred: instances of all images of a process form one set for the relation, and the
pyramid level of an instance follows the strides (stride 16 at a side of 224).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou, nms, roi_align

from pkdzoo.distill.base import DistillMethod, require_same_heads
from pkdzoo.distill.pairing import match_levels, shape_of
from pkdzoo.distill.projector import adapters
from pkdzoo.models.dense import DenseDetector
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Depth, Trace
from pkdzoo.ops.boxes import clip_boxes
from pkdzoo.ops.reduce import mean_over_ranks
from pkdzoo.ops.rois import roi_levels, to_rois
from pkdzoo.structures import Batch

CANDIDATES, SMALLEST, OVERLAP = 3000, 10.0, 0.3
CELLS = 10  # along a side of an instance's features
NEAR = 0.5  # priors that overlap an instance by so much respond for it


def general_instances(scores: Tensor, wanted: Tensor, boxes: Tensor, wanted_boxes: Tensor, count: int = 10) -> Tensor:
    """Where two detectors disagree most, in one image.

    Args:
        scores: (P,) the student's best class score of each prior.
        wanted: (P,) the teacher's.
        boxes: (P, 4) xyxy, the student's, inside the image.
        wanted_boxes: (P, 4) the teacher's.
        count: how many at most.

    Returns:
        (N, 4) xyxy, most disputed first; of two that overlap by more than 0.3 only the first.
    """
    disputed, index = (wanted - scores).abs().topk(min(CANDIDATES, len(scores)))
    surer = torch.where((wanted > scores)[index, None], wanted_boxes[index], boxes[index])
    large = ((surer[:, 2:] - surer[:, :2]) >= SMALLEST).all(dim=1)
    disputed, surer = disputed[large], surer[large]
    return surer[nms(surer, disputed, OVERLAP)[:count]]


class GID(DistillMethod):
    """General instance distillation between dense detectors of one kind.

    Args:
        student: one-stage detector.
        teacher: of the same family, classes, strides and priors.
        feat_weight: of the instances' features.
        relation_weight: of the distances between them.
        cls_weight: of the class response.
        box_weight: of the box response (raw box outputs: published for RetinaNet's deltas, inferred for others).
        instances: an image, at most.
        adapter: a 3x3 convolution a level between the student's features and the teacher's.
        levels: that instances are read from, counted from the finest.
    """

    teacher_depth: Depth = "head"

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        feat_weight: float = 5e-4,
        relation_weight: float = 40.0,
        cls_weight: float = 0.1,
        box_weight: float = 1.0,
        instances: int = 10,
        adapter: bool = True,
        levels: int = 5,
    ) -> None:
        super().__init__()
        require_same_heads(student, teacher, "gid")
        if not isinstance(student, DenseDetector) or type(student) is not type(teacher):
            raise ValueError(
                f"gid compares the boxes of priors one by one: {student.name} and {teacher.name} must be one-stage "
                "detectors of one family"
            )
        shapes = shape_of(student), shape_of(teacher)
        self.pairs = match_levels(*shapes, levels, same_channels=not adapter)
        made = adapters(*shapes, self.pairs, kernel=3, always=True) if adapter else [nn.Identity() for _ in self.pairs]
        self.adapters = nn.ModuleList(made)
        self.weights = tuple(map(float, (feat_weight, relation_weight, cls_weight, box_weight)))
        self.instances = instances

    def forward(self, student: Trace, teacher: Trace, batch: Batch) -> dict[str, Tensor]:
        cls, box = _rows(student)
        wanted_cls, wanted_box = _rows(teacher)
        boxes = self.find(student, teacher, batch)
        feat, relation = self.imitate(student, teacher, boxes)
        assert student.priors is not None
        near = torch.stack([(box_iou(student.priors.boxes, b) >= NEAR).any(dim=1) for b in boxes])  # (B, P)
        count = mean_over_ranks(near.sum().float(), least=1)
        entropy = F.binary_cross_entropy_with_logits(cls[near], wanted_cls[near].sigmoid(), reduction="sum")
        difference = (box[near] - wanted_box[near]).abs().sum()
        terms = (feat, relation, entropy / count, difference / count)
        names = ("feat", "relation", "cls", "box")
        return {f"loss_gid_{name}": weight * term for name, weight, term in zip(names, self.weights, terms)}

    @torch.no_grad()
    def find(self, student: Trace, teacher: Trace, batch: Batch) -> list[Tensor]:
        """The general instances of each image, (N_i, 4)."""
        assert isinstance(student.model, DenseDetector) and isinstance(teacher.model, DenseDetector)
        assert student.priors is not None
        (cls, box), (wanted_cls, wanted_box) = _rows(student), _rows(teacher)
        found = []
        for i, size in enumerate(batch.sizes):
            ours = clip_boxes(student.model.decode(box[i], student.priors), size)
            theirs = clip_boxes(teacher.model.decode(wanted_box[i], student.priors), size)
            scores, wanted = (rows[i].amax(dim=-1).sigmoid() for rows in (cls, wanted_cls))
            found.append(general_instances(scores, wanted, ours, theirs, self.instances))
        return found

    def imitate(self, student: Trace, teacher: Trace, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Feature and relation term over all instances."""
        strides = [student.features.strides[i] for i, _ in self.pairs]
        adapted = [adapt(student.features.levels[i]) for adapt, (i, _) in zip(self.adapters, self.pairs)]
        ours = pool_instances(adapted, strides, boxes)
        theirs = pool_instances([teacher.features.levels[j] for _, j in self.pairs], strides, boxes).detach()
        count = len(ours)
        mean_count = mean_over_ranks(ours.new_tensor(float(count)), least=1)
        feat = (ours - theirs).square().sum() / (mean_count * CELLS * CELLS)
        if count < 3:
            return feat, feat * 0.0
        relation = F.smooth_l1_loss(relations(ours), relations(theirs), reduction="sum") / (count * count - count)
        return feat, relation


def pool_instances(levels: Sequence[Tensor], strides: Sequence[int], boxes: Sequence[Tensor]) -> Tensor:
    """RoIAlign of each box at the level of its size: (N, channels, 10, 10) in float32."""
    rois = to_rois(boxes)
    chosen = roi_levels(rois[:, 1:], len(levels), finest=14.0 * strides[0])  # a side of 224 is read at stride 16
    parts, places = [], []
    for i, (level, stride) in enumerate(zip(levels, strides)):
        index = (chosen == i).nonzero().squeeze(1)
        parts.append(roi_align(level.float(), rois[index].float(), CELLS, 1.0 / stride, sampling_ratio=2, aligned=True))
        places.append(index)
    pooled: Tensor = torch.cat(parts)[torch.cat(places).argsort()]
    return pooled


def relations(features: Tensor) -> Tensor:
    """Distances between instances over their mean: (N, ...) -> (N, N)."""
    flat = features.flatten(1)
    # not by matrix products: they lose small distances, and the gradient of a distance of zero would be infinite
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    apart = distances[distances > 0]
    return distances / apart.mean() if len(apart) else distances


def _rows(trace: Trace) -> tuple[Tensor, Tensor]:
    """Class logits (B, P, C) and box outputs (B, P, D)."""
    assert isinstance(trace.model, DenseDetector) and trace.outputs is not None
    return trace.model.flat(trace.outputs)
