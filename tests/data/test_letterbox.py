"""Letterboxes: the two published test pipelines against their originals, and objects that move along."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.reference import load, made_image, uniform

import pkdzoo
from pkdzoo.data import Sample
from pkdzoo.data.letterbox import LetterboxBorder, LetterboxResize, placement
from pkdzoo.data.opencv_resize import resize_bilinear, resize_by_area
from pkdzoo.data.transforms import resize_sample
from pkdzoo.models.backbones.cspnext import BGR
from pkdzoo.models.rtmdet import LETTERBOXES
from pkdzoo.structures import Instances, Letterbox

FIGURES = load("preprocess_rtmdet")
PARTS: dict[str, Letterbox] = {
    "cases": LETTERBOXES["mmdetection"],
    "mmyolo_letterbox": LETTERBOXES["mmyolo"],
    "mmyolo_letterbox_batch_shape": replace(LETTERBOXES["mmyolo"], canvas="stride"),
}
CASES = [(part, case) for part in PARTS for case in FIGURES[part]]
TOLERANCE = 1e-3  # of every pixel after normalization; one gray level is about 0.017


@pytest.mark.parametrize(
    ("part", "case"), CASES, ids=lambda value: value if isinstance(value, str) else value["picture"]
)
def test_equals_the_originals(part: str, case: dict[str, Any]) -> None:
    size = tuple(case["original"])
    place = placement(size, (640, 640), PARTS[part])
    assert [list(place.size), list(place.canvas)] == [case["steps"][1][1], case["steps"][2][1]]
    assert case["scale_factor"] == pytest.approx([place.size[1] / size[1], place.size[0] / size[0]], rel=1e-6)
    if "pad_param_top_bottom_left_right" in case:
        top, _, left, _ = case["pad_param_top_bottom_left_right"]
        assert place.offset == (left, top)
    sample = Sample(made_image(case["picture"], size), Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)))
    canvas = LetterboxResize((640, 640), PARTS[part])(sample, torch.Generator()).image
    mean, std = torch.tensor(BGR.mean)[:, None, None], torch.tensor(BGR.std)[:, None, None]
    tensor = (canvas.flip(0) - mean) / std
    expected = case["tensor"]
    assert [1, *tensor.shape] == expected["shape"]
    assert tensor[:, -1, -1].tolist() == pytest.approx(case["corner_bottom_right"], abs=1e-5)
    difference = (tensor.flatten()[torch.tensor(expected["index"])] - torch.tensor(expected["value"])).abs()
    assert float(difference.max()) < TOLERANCE
    assert float(tensor.double().mean()) == pytest.approx(expected["mean"], abs=1e-6)
    assert float(tensor.double().std(correction=0)) == pytest.approx(expected["std"], abs=1e-6)


def test_area_is_the_mean_of_what_a_pixel_covers() -> None:
    image = torch.tensor([[[0, 100, 200]]], dtype=torch.uint8).expand(3, 2, 3).contiguous()
    assert resize_by_area(image, (1, 2))[0].tolist() == [[33, 167]]  # (0 + 100 / 2) / 1.5, (100 / 2 + 200) / 1.5
    assert resize_by_area(image, (2, 1))[0].tolist() == [[100], [100]]


@pytest.mark.parametrize("size", [(30, 40), (7, 11), (61, 80), (45, 23), (90, 200)])
def test_bilinear_is_close_to_the_exact_interpolation(size: tuple[int, int]) -> None:
    image = torch.from_numpy((uniform("image", (3, 45, 80)) * 60 + 120).clip(0, 255).astype(np.uint8))
    exact = torch.nn.functional.interpolate(image[None].double(), size=size, mode="bilinear")[0]
    assert (resize_bilinear(image, size) - exact).abs().max() < 1.3


def test_objects_and_masks_move_along() -> None:
    objects = pkdzoo.Instances(torch.tensor([[10.0, 5.0, 30.0, 25.0]]), torch.tensor([0]))
    objects.masks = torch.zeros(1, 40, 60, dtype=torch.bool)
    objects.masks[0, 5:25, 10:30] = True
    sample = Sample(torch.zeros(3, 40, 60, dtype=torch.uint8), objects, {"original_size": (40, 60)})
    centered = Letterbox(place="center")
    found = LetterboxResize((96, 96), centered)(sample, torch.Generator())
    assert found.size == (96, 96) and found.meta["offset"] == (0, 16)
    (box,) = found.instances.boxes.tolist()
    assert box == [16.0, 24.0, 48.0, 56.0]
    assert found.instances.masks is not None and found.instances.masks.shape == (1, 96, 96)
    assert found.instances.masks[0, 24:56, 16:48].all() and found.instances.masks.sum() == 32 * 32
    assert (found.image[:, :16] == 114).all() and (found.image[:, 16:80] == 0).all()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("size", [(40, 60), (60, 40), (64, 64), (50, 33)])
def test_the_border_of_a_training_image_is_that_of_the_evaluation(part: str, size: tuple[int, int]) -> None:
    objects = pkdzoo.Instances(torch.tensor([[10.0, 5.0, 30.0, 25.0]]), torch.tensor([0]))
    objects.masks = torch.zeros(1, *size, dtype=torch.bool)
    objects.masks[0, 5:25, 10:30] = True
    sample = Sample(torch.full((3, *size), 200, dtype=torch.uint8), objects, {"original_size": size})
    expected = LetterboxResize((96, 96), PARTS[part])(sample, torch.Generator())
    resized = resize_sample(sample, placement(size, (96, 96), PARTS[part]).size)
    found = LetterboxBorder(90, PARTS[part])(resized, torch.Generator())  # the side is rounded up to 96
    assert found.size == expected.size and torch.equal(found.instances.boxes, expected.instances.boxes)
    assert torch.equal(found.instances.masks, expected.instances.masks)
    assert torch.equal(found.image, expected.image)


@pytest.mark.parametrize("side", [600, 30, 1])
def test_a_side_that_is_no_multiple_of_32_is_refused(side: int) -> None:
    with pytest.raises(ValueError, match=f"a multiple of 32, not {side}"):
        placement((40, 60), (side, side), Letterbox())


@pytest.mark.parametrize("change", [{"place": "middle"}, {"fill": 300}, {"shrink": "cubic"}, {"canvas": "full"}])
def test_unknown_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="write"):
        Letterbox(**change)
