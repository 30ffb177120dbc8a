"""PKD through its front door: pairing, resizing, weights, and a teacher whose head must never run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.kd_reference import PKD as CASES
from helpers.kd_reference import pkd_pyramids, sampled_error, tiny_batch, tiny_detector
from torch import Tensor, nn

import pkdzoo
from pkdzoo.distill.methods.pkd import PKD
from pkdzoo.distill.pairing import PyramidShape, match_levels, shape_of, to_one_size
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Trace
from pkdzoo.structures import FeaturePyramid, PixelNorm

ONE_STAGE = PyramidShape((16,) * 5, (8, 16, 32, 64, 128))
TWO_STAGE = PyramidShape((16,) * 5, (4, 8, 16, 32, 64))


class Maps(Detector):
    """A detector that gives the maps it was made with."""

    def __init__(self, maps: list[Tensor], strides: tuple[int, ...], two_stage: bool = False) -> None:
        super().__init__(nn.Identity(), nn.Identity(), 1, PixelNorm())
        self.pyramid = FeaturePyramid(maps, strides)
        self.pyramid_shape = PyramidShape(tuple(m.shape[1] for m in maps), strides)
        self.two_stage = two_stage

    def extract_features(self, batch: pkdzoo.Batch) -> FeaturePyramid:
        return self.pyramid


@pytest.mark.parametrize("name", list(CASES))
def test_equals_reference(name: str) -> None:
    case = CASES[name]
    maps, expected = pkd_pyramids(case)
    for level in maps:
        level.requires_grad_()
    count = len(maps)
    finer = case["teacher_shapes"][0][-1] > case["student_shapes"][0][-1]
    student = Maps(maps, ONE_STAGE.strides[:count])
    teacher = Maps(expected, (TWO_STAGE if finer else ONE_STAGE).strides[:count])
    resize = "student" if case["resize_student"] else "teacher"
    method = PKD(student, teacher, case["weight"], levels=count, resize=resize)
    batch = pkdzoo.Batch(torch.zeros(1, 3, 8, 8), [(8, 8)])
    losses = method(student.trace(batch, "features"), teacher.trace(batch, "features"), batch)
    assert list(losses) == ["loss_pkd"]
    assert float(losses["loss_pkd"].detach()) == pytest.approx(case["loss"], rel=1e-5)
    losses["loss_pkd"].backward()
    if name == "one dead channel":  # its gradients are looked at in tests/losses
        return
    for level, figures in zip(maps, case["grads"], strict=True):
        assert sampled_error(level.grad, figures) < 1e-4


def test_published_weights() -> None:
    maps = [torch.zeros(1, 16, 8, 8)] * 4
    student = Maps(maps, (8, 16, 32, 64))
    assert PKD(student, Maps(maps, (8, 16, 32, 64))).weight == 10
    assert PKD(student, Maps(maps, (4, 8, 16, 32), two_stage=True)).weight == 6
    assert PKD(student, Maps(maps, (8, 16, 32, 64)), weight=2.5).weight == 2.5


def test_pairing_by_index_and_by_stride() -> None:
    assert match_levels(ONE_STAGE, TWO_STAGE, 4) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert match_levels(ONE_STAGE, TWO_STAGE, 4, "stride") == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert match_levels(ONE_STAGE, ONE_STAGE, 5, "stride") == [(i, i) for i in range(5)]


def test_without_a_number_as_many_levels_as_both_have_up_to_a_limit() -> None:
    three = PyramidShape((16,) * 3, (8, 16, 32))
    assert match_levels(ONE_STAGE, ONE_STAGE, None, most=4) == [(i, i) for i in range(4)]
    assert match_levels(three, ONE_STAGE, None, most=4) == [(i, i) for i in range(3)]
    assert match_levels(three, TWO_STAGE, None, "stride", most=4) == [(0, 1), (1, 2), (2, 3)]
    with pytest.raises(ValueError, match="only 3"):
        match_levels(three, ONE_STAGE, 4)


@pytest.mark.parametrize(
    ("student", "teacher", "levels", "pair", "words"),
    [
        (ONE_STAGE, TWO_STAGE, 6, "index", "only 5"),
        (ONE_STAGE, TWO_STAGE, 5, "stride", "only 4"),
        (ONE_STAGE, PyramidShape((16,), (4,)), 1, "stride", "no stride is common"),
        (ONE_STAGE, PyramidShape((32,) * 5, TWO_STAGE.strides), 4, "index", "16 of them.*width=32"),
    ],
)
def test_pyramids_that_cannot_be_paired(
    student: PyramidShape, teacher: PyramidShape, levels: int, pair: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words) as error:
        match_levels(student, teacher, levels, pair)
    assert str(student) in str(error.value)
    assert str(teacher) in str(error.value)


def test_options_are_checked_before_training() -> None:
    maps = [torch.zeros(1, 16, 8, 8)] * 4
    model = Maps(maps, (8, 16, 32, 64))
    for options, words in (
        ({"pair": "size"}, "'index', 'stride'"),
        ({"resize": "no"}, "'larger'"),
        ({"levels": 0}, "at least one"),
    ):
        with pytest.raises(ValueError, match=words):
            PKD(model, model, **options)


@pytest.mark.parametrize(
    ("resize", "ours", "theirs", "expected"),
    [
        ("larger", (7, 13), (13, 25), (13, 25)),
        ("larger", (13, 25), (7, 13), (13, 25)),
        ("student", (13, 25), (7, 13), (7, 13)),
        ("student", (7, 13), (13, 25), (13, 25)),
        ("teacher", (7, 13), (13, 25), (7, 13)),
        ("teacher", (13, 25), (7, 13), (13, 25)),
        ("larger", (7, 14), (7, 13), (7, 14)),  # equal heights are not equal sizes
    ],
)
def test_sizes_after_resizing(
    resize: Any, ours: tuple[int, int], theirs: tuple[int, int], expected: tuple[int, int]
) -> None:
    student, teacher = to_one_size(torch.zeros(1, 2, *ours), torch.zeros(1, 2, *theirs), resize)
    assert tuple(student.shape[-2:]) == tuple(teacher.shape[-2:]) == expected


def test_a_map_of_the_right_size_is_not_touched() -> None:
    a, b = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 4, 4)
    student, teacher = to_one_size(a, b)
    assert student is a
    assert teacher is b


def test_the_teachers_head_never_runs() -> None:
    student, teacher = tiny_detector(), tiny_detector(seed=1)

    def explode(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the teacher's head ran")

    teacher.head.forward = explode  # type: ignore[union-attr, method-assign, assignment]
    teacher.run_head = explode  # type: ignore[method-assign, assignment]
    losses = pkdzoo.Distiller(student, teacher, {"pkd": {}})(tiny_batch())
    assert set(losses) == {"loss_cls", "loss_box", "loss_pkd"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in student.neck.parameters())


def test_correlations_are_logged() -> None:
    distiller = pkdzoo.Distiller(tiny_detector(), tiny_detector(seed=1), {"pkd": {"levels": 3}})
    distiller(tiny_batch())
    assert set(distiller.logs) == {"pkd/r0", "pkd/r1", "pkd/r2"}
    assert all(-1 <= float(r) <= 1 and not r.requires_grad for r in distiller.logs.values())


def test_a_twin_has_nothing_to_learn() -> None:
    student, teacher = tiny_detector(), tiny_detector()
    distiller = pkdzoo.Distiller(student, teacher, {"pkd": {}})
    assert float(distiller(tiny_batch())["loss_pkd"].detach()) == pytest.approx(0, abs=1e-6)
    assert float(distiller.logs["pkd/r0"]) == pytest.approx(1, abs=1e-5)


def test_a_two_stage_teacher_by_index_and_by_stride() -> None:
    teacher = tiny_detector("faster_rcnn_r10w16", seed=1)
    for pair in ("index", "stride"):
        distiller = pkdzoo.Distiller(tiny_detector(), teacher, {"pkd": {"pair": pair}})
        assert distiller.methods["pkd"].weight == 6
        loss = distiller(tiny_batch())["loss_pkd"]
        assert 0 < float(loss.detach()) < 2 * 4 * 6


def test_a_batch_without_a_single_object() -> None:
    batch = tiny_batch()
    nothing = pkdzoo.Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    batch.instances = [nothing, nothing]
    losses = pkdzoo.Distiller(tiny_detector(), tiny_detector(seed=1), {"pkd": {}})(batch)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()


def test_a_neck_that_does_not_say_its_shape() -> None:
    model = Detector(nn.Identity(), nn.Identity(), 1)
    with pytest.raises(ValueError, match="`width`"):
        shape_of(model)


def test_traces_are_enough() -> None:
    maps = [torch.randn(2, 16, 8 >> i, 8 >> i) for i in range(3)]
    model = Maps(maps, (8, 16, 32))
    method = PKD(model, model, levels=3)
    batch = pkdzoo.Batch(torch.zeros(2, 3, 64, 64), [(64, 64)] * 2)
    assert float(method(Trace(model, model.pyramid), Trace(model, model.pyramid), batch)["loss_pkd"]) == 0
