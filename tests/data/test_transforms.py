"""The published resize to the figure; boxes, masks and pixels move together; every draw comes from the generator."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import reference
from torchvision.ops import masks_to_boxes

from pkdzoo.data import (
    Compose,
    RandomCrop,
    RandomFlip,
    RandomZoom,
    Resize,
    Sample,
    read_image,
    resize_keep_ratio,
    transforms,
)
from pkdzoo.structures import Instances

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
        monkeypatch.setattr(transforms, "FLOAT_LIMIT", 0)
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
    assert transforms.keep_ratio_size(size, 800, 1333) == expected


def test_flat_images_stay_flat():
    for value in range(256):
        flat = torch.full((3, 18, 24), value, dtype=torch.uint8)
        for size in ((31, 40), (7, 13), (9, 12)):
            assert transforms.resize_image(flat, size).unique().tolist() == [value]


def middle(values, factor, axis):
    """Twice what bilinear sampling reads of each ``factor`` values: the one in the middle, or the two there."""
    groups = values.unfold(axis, factor, factor)
    return groups[..., (factor - 1) // 2] + groups[..., factor // 2]


@pytest.mark.parametrize("size", [(24, 30), (12, 15), (16, 20), (8, 60), (48, 30), (24, 20), (1, 1)])
def test_sides_that_shrink_by_a_whole_number_have_opencvs_pixels(size):
    """Half the size is the mean of four pixels; a tie goes up."""
    image = torch.randint(0, 256, (3, 48, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    four = middle(middle(image.int(), 48 // size[0], 1), 60 // size[1], 2)
    assert torch.equal(transforms.resize_image(image, size).int(), (four + 2) // 4)


def test_the_same_size_is_the_same_image():
    image = made()[:, :50, :70]
    assert transforms.resize_image(image, (50, 70)) is image


def scene(height: int = 60, width: int = 90) -> Sample:
    """A black image with three white rectangles, their boxes and masks."""
    boxes = torch.tensor([[10.0, 5, 40, 25], [50, 30, 80, 55], [0, 40, 12, 60]])
    masks = torch.zeros(3, height, width, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1:y2, x1:x2] = True
    image = (masks.any(0) * 255).to(torch.uint8).expand(3, -1, -1)
    return Sample(image, Instances(boxes, torch.tensor([0, 1, 2]), torch.tensor([False, True, False]), masks), {})


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_together(sample: Sample, slack: float) -> None:
    """Boxes, masks and pixels say the same."""
    boxes = masks_to_boxes(sample.instances.masks)
    boxes[:, 2:] += 1
    assert (boxes - sample.instances.boxes).abs().max() <= slack
    bright = sample.image[0].float() / 255
    assert (bright - sample.instances.masks.any(0).float()).abs().mean() < 0.05
    assert sample.instances.masks.shape[-2:] == sample.size


def test_flip_moves_everything_and_back():
    start = scene()
    once = RandomFlip(1.0)(start, rng())
    assert_together(once, 0)
    assert once.instances.boxes[0].tolist() == [50, 5, 80, 25]
    assert once.meta["flipped"] is True
    twice = RandomFlip(1.0)(once, rng())
    assert torch.equal(twice.image, start.image)
    assert torch.equal(twice.instances.boxes, start.instances.boxes)
    assert torch.equal(twice.instances.masks, start.instances.masks)
    assert twice.meta["flipped"] is False
    assert RandomFlip(0.0)(start, rng()) is start


def test_flip_comes_up_as_often_as_asked():
    flip, start, generator = RandomFlip(0.3), scene(), rng(1)
    count = sum(flip(start, generator) is not start for _ in range(1000))
    assert 250 < count < 350


def test_resize_moves_everything():
    for short in (30, 120, 61):
        found = Resize(short, 1000)(scene(), rng())
        assert found.size[0] == short
        assert_together(found, 1.0)
        assert found.instances.crowd.tolist() == [False, True, False]
    width, height = found.meta["scale"]
    assert torch.allclose(found.instances.boxes, scene().instances.boxes * torch.tensor([width, height] * 2))


def test_scales_multiply():
    found = Compose([Resize(120, 1000), Resize(30, 1000)])(scene(), rng())
    assert found.meta["scale"] == pytest.approx((0.5, 0.5))


def test_multi_scale_draws_what_it_may():
    def shorts(resize):
        generator = rng()
        return {resize(scene(), generator).size[0] for _ in range(60)}

    assert shorts(Resize((30, 40, 50), 900)) == {30, 40, 50}
    drawn = shorts(Resize((30, 40), 900, mode="range"))
    assert min(drawn) == 30
    assert max(drawn) == 40
    assert len(drawn) > 8


def test_crop_cuts_and_drops():
    drawn = [RandomCrop((30, 45))(scene(), rng(seed)) for seed in range(40)]
    assert all(sample.size == (30, 45) for sample in drawn)
    kept = {len(sample.instances) for sample in drawn}
    assert 0 in kept
    assert max(kept) >= 1
    for sample in drawn:
        if len(sample.instances):
            boxes = masks_to_boxes(sample.instances.masks)
            boxes[:, 2:] += 1
            assert torch.equal(boxes, sample.instances.boxes)
    assert len({sample.meta["crop"] for sample in drawn}) > 20


def test_a_crop_larger_than_the_image_is_the_image():
    found = RandomCrop(500)(scene(), rng())
    assert found.size == (60, 90)
    assert torch.equal(found.instances.boxes, scene().instances.boxes)


def test_zoom_cuts_windows_of_every_size_out_of_a_share_of_the_images():
    drawn = [RandomZoom(1.0, (60,), 90, (20, 40))(scene(), rng(seed)) for seed in range(300)]
    heights, widths = ({sample.size[side] for sample in drawn} for side in (0, 1))
    assert heights == widths == set(range(20, 41))
    for sample in drawn:
        objects = sample.instances
        if len(objects):  # what is left of a box is what is left of its mask, down to a pixel
            boxes = masks_to_boxes(objects.masks)
            boxes[:, 2:] += 1
            assert torch.equal(boxes, objects.boxes)
    left = torch.cat([sample.instances.boxes for sample in drawn])
    assert float((left[:, 2:] - left[:, :2]).min()) < 3  # slivers stay, as published
    untouched = [RandomZoom(0.25, (60,), 90, (20, 40))(scene(), rng(seed)).size == (60, 90) for seed in range(400)]
    assert 0.68 < sum(untouched) / 400 < 0.82
    # scaled down first; an image smaller than the window stays whole
    assert RandomZoom(1.0, (30,), 90, (50, 50))(scene(), rng()).size == (30, 45)


def test_no_objects_pass_through_everything():
    empty = Sample(scene().image, Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)), {})
    found = Compose([Resize(40, 80), RandomFlip(1.0), RandomCrop(20)])(empty, rng())
    assert found.instances.boxes.shape == (0, 4)
    masked = Sample(empty.image, Instances(*vars(empty.instances).values()), {})
    masked.instances.masks = torch.zeros(0, 60, 90, dtype=torch.bool)
    found = Compose([Resize(40, 80), RandomFlip(1.0), RandomCrop(20)])(masked, rng())
    assert found.instances.masks.shape == (0, 20, 20)


def test_every_draw_comes_from_the_generator():
    chain = Compose([Resize((30, 50), 90, mode="range"), RandomFlip(), RandomCrop((20, 33))])
    torch.manual_seed(0)
    first = chain(scene(), rng(7))
    torch.manual_seed(1)
    again = chain(scene(), rng(7))
    assert torch.equal(first.image, again.image)
    assert first.meta == again.meta
    assert torch.random.initial_seed() == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Resize(0), "from 1 up"),
        (lambda: Resize(()), "from 1 up"),
        (lambda: Resize((640, 800), mode="any"), "write 'choice'"),
        (lambda: RandomFlip(1.5), "lies in 0..1"),
        (lambda: RandomCrop(0), "from 1 up"),
        (lambda: RandomCrop(9, keep=2), "keep in 0..1"),
        (lambda: RandomZoom(2.0), "share in 0..1"),
        (lambda: RandomZoom(0.5, window=(600, 384)), "window is \\(minimum, maximum\\) from 1 up"),
    ],
)
def test_impossible_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("target", [(60, 90), (133, 200), (31, 47)])
def test_the_resize_does_not_depend_on_the_number_of_threads(target):
    image = torch.randint(0, 256, (40, 57, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(transforms.resize_image(image.permute(2, 0, 1), target))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)
