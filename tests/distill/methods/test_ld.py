"""LD and its authors' further terms against arithmetic one can follow, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.kd_reference import tiny_batch, tiny_detector
from helpers.reference import boxes_for, load
from torchvision.ops import box_iou

import pkdzoo
from pkdzoo.distill.methods.ld import distance_iou, valuable_region
from pkdzoo.models.trace import HeadTrace, LossTrace
from pkdzoo.ops.priors import base_anchors, grid_priors, valid_prior_mask
from pkdzoo.structures import IGNORE

STRIDES = (8, 16, 32, 64, 128)


def losses_and_traces(**options: Any) -> tuple[dict[str, torch.Tensor], LossTrace[Any], HeadTrace[Any]]:
    student, teacher = tiny_detector("gfl_r10w16"), tiny_detector("gfl_r10w16", seed=1)
    batch = tiny_batch()
    with torch.no_grad():
        losses = pkdzoo.Distiller(student, teacher, {"ld": options})(batch)
        return losses, student.trace(batch, "loss"), teacher.trace(batch, "head")


def sides_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 10.0) -> float:
    """Softened KL of one prior's 4 x 17 logits, mean over sides and bins."""
    s, t = (x.reshape(4, 17) / temperature for x in (student, teacher))
    return temperature**2 * float(F.kl_div(s.log_softmax(1), t.softmax(1), reduction="none").mean())


def test_ld_by_hand() -> None:
    losses, student, teacher = losses_and_traces(weight=3.0, temperature=4.0)
    (cls, box), (_, teacher_box) = (t.model.flat(t.outputs) for t in (student, teacher))
    expected = 0.0
    for image, prior in zip(*student.model.positives(student.targets)):
        score = float(cls[image, prior].sigmoid().max())
        expected += 3.0 * score * sides_kl(box[image, prior], teacher_box[image, prior], 4.0)
    assert expected > 0
    assert float(losses["loss_ld"]) == pytest.approx(expected, rel=1e-4)
    assert [key for key in losses if key.startswith("loss_ld")] == ["loss_ld"]  # the authors' terms are off


