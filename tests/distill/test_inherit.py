"""Parts that a student takes over from its teacher, and parts that stay as they are."""

from __future__ import annotations

import pytest
import torch
from helpers.kd_reference import tiny_batch, tiny_detector
from torch import nn

from pkdzoo.distill import freeze, inherit


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_part_is_copied_and_not_shared() -> None:
    student, teacher = tiny_detector(), tiny_detector(seed=1)
    assert inherit(student, teacher, ("neck", "head")) is student
    assert same(student.neck, teacher.neck)
    assert same(student.head, teacher.head)
    assert not same(student.backbone, teacher.backbone)
    with torch.no_grad():
        student.neck.output[0].conv.weight.zero_()
    assert not same(student.neck, teacher.neck)


def test_the_head_of_a_two_stage_detector_is_all_its_heads() -> None:
    student, teacher = (tiny_detector("faster_rcnn_r10w16", seed=seed) for seed in (0, 1))
    inherit(student, teacher, ("head",))
    assert same(student.rpn, teacher.rpn)
    assert same(student.box_head, teacher.box_head)
    assert not same(student.neck, teacher.neck)


@pytest.mark.parametrize(
    ("name", "args", "part", "words"),
    [
        ("retina_r10w16", {"width": 32}, "neck", "only a part of equal structure"),
        ("retina_r10w16", {"depth": 3}, "head", r"differ in .*blocks\.2"),
        ("faster_rcnn_r10w16", {}, "head", "of equal structure"),
        ("retina_r10w16", {}, "nose", "has no part 'nose': it has backbone, neck, head"),
    ],
)
def test_a_part_that_is_made_differently_is_refused_before_anything_changes(
    name: str, args: dict[str, int], part: str, words: str
) -> None:
    student, teacher = tiny_detector(), tiny_detector(name, seed=1, **args)
    before = {key: value.clone() for key, value in student.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        inherit(student, teacher, (part,))
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())


def test_frozen_parts_get_no_gradient_and_keep_their_statistics() -> None:
    model = tiny_detector(norm="bn").train()
    freeze(model, ("backbone", "neck"))
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    sum(model(tiny_batch()).values()).backward()
    assert all(p.grad is None for p in [*model.backbone.parameters(), *model.neck.parameters()])
    assert all(p.grad is not None for p in model.head.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.backbone.state_dict().items())
    assert model.head.training
