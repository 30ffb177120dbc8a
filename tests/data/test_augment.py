"""Mosaic and mixup move images and objects together, repeat themselves, and end when they should."""

from __future__ import annotations

import colorsys

import pytest
import torch
from torch.utils.data import DataLoader

from pkdzoo import Instances
from pkdzoo.data import AspectBatchSampler, CocoDataset, MixTransform, Sample, find_split, make_shapes
from pkdzoo.data.augment import GRAY, hsv_to_rgb, make_mosaic, mix_up, rgb_to_hsv


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample_of(level: int, size: tuple[int, int] = (40, 60), label: int = 0, masks: bool = False) -> Sample:
    """A plain image with one object, whose pixels are 255."""
    image = torch.full((3, *size), level, dtype=torch.uint8)
    image[:, 10:30, 20:50] = 255
    drawn = None
    if masks:
        drawn = torch.zeros(1, *size, dtype=torch.bool)
        drawn[:, 10:30, 20:50] = True
    return Sample(image, Instances(torch.tensor([[20.0, 10.0, 50.0, 30.0]]), torch.tensor([label]), masks=drawn))


def test_a_mosaic_has_four_images_around_its_center() -> None:
    samples = [sample_of(level, label=i, masks=True) for i, level in enumerate((10, 20, 30, 40))]
    mosaic = make_mosaic(samples, 64, rng(3))
    assert mosaic.size == (128, 128)
    levels = {10, 20, 30, 40, 255, GRAY}
    assert set(mosaic.image[0].unique().tolist()) <= levels | set(range(40, 256))  # between object and background
    for box, label, mask in zip(mosaic.instances.boxes, mosaic.instances.labels, mosaic.instances.masks):
        x1, y1, x2, y2 = (round(float(side)) for side in box)
        inside = mosaic.image[0, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1]
        assert (inside > 250).all(), (label, box)
        assert mask.any() and mask[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].all()
    top_left = mosaic.image[0][mosaic.image[0] == 10]
    assert len(top_left) > 0


def test_mixed_images_average_their_pixels_and_keep_all_objects() -> None:
    one, other = sample_of(100, (64, 64)), sample_of(200, (64, 64), label=1)
    mixed = mix_up(one, other, 0.5, rng())
    assert int(mixed.image[0, 0, 0]) == 150
    assert sorted(mixed.instances.labels.tolist()) == [0, 1]
    empty = Sample(other.image, other.instances[:0])
    assert torch.equal(mix_up(one, empty, 0.5, rng()).image, one.image)


@pytest.mark.parametrize("seed", range(8))
def test_objects_stay_on_their_pixels(seed: int) -> None:
    transform = MixTransform(96, scale=(0.5, 1.5), colors=(0, 0, 0), mixup=0)
    samples = [sample_of(20 * i, label=i, masks=True) for i in range(6)]
    for done in transform(samples, rng(seed), epoch=0, count=6):
        assert done.size == (96, 96)
        for box, mask in zip(done.instances.boxes, done.instances.masks):
            x1, y1, x2, y2 = (round(float(side)) for side in box)
            if min(x2 - x1, y2 - y1) < 6:
                continue  # a sliver at the border of a crop, whose pixels the resize has mixed
            middle = done.image[0, (y1 + y2) // 2, (x1 + x2) // 2]
            assert int(middle) > 250 and mask[(y1 + y2) // 2, (x1 + x2) // 2]


def test_mixing_ends_at_the_stop_epoch() -> None:
    transform = MixTransform(64, stop_epoch=280)
    samples = [sample_of(50) for _ in range(4)]
    assert transform.mixes(279) and not transform.mixes(280)
    assert "mosaic" in transform(samples, rng(), epoch=279, count=1)[0].meta
    assert "mosaic" not in transform(samples, rng(), epoch=280, count=1)[0].meta


def test_images_without_objects_pass_through() -> None:
    empty = Sample(torch.zeros(3, 5, 7, dtype=torch.uint8), Instances(torch.zeros(0, 4), torch.zeros(0).long()))
    for done in MixTransform(64)([empty], rng(), epoch=0, count=1):
        assert done.size == (64, 64) and len(done.instances) == 0


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (8, 8)])
def test_images_that_are_smaller_than_the_mosaic(size: tuple[int, int]) -> None:
    height, width = size
    objects = Instances(torch.tensor([[0.0, 0.0, width, height]]), torch.tensor([2]))
    tiny = [Sample(torch.full((3, *size), 200, dtype=torch.uint8), objects) for _ in range(3)]
    for done in MixTransform(96, scale=(0.1, 2.0))(tiny, rng(), epoch=0, count=3):
        assert done.size == (96, 96) and set(done.instances.labels.tolist()) <= {2}
        boxes = done.instances.boxes
        assert (boxes[:, 2:] > boxes[:, :2]).all() and torch.equal(boxes, boxes.clamp(0, 96))


def test_colors_survive_the_way_to_hsv_and_back() -> None:
    image = torch.randint(0, 256, (3, 17, 23), generator=rng(), dtype=torch.uint8)
    h, s, v = rgb_to_hsv(image.float())
    assert (hsv_to_rgb(h, s, v).int() - image.int()).abs().max() <= 1
    expected = colorsys.rgb_to_hsv(*(image[:, 3, 4].double() / 255).tolist())
    assert float(h[3, 4]) == pytest.approx(180 * expected[0], abs=1e-3)
    assert float(s[3, 4]) == pytest.approx(255 * expected[1], abs=1e-3)
    assert float(v[3, 4]) == pytest.approx(255 * expected[2], abs=1e-3)


def loaded(root, workers: int, batch_size: int = 3, epoch: int = 1) -> list[torch.Tensor]:
    dataset = CocoDataset(*find_split(root, "train"), transform=MixTransform(64), seed=5)
    dataset.set_epoch(epoch)
    sampler = AspectBatchSampler(dataset.aspect_groups(), batch_size, seed=5)
    sampler.set_epoch(epoch)
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=list)
    return [sample.image for batch in loader for sample in batch]


def test_batches_do_not_depend_on_the_number_of_workers(tmp_path) -> None:
    root = make_shapes(tmp_path / "shapes", train=7, val=1, size=(64, 96))
    here, there = loaded(root, 0), loaded(root, 2)
    assert len(here) == 7
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    other = loaded(root, 0, epoch=2)
    assert not all(torch.equal(a, b) for a, b in zip(here, other, strict=True))


def test_a_data_set_of_one_image_is_mixed_with_itself(tmp_path) -> None:
    root = make_shapes(tmp_path / "shapes", train=1, val=1, size=(64, 96))
    dataset = CocoDataset(*find_split(root, "train"), transform=MixTransform(64))
    assert dataset[0].size == (64, 64)


def test_partners_of_mixup_come_from_the_whole_pool() -> None:
    """One image at a time, as with ``batch_size=1``: its partners are the other images, too."""
    samples = [sample_of(20 * k, label=k) for k in range(8)]
    transform = MixTransform(64, scale=(1.0, 1.0), mosaic=0.0, mixup=1.0)
    partners = set()
    for seed in range(60):
        (mixed,) = transform(samples, rng(seed), epoch=0, count=1)
        first, partner = mixed.instances.labels.tolist()
        assert first == 0
        partners.add(partner)
    assert partners == set(range(8))


@pytest.mark.parametrize("wrong", [{"size": 0}, {"scale": (2.0, 1.0)}, {"scale": (0, 1)}, {"mosaic": 1.5}])
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="MixTransform"):
        MixTransform(**wrong)
