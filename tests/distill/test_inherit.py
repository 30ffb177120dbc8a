"""Parts that a student takes over from its teacher, and parts that stay as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.kd_reference import tiny_batch, tiny_detector
from torch import nn

from pkdzoo import create_detector
from pkdzoo.distill import freeze, inherit
from pkdzoo.distill.inherit import check_pixels
from pkdzoo.models._config import from_json
from pkdzoo.structures import PixelNorm
from pkdzoo.training import Recipe, load_recipes, override


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


def test_a_backbone_is_not_given_other_pixels_than_it_knows() -> None:
    """It used to be copied without a word, and was then frozen on inputs that it had never seen."""
    caffe = PixelNorm((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), "bgr")
    student, teacher = tiny_detector(), tiny_detector(seed=1, pixel_norm=caffe)
    with pytest.raises(ValueError, match=r"write --set model_args\.pixel_norm='\{\"mean\": \[103\.53, ") as error:
        inherit(student, teacher, ("backbone",))
    assert not same(student.backbone, teacher.backbone)
    argument = str(error.value).partition("--set ")[2].replace("'", "")
    changed = override(Recipe("a", "retina_r10w16"), [argument])
    student = create_detector("retina_r10w16", pixel_norm=from_json(changed.model_args["pixel_norm"]))
    assert same(inherit(student, tiny_detector(seed=1, pixel_norm=caffe), ("backbone",)).backbone, teacher.backbone)
    swapped = tiny_detector(pixel_norm=PixelNorm(caffe.mean[::-1], caffe.std, "rgb"))  # the same, its channels are not
    with pytest.raises(ValueError, match="write --set"):
        inherit(swapped, teacher, ("backbone",))
    inherit(swapped, teacher, ("neck", "head"))


def test_the_published_frozen_pyramids_get_the_pixels_that_they_know() -> None:
    for recipe in load_recipes(Path(__file__).parents[2] / "recipes/pkd/table_1_frozen_pyramid.py"):
        args = {key: from_json(value) for key, value in recipe.model_args.items()}
        assert recipe.distill is not None
        check_pixels(create_detector(recipe.model, **args), create_detector(recipe.distill.teacher.split(".")[0]))
    with pytest.raises(ValueError, match=r"retina_r50 normalizes pixels with .* fcos_r50_caffe was trained with"):
        check_pixels(create_detector("retina_r50"), create_detector("fcos_r50_caffe"))


def test_a_head_of_other_classes_is_refused() -> None:
    student, teacher = tiny_detector(), tiny_detector(seed=1)
    names = tuple(f"name_{i}" for i in range(student.num_classes))
    student.label_names = names
    inherit(student, teacher, ("head",))  # the teacher's classes have no names
    teacher.label_names = (names[1], names[0], *names[2:])
    with pytest.raises(ValueError, match="class 0 is 'name_0' in the student but 'name_1' in the teacher"):
        inherit(student, teacher, ("head",))
    inherit(student, teacher, ("backbone", "neck"))


def test_frozen_parts_get_no_gradient_and_keep_their_statistics() -> None:
    model = tiny_detector(norm="bn").train()
    freeze(model, ("backbone", "neck"))
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    sum(model(tiny_batch()).values()).backward()
    assert all(p.grad is None for p in [*model.backbone.parameters(), *model.neck.parameters()])
    assert all(p.grad is not None for p in model.head.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.backbone.state_dict().items())
    assert model.head.training
