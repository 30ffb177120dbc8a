"""Boxes, masks and pixels move together; every draw comes from the generator."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import masks_to_boxes

from pkdzoo.data import (
    Compose,
    RandomCrop,
    RandomFlip,
    RandomZoom,
    Resize,
    Sample,
)
from pkdzoo.structures import Instances


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
