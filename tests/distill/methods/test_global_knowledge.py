"""Global Knowledge: the search for prototypes against the released code and brute force, the terms by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.kd_reference import tiny_batch, tiny_detector
from helpers.reference import load, uniform
from torch import Tensor

import pkdzoo
from pkdzoo.distill import match_prototypes
from pkdzoo.distill.methods.global_knowledge import GlobalKnowledge, fill_boxes, positive_regions
from pkdzoo.distill.prototypes import Candidates, eligible_objects, in_dense_part, pool_boxes

CASES = load("kd/global_knowledge_prototypes")["cases"]
FRCNN, RETINA = "faster_rcnn_r10w16", "retina_r10w16"


def vectors(case: dict[str, Any], side: str) -> Tensor:
    count, width = case[f"shape_{side}"]
    centers = uniform(f"pgm.{case['name']}.c{side}", (4, width))
    return torch.from_numpy(
        centers[np.arange(count) % 4] + 0.25 * uniform(f"pgm.{case['name']}.{side}", (count, width))
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_picks_equal_the_released_codes(case: dict[str, Any]) -> None:
    assert match_prototypes(vectors(case, "a"), vectors(case, "b"), case["count"]).tolist() == case["picks"]


@pytest.mark.parametrize("seed", range(5))
def test_each_pick_minimizes_the_objective(seed: int) -> None:
    """Against brute force: for every candidate the best coefficients are found by least squares, not in closed form."""
    generator = torch.Generator().manual_seed(seed)
    alpha, count = 10.0, 4
    a, b = (torch.randn(9, d, generator=generator, dtype=torch.float64) for d in (5, 3))
    picks = match_prototypes(a, b, count, alpha).tolist()
    a, b = (F.normalize(x, dim=1) for x in (a, b))
    allowed = (in_dense_part(a) & in_dense_part(b)).nonzero().flatten().tolist() or list(range(9))
    left_a, left_b = a.clone(), b.clone()
    for pick in picks:
        costs, kept = {}, {}
        for k in allowed:
            # rows of a least squares problem in (w_a, w_b), one column an object
            system = torch.zeros(5 + 3 + 1, 2, dtype=torch.float64)
            system[:5, 0], system[5:8, 1] = a[k], b[k]
            system[8] = torch.tensor([alpha**0.5, -(alpha**0.5)])
            target = torch.cat([left_a.T, left_b.T, torch.zeros(1, 9, dtype=torch.float64)])
            w = torch.linalg.lstsq(system, target).solution
            costs[k], kept[k] = float((system @ w - target).square().sum()), w
        assert costs[pick] == pytest.approx(min(costs.values()), rel=1e-5)
        left_a -= kept[pick][0][:, None] * a[pick]
        left_b -= kept[pick][1][:, None] * b[pick]


def test_few_objects() -> None:
    assert match_prototypes(torch.zeros(0, 4), torch.zeros(0, 5), 3).tolist() == []
    assert match_prototypes(torch.randn(1, 4), torch.randn(1, 5), 3).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="the same N objects"):
        match_prototypes(torch.zeros(2, 4), torch.zeros(3, 4), 1)


def test_pooled_boxes_by_hand() -> None:
    maps = torch.arange(24.0).view(2, 3, 4)
    boxes = torch.tensor([[0.0, 0.0, 7.0, 7.0], [9.0, 8.0, 25.0, 20.0], [31.9, 23.9, 32.0, 24.0]])
    found = pool_boxes(maps, boxes, (1 / 8, 1 / 8))
    # one cell; cells x 1..3, y 1..2; the last cell
    inside = maps[:, 1:3, 1:4].mean(dim=(1, 2))
    assert torch.equal(found, torch.stack([maps[:, 0, 0], inside, maps[:, 2, 3]]))


def test_small_sums_keep_their_digits() -> None:
    maps = torch.full((1, 200, 300), 1e3)
    maps[0, 199, 299] = 0.125
    assert float(pool_boxes(maps, torch.tensor([[299.5, 199.5, 299.6, 199.6]]), (1.0, 1.0))) == 0.125


def test_later_boxes_overwrite_earlier_ones() -> None:
    boxes = torch.tensor([[0.0, 0.0, 31.0, 16.0], [8.0, 8.0, 9.0, 9.0], [24.0, 0.0, 40.0, 32.0]])
    found = fill_boxes(boxes, torch.tensor([0.5, 0.25, 0.75]), (3, 4), 8)
    assert torch.equal(found, torch.tensor([
        [0.5, 0.5, 0.5, 0.75],
        [0.5, 0.25, 0.5, 0.75],
        [0, 0, 0, 0.75],
    ]))  # fmt: skip
    many = torch.tensor([[0.0, 0.0, 8.0, 8.0]]).repeat(200, 1)
    assert float(fill_boxes(many, torch.arange(200.0), (1, 1), 8)) == 199
    assert (fill_boxes(boxes[:0], torch.zeros(0), (3, 4), 8) == 0).all()


def test_candidates_are_large_in_the_original_image_and_not_full() -> None:
    batch = tiny_batch()
    batch.instances[0] = pkdzoo.Instances(
        torch.tensor([[0.0, 0.0, 16.0, 16.0], [0.0, 0.0, 14.0, 90.0], [0.0, 0.0, 50.0, 50.0]]), torch.tensor([0, 0, 1])
    )
    found = [Candidates(), Candidates(num_images=5), Candidates()]
    assert eligible_objects(batch, 0, found, 5, 30.0).tolist() == [False, False, False]
    batch.meta = [{"original_size": (192, 256)}, {}]  # twice the size
    assert eligible_objects(batch, 0, found, 5, 30.0).tolist() == [True, False, False]
    assert eligible_objects(batch, 0, found, 6, 30.0).tolist() == [True, False, True]


def method_of(name: str, **options: Any) -> tuple[pkdzoo.Distiller, GlobalKnowledge]:
    args = {"sample": False} if name == FRCNN else {}
    student, teacher = tiny_detector(name, **args), tiny_detector(name, seed=1, **args)
    distiller = pkdzoo.Distiller(student, teacher, {"global_knowledge": options})
    return distiller, distiller.methods["global_knowledge"]


@pytest.mark.parametrize("name", [FRCNN, RETINA])
def test_an_epoch_begins_with_prototypes_that_are_saved(name: str) -> None:
    distiller, method = method_of(name, prototypes=4, smallest=10.0)
    distiller.train()
    distiller.student.neck.eval()  # as a recipe's `freeze` leaves it
    before = distiller(tiny_batch())
    assert float(distiller.logs["global_knowledge/trust"]) == 1  # nothing known yet
    distiller.on_epoch_start(0, [tiny_batch(seed=seed) for seed in range(3)])
    assert distiller.student.training and distiller.student.backbone.training
    assert not any(module.training for module in distiller.student.neck.modules())
    assert method.known.all()
    assert all(level.abs().sum() > 0 for level in method.student_prototypes)
    distiller(tiny_batch())
    assert 0 < float(distiller.logs["global_knowledge/trust"]) < 1
    assert set(before) > {"loss_gk_object", "loss_gk_background", "loss_gk_soft"}
    state = distiller.state_dict()
    fresh, other = method_of(name, prototypes=4)
    fresh.load_state_dict(state)
    assert torch.equal(other.teacher_prototypes, method.teacher_prototypes)


def test_no_more_images_than_asked_for() -> None:
    class Loader(list):  # type: ignore[type-arg]
        taken = 0

        def __iter__(self) -> Any:
            for batch in super().__iter__():
                Loader.taken += 1
                yield batch

    distiller, method = method_of(RETINA, smallest=10.0, num_images=2)
    distiller.on_epoch_start(0, Loader(tiny_batch(seed=seed) for seed in range(20)))
    assert Loader.taken == 3  # every class is in the first image of a batch; the third batch finds all full
    assert method.known.all()
    Loader.taken = 0
    distiller, method = method_of(RETINA, smallest=10.0, batches=1)
    distiller.on_epoch_start(0, Loader(tiny_batch(seed=seed) for seed in range(20)))
    assert Loader.taken == 2


def test_trust_by_hand() -> None:
    _, method = method_of(RETINA, prototypes=2)
    method.known[1] = True
    method.student_prototypes[0, 1, 0, 0] = 3.0  # along the first axis
    method.student_prototypes[0, 1, 1, 1] = 1.0  # along the second
    method.teacher_prototypes[0, 1, :, 0] = 1.0
    student, teacher = torch.zeros(2, 64), torch.zeros(2, 64)
    student[:, :2] = torch.tensor([3.0, 4.0])  # nearest: the second, cosine 0.8
    teacher[:, :2] = torch.tensor([1.0, 1.0])  # cosine 1 / sqrt 2
    found = method.robust_weights(student, teacher, torch.tensor([1, 0]), torch.tensor([0, 0]))
    assert torch.allclose(found, torch.tensor([1 - (0.8 - 0.5**0.5), 1.0]))


@pytest.mark.parametrize(("name", "reduce"), [(FRCNN, 5.0), (RETINA, 1.0)])
def test_feature_terms_by_hand_and_their_fall(name: str, reduce: float) -> None:
    distiller, method = method_of(name)
    for conv in method.pairs.projections:
        torch.nn.init.dirac_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    batch = tiny_batch()
    with torch.no_grad():
        student = distiller.student.trace(batch)
        teacher = distiller.teacher.trace(batch, "head")
        found = method(student, teacher, batch)
        regions = positive_regions(student)
        assert all(len(r) for r in regions)
        inside = outside = 0.0
        for level in range(5):
            s, t = student.features.levels[level], teacher.features.levels[level]
            s = s.relu() if name == RETINA else s  # the one-stage convolution is followed by a ReLU
            masks = []
            for r in regions:
                side = ((r.boxes[:, 2] - r.boxes[:, 0] + 1) * (r.boxes[:, 3] - r.boxes[:, 1] + 1)).sqrt()
                chosen = (side / 56 + 1e-6).log2().floor().clamp(0, 4) == level
                stride = student.features.strides[level]
                masks.append(fill_boxes(r.boxes[chosen], torch.ones(int(chosen.sum())), s.shape[-2:], stride))
            mask = torch.stack(masks)[:, None]
            for weight, m in ((1.0, mask), (4.0, (mask == 0).float())):
                term = weight * float(((s - t).square() * m).sum()) / max(1.0, 2 * 64 * float(m.sum()))
                inside, outside = (inside + term, outside) if weight == 1 else (inside, outside + term)
    assert float(found["loss_gk_object"]) == pytest.approx(inside / reduce, rel=1e-4)
    assert float(found["loss_gk_background"]) == pytest.approx(outside / reduce, rel=1e-4)
    distiller.set_progress(step=75, total=100, epoch=18, epochs=24)
    with torch.no_grad():
        later = method(student, teacher, batch)
    assert float(later["loss_gk_object"]) == pytest.approx(inside / reduce / 4, rel=1e-4)
    assert float(later["loss_gk_soft"]) == pytest.approx(float(found["loss_gk_soft"]), rel=1e-6)


@pytest.mark.parametrize("name", [FRCNN, RETINA])
def test_soft_labels_by_hand(name: str) -> None:
    distiller, method = method_of(name)
    batch = tiny_batch()
    with torch.no_grad():
        student, teacher = distiller.student.trace(batch), distiller.teacher.trace(batch, "head")
        found = float(method(student, teacher, batch)["loss_gk_soft"])
        if name == FRCNN:
            boxes = [r.boxes for r in student.regions]
            ours, theirs = (t.model.box_head(t.model.pool(t.features, boxes, 7))[0] for t in (student, teacher))
        else:
            at = student.model.positives(student.targets)
            ours, theirs = (t.model.flat(t.outputs)[0][at] for t in (student, teacher))
    kl = F.kl_div((ours / 2).log_softmax(1), (theirs / 2).softmax(1), reduction="none").mean()
    assert found == pytest.approx(4 * float(kl), rel=1e-4)


@pytest.mark.parametrize("name", [FRCNN, RETINA])
def test_relations_are_off_unless_asked_for(name: str) -> None:
    distiller, _ = method_of(name)
    assert "loss_gk_relation" not in distiller(tiny_batch())
    distiller, _ = method_of(name, relation=True, smallest=10.0)
    assert float(distiller(tiny_batch())["loss_gk_relation"].detach()) == 0  # no prototypes yet
    distiller.on_epoch_start(0, [tiny_batch()])
    loss = distiller(tiny_batch())["loss_gk_relation"]
    assert float(loss.detach()) > 0
    loss.backward()
    assert distiller.student.neck.output[0].conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", [FRCNN, RETINA])
def test_everything_learns_and_an_image_without_objects_passes(name: str) -> None:
    distiller, method = method_of(name, relation=True, smallest=10.0)
    distiller.on_epoch_start(0, [tiny_batch()])
    batch = tiny_batch()
    none = pkdzoo.Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    for instances in ([batch.instances[0], none], [none, none]):
        losses = distiller(pkdzoo.Batch(batch.images, batch.sizes, instances))
        assert all(loss.isfinite() for loss in losses.values())
        distiller.zero_grad()
        sum(losses.values()).backward()
        assert all(p.grad is not None for p in method.parameters())


def test_a_two_stage_teachers_rpn_never_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    distiller, _ = method_of(FRCNN)
    monkeypatch.setattr(distiller.teacher, "run_head", None)
    distiller(tiny_batch())


def test_pairs_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="one-stage and a two-stage"):
        GlobalKnowledge(tiny_detector(RETINA), tiny_detector(FRCNN))
    with pytest.raises(ValueError, match="3 classes and the teacher 4"):
        GlobalKnowledge(tiny_detector(FRCNN), pkdzoo.create_detector(FRCNN, num_classes=4))
    small = {"backbone": "r10w16", "deformable": (), "norm": "gn", "frozen_stages": 0, "width": 64, "box_width": 64}
    cascade = tiny_detector("cascade_mask_rcnn_x101_32x4d_dcn", **small)
    with pytest.raises(ValueError, match=r"one box head, and .* write soft_weight=0"):
        GlobalKnowledge(tiny_detector(FRCNN), cascade)
    GlobalKnowledge(tiny_detector(FRCNN), cascade, soft_weight=0)
