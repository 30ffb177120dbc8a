"""The published resize to the figure."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import reference

from pkdzoo.data import image_resize, read_image, resize_keep_ratio

MEAN = torch.tensor([123.675, 116.28, 103.53])
STD = torch.tensor([58.395, 57.12, 57.375])
CAFFE = torch.tensor([102.9801, 115.9465, 122.7717])  # BGR, std 1
CASES = reference.load("preprocess")["cases"]


def made() -> torch.Tensor:
    """The reference's made image: noise, larger than the target, where antialiasing would show."""
    raw = reference.uniform("picture", (1200, 1600, 3))
    return torch.from_numpy(((raw / np.sqrt(3) + 1) * 127.5).astype(np.uint8)).permute(2, 0, 1)


def original(name: str) -> torch.Tensor:
    if name.startswith("made"):
        return made()
    root = Path(os.environ.get("PKDZOO_TEST_DATA", "nowhere"))
    if not (root / "coco_ccby").is_dir():
        pytest.skip("set PKDZOO_TEST_DATA to a folder with coco_ccby")
    return read_image(root / "coco_ccby" / "images" / name)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['channel_order']}-{case['picture']}")
@pytest.mark.parametrize("in_uint8", [False, True])
def test_preprocessing_equals_the_reference(case, in_uint8, monkeypatch):
    if in_uint8:
        monkeypatch.setattr(image_resize, "FLOAT_LIMIT", 0)
    image, scale = resize_keep_ratio(original(case["picture"]))
    assert list(image.shape[1:]) == case["resized"]
    assert scale == pytest.approx(case["scale_factor"], abs=1e-12)
    if case["channel_order"] == "bgr":
        normalized, per_level = (image.flip(0) - CAFFE[:, None, None]) / 1, 1 / STD.mean()
    else:
        normalized, per_level = (image - MEAN[:, None, None]) / STD[:, None, None], 1.0
    padded = torch.zeros(1, 3, *case["padded"])
    padded[0, :, : image.shape[1], : image.shape[2]] = normalized
    expected = case["tensor"]
    assert list(padded.shape) == expected["shape"]
    found = padded.flatten()[torch.tensor(expected["index"])]
    difference = (found - torch.tensor(expected["value"])).abs().mean() * per_level  # in units of ImageNet's std
    assert difference < (0.006 if in_uint8 else 0.002)
    assert abs(padded.mean().item() - expected["mean"]) * per_level < (0.006 if in_uint8 else 0.001)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 427), (1199, 800)),
        ((500, 2000), (333, 1333)),
        ((1, 1), (800, 800)),
        ((1, 5000), (1, 1333)),
        ((9000, 12000), (800, 1067)),
    ],
)
def test_sizes(size, expected):
    assert image_resize.keep_ratio_size(size, 800, 1333) == expected


def test_flat_images_stay_flat():
    for value in range(256):
        flat = torch.full((3, 18, 24), value, dtype=torch.uint8)
        for size in ((31, 40), (7, 13), (9, 12)):
            assert image_resize.resize_image(flat, size).unique().tolist() == [value]


def middle(values, factor, axis):
    """Twice what bilinear sampling reads of each ``factor`` values: the one in the middle, or the two there."""
    groups = values.unfold(axis, factor, factor)
    return groups[..., (factor - 1) // 2] + groups[..., factor // 2]


@pytest.mark.parametrize("size", [(24, 30), (12, 15), (16, 20), (8, 60), (48, 30), (24, 20), (1, 1)])
def test_sides_that_shrink_by_a_whole_number_have_opencvs_pixels(size):
    """Half the size is the mean of four pixels; a tie goes up."""
    image = torch.randint(0, 256, (3, 48, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    four = middle(middle(image.int(), 48 // size[0], 1), 60 // size[1], 2)
    assert torch.equal(image_resize.resize_image(image, size).int(), (four + 2) // 4)


def test_the_same_size_is_the_same_image():
    image = made()[:, :50, :70]
    assert image_resize.resize_image(image, (50, 70)) is image


@pytest.mark.parametrize("target", [(60, 90), (133, 200), (31, 47)])
def test_the_resize_does_not_depend_on_the_number_of_threads(target):
    image = torch.randint(0, 256, (40, 57, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(image_resize.resize_image(image.permute(2, 0, 1), target))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)
