"""FRS, FGFI, DeFeat, GID, rank mimicking: their terms against arithmetic one can follow, their refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.kd_reference import tiny_batch, tiny_detector
from torch import Tensor
from torchvision.ops import box_iou

import pkdzoo
from pkdzoo.distill.imitation import halved_mean
from pkdzoo.distill.methods.defeat import DeFeat
from pkdzoo.distill.methods.fgfi import FGFI
from pkdzoo.distill.methods.frs import FRS
from pkdzoo.distill.methods.gid import GID, general_instances, pool_instances, relations
from pkdzoo.distill.methods.rank_mimic import RankMimic, ranking_kl
from pkdzoo.models.trace import HeadTrace, LossTrace
from pkdzoo.ops.boxes import clip_boxes

RIVALS = ("frs", "fgfi", "defeat", "gid", "rank_mimic")


def traces(batch: pkdzoo.Batch, name: str = "retina_r10w16") -> tuple[LossTrace[Any], HeadTrace[Any]]:
    student, teacher = tiny_detector(name), tiny_detector(name, seed=1)
    with torch.no_grad():
        return student.trace(batch, "loss"), teacher.trace(batch, "head")


def identity(method: Any) -> None:
    """Let projections do nothing."""
    for conv in method.pairs.projections:
        torch.nn.init.dirac_(conv.weight)
        torch.nn.init.zeros_(conv.bias)


@pytest.mark.parametrize("method", RIVALS)
@pytest.mark.parametrize("name", ["retina_r10w16", "fcos_r10w16", "gfl_r10w16"])
def test_every_rival_trains(method: str, name: str) -> None:
    distiller = pkdzoo.Distiller(tiny_detector(name), tiny_detector(name, seed=1), {method: {}}).train()
    distiller.set_progress(step=1000, total=2000)
    if name == "fcos_r10w16":  # untrained, its boxes are two pixels wide: too small for GID
        for model in (distiller.student, distiller.teacher):
            torch.nn.init.constant_(model.head.box.bias, 3.0)
    losses = distiller(tiny_batch())
    added = [key for key in losses if key not in distiller.student(tiny_batch())]
    assert added
    total = sum(losses[key] for key in added)
    assert float(total.detach()) > 0
    total.backward()
    gradients = [p.grad for p in distiller.student.neck.parameters() if p.grad is not None]
    assert any(g.abs().sum() > 0 for g in gradients)
    assert all(g.isfinite().all() for g in gradients)
    assert all(p.grad is not None for p in distiller.connectors())


@pytest.mark.parametrize("method", RIVALS)
def test_no_objects_and_twins_give_finite_gradients(method: str) -> None:
    batch = tiny_batch()
    batch.instances = [pkdzoo.Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))] * 2
    distiller = pkdzoo.Distiller(tiny_detector(), tiny_detector(), {method: {}})
    losses = distiller(batch)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in distiller.parameters() if p.grad is not None)


def test_frs_by_hand() -> None:
    batch = tiny_batch()
    student, teacher = traces(batch)
    method = FRS(student.model, teacher.model)
    identity(method)
    found = method(student, teacher, batch)
    feat, cls = 0.0, 0.0
    for level in range(5):
        mask = teacher.outputs.cls[level].sigmoid().max(dim=1).values  # (B, h, w)
        squares = (student.features.levels[level] - teacher.features.levels[level]).square().sum(dim=1)
        feat += float((mask * squares).sum() / mask.sum())
        p, q = student.outputs.cls[level].sigmoid(), teacher.outputs.cls[level].sigmoid()
        entropy = -(q * p.log() + (1 - q) * (1 - p).log()).sum(dim=1)
        cls += float((mask * entropy).sum() / mask.sum())
    assert float(found["loss_frs_feat"].detach()) == pytest.approx(0.005 * feat, rel=1e-4)
    assert float(found["loss_frs_cls"].detach()) == pytest.approx(0.02 * cls, rel=1e-4)


def test_frs_settings_and_warm_up() -> None:
    weights = {"gfl_r10w16": (0.1, 0.05), "fcos_r10w16": (0.01, 0.05), "faster_rcnn_r10w16": (0.002, 0.1)}
    for name, expected in weights.items():
        student, teacher = tiny_detector(name), tiny_detector(name, seed=1)
        method = FRS(student, teacher)
        assert (method.feat_weight, method.cls_weight) == expected
        distiller = pkdzoo.Distiller(student, teacher, {"frs": {}})
        assert float(distiller(tiny_batch())["loss_frs_feat"].detach()) == 0  # it rises over 500 steps
        distiller.set_progress(step=500, total=1000)
        assert float(distiller(tiny_batch())["loss_frs_feat"].detach()) > 0


def test_normalized_frs_under_an_even_mask_is_pkd() -> None:
    batch = tiny_batch()
    student, teacher = traces(batch, "gfl_r10w16")
    for level in teacher.outputs.cls:
        level.fill_(0.7)
    method = FRS(student.model, teacher.model, levels=4, normalize=True)
    assert method.default_schedule == "constant"
    found = method(student, teacher, batch)
    pkd = pkdzoo.distill.METHODS["pkd"](student.model, teacher.model)(student, teacher, batch)
    assert set(found) == {"loss_frs_feat"}
    assert float(found["loss_frs_feat"]) == pytest.approx(float(pkd["loss_pkd"]), rel=1e-4)


def test_halved_mean_by_hand() -> None:
    squares = torch.arange(16.0).view(1, 2, 2, 4)
    mask = torch.tensor([[[[1.0, 0, 0, 0], [0, 0, 0, 1.0]]]])
    assert float(halved_mean(squares, mask)) == (0 + 8 + 7 + 15) / (2 * 2 * 2)
    assert float(halved_mean(squares, 0 * mask)) == 0


def test_defeat_splits_objects_from_background() -> None:
    batch = tiny_batch()
    batch.instances = [pkdzoo.Instances(torch.tensor([[8.0, 8.0, 24.0, 24.0]]), torch.tensor([0]))] * 2
    student, teacher = traces(batch)
    method = DeFeat(student.model, teacher.model)
    identity(method)
    found = method(student, teacher, batch)
    squares = [(s - t).square() for s, t in zip(student.features.levels, teacher.features.levels)]
    inside = squares[0][:, :, 1:3, 1:3]
    assert float(found["loss_defeat_object"].detach()) == pytest.approx(3 * float(inside.mean()) / 2 / 5, rel=1e-4)
    rest = (squares[0].sum() - inside.sum()) / (squares[0].numel() - inside.numel())
    expected = 12 * (float(rest) + sum(float(s.mean()) for s in squares[1:])) / 2 / 5
    assert float(found["loss_defeat_background"].detach()) == pytest.approx(expected, rel=1e-4)


def test_fgfi_versions() -> None:
    batch = tiny_batch()
    student, teacher = traces(batch)
    port, original = FGFI(student.model, teacher.model), FGFI(student.model, teacher.model, version="original")
    assert port.weight == 3
    assert (original.weight, original.pairs.levels, original.default_schedule) == (0.01, [(1, 1)], "delay:400")
    for method in (port, original):
        assert all(conv.weight.abs().max() <= 2e-4 for conv in method.pairs.projections)
        assert float(method(student, teacher, batch)["loss_fgfi"].detach()) > 0
    distiller = pkdzoo.Distiller(student.model, teacher.model, {"fgfi": {"version": "original"}})
    assert float(distiller(batch)["loss_fgfi"].detach()) == 0
    distiller.set_progress(step=400, total=1000)
    assert float(distiller(batch)["loss_fgfi"].detach()) > 0


def test_fgfi_original_by_hand() -> None:
    batch = tiny_batch()
    student, teacher = traces(batch)
    method = FGFI(student.model, teacher.model, version="original", share=-1.0)  # every location, if there is an object
    identity(method)
    squares = (student.features.levels[1].relu() - teacher.features.levels[1]).square().sum(dim=1)
    found = float(method(student, teacher, batch)["loss_fgfi"].detach())
    assert found == pytest.approx(0.01 * float(squares.sum()) / (2 * squares.numel()), rel=1e-4)


def test_general_instances_by_hand() -> None:
    ours = torch.tensor([[0.0, 0, 20, 20], [0, 0, 21, 20], [50, 50, 90, 90], [50, 0, 55, 40], [60, 60, 61, 61]])
    theirs = ours + 1
    scores = torch.tensor([0.9, 0.2, 0.5, 0.0, 0.5])
    expected = torch.tensor([0.1, 0.9, 0.4, 1.0, 0.5])
    # disputed by .8, .7, .1, 1.0, 0: the fourth and fifth are narrower than 10 pixels, the second overlaps the first
    found = general_instances(scores, expected, ours, theirs)
    assert torch.equal(found, torch.stack([ours[0], ours[2]]))
    found = general_instances(expected, scores, ours, theirs)  # now the teacher is surer of the first and the third
    assert torch.equal(found, torch.stack([theirs[0], theirs[2]]))
    assert len(general_instances(scores, expected, ours, theirs, count=1)) == 1


def test_relations_are_distances_over_their_mean() -> None:
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0]], requires_grad=True)
    found = relations(features)
    assert torch.allclose(found, torch.tensor([[0.0, 1, 1], [1, 0, 0], [1, 0, 0]]))
    found.sum().backward()
    assert features.grad.isfinite().all()


def test_instances_are_read_at_the_level_of_their_size() -> None:
    levels = [torch.full((1, 1, 64 >> i, 64 >> i), float(i)) for i in range(5)]
    boxes = torch.tensor([[0.0, 0, side, side] for side in (50.0, 223.0, 225.0, 300.0, 500.0)])
    pooled = pool_instances(levels, (8, 16, 32, 64, 128), [boxes])
    assert pooled.shape == (5, 1, 10, 10)
    assert pooled[:, 0, 5, 5].tolist() == [0, 0, 1, 1, 2]


def test_gid_response_is_on_priors_near_instances() -> None:
    batch = tiny_batch()
    student, teacher = traces(batch)
    method = GID(student.model, teacher.model, adapter=False)
    assert not list(method.parameters())
    found = method(student, teacher, batch)
    boxes = method.find_instances(student, teacher, batch)
    assert all(0 < len(b) <= 10 for b in boxes)
    (cls, box), (wanted_cls, wanted_box) = (t.model.flat(t.outputs) for t in (student, teacher))
    entropy, difference, count = 0.0, 0.0, 0
    for i, instances in enumerate(boxes):
        for prior in range(len(student.priors)):
            if (iou_of(student.priors.boxes[prior], instances) >= 0.5).any():
                target = wanted_cls[i, prior].sigmoid()
                entropy += float(F.binary_cross_entropy_with_logits(cls[i, prior], target, reduction="sum"))
                difference += float((box[i, prior] - wanted_box[i, prior]).abs().sum())
                count += 1
    assert count > 0
    assert float(found["loss_gid_cls"]) == pytest.approx(0.1 * entropy / count, rel=1e-3)
    assert float(found["loss_gid_box"]) == pytest.approx(difference / count, rel=1e-3)


def test_gid_of_two_stage_detectors_is_on_the_rpns_anchors() -> None:
    batch = tiny_batch()
    student, teacher = traces(batch, "faster_rcnn_r10w16")
    method = GID(student.model, teacher.model, adapter=False)
    found = method(student, teacher, batch)
    boxes = method.find_instances(student, teacher, batch)
    assert all(0 < len(b) <= 10 for b in boxes)
    logits, teacher_logits = (
        torch.cat([x.permute(0, 2, 3, 1).flatten(1) for x in t.outputs.cls], dim=1) for t in (student, teacher)
    )  # (B, P) objectness
    near = torch.stack([(box_iou(student.priors.boxes, b) >= 0.5).any(dim=1) for b in boxes])
    entropy = F.binary_cross_entropy_with_logits(logits[near], teacher_logits[near].sigmoid())
    assert float(found["loss_gid_cls"]) == pytest.approx(0.1 * float(entropy), rel=1e-4)
    image = int(near.sum(dim=1).argmax())
    disputed = (teacher_logits.sigmoid() - logits.sigmoid()).abs()[image]
    top = int(disputed.argmax())
    surer = teacher if teacher_logits[image, top] > logits[image, top] else student
    decoded = surer.model.decode(surer.model.flat(surer.outputs)[1][image], surer.priors)[top]
    decoded = clip_boxes(decoded, batch.sizes[image])
    if bool(((decoded[2:] - decoded[:2]) >= 10).all()):
        assert torch.allclose(boxes[image][0], decoded)


def iou_of(box: Tensor, others: Tensor) -> Tensor:
    x1, y1 = torch.maximum(box[0], others[:, 0]), torch.maximum(box[1], others[:, 1])
    x2, y2 = torch.minimum(box[2], others[:, 2]), torch.minimum(box[3], others[:, 3])
    inter = (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)
    areas = [(b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]) for b in (box, others)]
    return inter / (areas[0] + areas[1] - inter)


def test_ranking_by_hand() -> None:
    student, teacher = torch.tensor([1.0, 3.0, -2.0, 0.5, 0.5]), torch.tensor([0.0, 2.0, 7.0, 1.0, 3.0])
    group = torch.tensor([0, 0, 1, 2, 2])
    found = ranking_kl(student, teacher, group, 3)
    expected = [
        F.kl_div(student[g].log_softmax(0), teacher[g].softmax(0), reduction="sum") for g in ([0, 1], [2], [3, 4])
    ]
    assert torch.allclose(found, torch.stack(expected), atol=1e-6)
    assert float(found[0]) == pytest.approx(0, abs=1e-6)  # the same order with the same distances
    assert float(found[1]) == 0  # one prior has no rank


def test_ranks_count_objects_and_images_alike() -> None:
    batch = tiny_batch()
    student, teacher = traces(batch)
    method = RankMimic(student.model, teacher.model)
    found = float(method.ranks(student, teacher))
    targets, cls = student.targets, [t.model.flat(t.outputs)[0] for t in (student, teacher)]
    means = []
    for i in range(2):
        terms = []
        for index, label in enumerate(batch.instances[i].labels.tolist()):
            at = (targets.matched[i] == index) & (targets.labels[i] == label)
            if at.any():
                s, t = (rows[i, at, label] for rows in cls)
                terms.append(float(F.kl_div(s.log_softmax(0), t.softmax(0), reduction="sum")))
        means.append(sum(terms) / len(terms))
    assert found == pytest.approx(sum(means) / 2, rel=1e-4)


def test_prediction_guided_imitation_by_hand() -> None:
    batch = tiny_batch()
    student, teacher = traces(batch)
    found = RankMimic(student.model, teacher.model, rank_weight=0)(student, teacher, batch)
    assert list(found) == ["loss_prediction_guided"]
    terms = []
    for level in range(5):
        p = (student.outputs.cls[level] - teacher.outputs.cls[level]).square().mean(dim=1)
        d = (student.features.levels[level] - teacher.features.levels[level]).square().mean(dim=1)
        terms.append(float((p * d).mean()))
    assert float(found["loss_prediction_guided"]) == pytest.approx(1.5 * sum(terms) / 5, rel=1e-4)


@pytest.mark.parametrize("method", ["frs", "gid", "rank_mimic"])
def test_heads_that_cannot_be_compared_are_refused(method: str) -> None:
    retina = tiny_detector()
    others = [
        (pkdzoo.create_detector("retina_r10w16", num_classes=5), "3 classes and the teacher 5"),
        (tiny_detector("faster_rcnn_r10w16"), "one-stage and a two-stage"),
        (tiny_detector("fcos_r10w16"), "strides and priors per location"),
    ]
    for teacher, words in others:
        with pytest.raises(ValueError, match=words):
            pkdzoo.Distiller(retina, teacher, {method: {}})