def test_class_logits_are_a_mean_over_the_positives_of_a_level() -> None:
    losses, student, teacher = losses_and_traces(cls_weight=10.0)
    (cls, _), (teacher_cls, _) = (t.model.flat(t.outputs) for t in (student, teacher))
    image, prior = student.model.positives(student.targets)
    expected, start = 0.0, 0
    for count in student.priors.counts:
        at = (prior >= start) & (prior < start + count)
        if at.any():
            rows = (x[image[at], prior[at]] / 2 for x in (cls, teacher_cls))
            s, t = next(rows), next(rows)
            expected += 10 * 4 * float(F.kl_div(s.log_softmax(1), t.softmax(1), reduction="none").mean())
        start += count
    assert float(losses["loss_ld_cls"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("anchor_area", [False, True])
def test_the_region_is_weighted_by_overlap(anchor_area: bool) -> None:
    losses, student, teacher = losses_and_traces(region_weight=0.25, anchor_area=anchor_area)
    (_, box), (_, teacher_box) = (t.model.flat(t.outputs) for t in (student, teacher))
    batch, expected = tiny_batch(), 0.0
    for image, objects in enumerate(batch.instances):
        valid = student.targets.labels[image] != IGNORE
        counts = [int(part.sum()) for part in torch.split(valid, student.priors.counts)]
        weights = valuable_region(student.priors.boxes[valid], counts, objects.boxes, anchor_area)
        for weight, prior in zip(weights, valid.nonzero().flatten()):
            if weight > 0:
                expected += 0.25 / 4 * float(weight) * sides_kl(box[image, prior], teacher_box[image, prior])
    assert expected > 0
    assert float(losses["loss_ld_region"]) == pytest.approx(expected, rel=1e-4)


def test_the_region_equals_the_authors() -> None:
    case = load("kd/ld_authors__r18_r101")
    height, width = case["size"]
    sizes = [(-(-height // s), -(-width // s)) for s in STRIDES]
    priors = grid_priors([base_anchors(s, (8.0,), (1.0,)) for s in STRIDES], sizes, STRIDES)
    for image, (shape, figures) in enumerate(zip(case["image_shapes"], case["vlr_region"], strict=True)):
        valid = valid_prior_mask(sizes, STRIDES, tuple(shape))
        counts = [int(part.sum()) for part in torch.split(valid, priors.counts)]
        boxes = torch.from_numpy(boxes_for(*shape)[0][image])
        weights = valuable_region(priors.boxes[valid], counts, boxes, anchor_area=True)
        assert int((weights > 0).sum()) == figures["places"]
        assert float(weights.sum()) == pytest.approx(figures["sum"], rel=1e-5)
        assert float(weights.max()) == pytest.approx(figures["max"], rel=1e-5)
        correct = valuable_region(priors.boxes[valid], counts, boxes)
        assert int((correct > 0).sum()) != figures["places"]  # the flag makes a difference


def test_distance_iou_by_hand() -> None:
    anchors, boxes = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[2.0, 0, 6, 8]])
    penalty = (4 + 4) / (36 + 64)  # centers (2, 2) and (4, 4), hull of 6 x 8
    assert float(distance_iou(anchors, boxes)) == pytest.approx(8 / (16 + 32 - 8) - penalty)
    assert float(distance_iou(anchors, boxes, anchor_area=True)) == pytest.approx(8 / 16 - penalty)


def test_maps_near_objects_by_hand() -> None:
    losses, student, teacher = losses_and_traces(feat_weight=2.0)
    batch, start, expected = tiny_batch(), 0, 0.0
    _, positive = student.model.positives(student.targets)
    highest = []
    for image, objects in enumerate(batch.instances):
        overlaps = box_iou(objects.boxes, student.priors.boxes) * (student.targets.labels[image] != IGNORE)
        highest.append((overlaps > 0.5 * overlaps.amax(dim=1, keepdim=True)).any(dim=0))
    near = torch.stack(highest)
    for count, s, t in zip(student.priors.counts, student.features.levels, teacher.features.levels):
        if ((positive >= start) & (positive < start + count)).any():
            rows = [x.flatten(2).transpose(1, 2)[near[:, start : start + count]] for x in (s, t)]
            expected += 2 * float(F.mse_loss(*rows))
        start += count
    assert float(losses["loss_ld_feat"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("feat_region", ["near", "disputed"])
def test_no_objects_and_one_object_give_finite_gradients(feat_region: str) -> None:
    options = {"region_weight": 0.25, "cls_weight": 10.0, "feat_weight": 2.0, "feat_region": feat_region}
    empty = tiny_batch()
    empty.instances = [pkdzoo.Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))] * 2
    for batch in (empty, tiny_batch()):
        distiller = pkdzoo.Distiller(tiny_detector("gfl_r10w16"), tiny_detector("gfl_r10w16", seed=1), {"ld": options})
        losses = distiller(batch)
        sum(losses.values()).backward()
        assert all(p.grad.isfinite().all() for p in distiller.parameters() if p.requires_grad)
        none = batch is empty
        assert all((float(v.detach()) == 0) == none for k, v in losses.items() if k.startswith("loss_ld"))


def test_the_teacher_may_know_other_classes_unless_they_are_compared() -> None:
    student, teacher = tiny_detector("gfl_r10w16"), pkdzoo.create_detector("gfl_r10w16", num_classes=7)
    assert float(pkdzoo.Distiller(student, teacher, {"ld": {}})(tiny_batch())["loss_ld"].detach()) > 0
    for options in ({"cls_weight": 10.0}, {"feat_weight": 2.0, "feat_region": "disputed"}):
        with pytest.raises(ValueError, match="3 classes and the teacher 7"):
            pkdzoo.Distiller(student, teacher, {"ld": options})


@pytest.mark.parametrize(
    "other", ["retina_r10w16", "atss_r10w16", "fcos_r10w16", "reppoints_r10w16", "faster_rcnn_r10w16"]
)
def test_heads_without_distributions_are_refused(other: str) -> None:
    for pair in ((other, "gfl_r10w16"), ("gfl_r10w16", other)):
        with pytest.raises(ValueError, match="predicts none: it works between two detectors of the family gfl"):
            pkdzoo.Distiller(*(tiny_detector(name) for name in pair), {"ld": {}})


def test_unknown_words_are_refused() -> None:
    pair = [tiny_detector("gfl_r10w16") for _ in range(2)]
    with pytest.raises(ValueError, match="feat_region='gibox': write one of 'near', 'disputed'"):
        pkdzoo.Distiller(*pair, {"ld": {"feat_region": "gibox"}})
    with pytest.raises(ValueError, match="temperature=0: write a finite number above 0"):
        pkdzoo.Distiller(*pair, {"ld": {"temperature": 0}})
    wide = tiny_detector("gfl_r10w16", width=32)
    with pytest.raises(ValueError, match="build the student with width=32"):
        pkdzoo.Distiller(pair[0], wide, {"ld": {"feat_weight": 2.0}})
