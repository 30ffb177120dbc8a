"""A teacher that takes images of one size sees the same images, and its maps lie where the student's do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import pkdzoo
from pkdzoo.distill.geometry import place_maps, squash_images
from pkdzoo.losses import pearson_correlation
from recipes.benchmarks.geometry import correlations

CANVAS = (192, 256)
SIZES = [(192, 256), (150, 200), (192, 111)]


def natural_batch() -> pkdzoo.Batch:
    """Shaded discs that cover one another, as objects in photographs do, padded to one size."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(CANVAS[0]), torch.arange(CANVAS[1]), indexing="ij")
    images = torch.full((3, 3, *CANVAS), 128.0)
    for image, (height, width) in zip(images, SIZES):
        for _ in range(150):
            row, column, size, slope = torch.rand(4, generator=generator).tolist()
            radius = 6 / (size + 0.06)  # small ones are frequent
            inside = (y - row * height).square() + (x - column * width).square() < radius**2
            color = torch.rand(3, 1, 1, generator=generator) * 200
            image.copy_(torch.where(inside, color + 50 * slope * (x - column * width) / radius, image))
        image[:, height:] = 0
        image[:, :, width:] = 0
    return pkdzoo.Batch(images.clamp(0, 255), list(SIZES))


def pooled(net: nn.Module, images: Tensor) -> list[Tensor]:
    """What an identity is as a pyramid: the image itself at several sizes."""
    return [F.avg_pool2d(images, stride) for stride in (8, 16)]


@pytest.mark.parametrize(
    "size",
    [pytest.param((640, 640), marks=pytest.mark.slow), pytest.param((384, 384), marks=pytest.mark.slow), (320, 512)],
)
def test_an_identity_in_another_geometry_correlates_with_itself(size: tuple[int, int]) -> None:
    batch = natural_batch()
    plain = pkdzoo.Teacher(nn.Identity(), pooled, [0.5] * 3, [0.5] * 3)
    squashed = pkdzoo.Teacher(nn.Identity(), pooled, [0.5] * 3, [0.5] * 3, input_size=size)
    expected, found = (teacher.extract_features(batch) for teacher in (plain, squashed))
    assert found.sizes == expected.sizes and found.strides == expected.strides == (8, 16)
    for one, other, stride in zip(expected.levels, found.levels, found.strides):
        for index, (height, width) in enumerate(SIZES):  # places that padding does not reach into
            rows, columns = slice(0, height // stride), slice(0, width // stride)
            a, b = (maps[index : index + 1, :, rows, columns] for maps in (one, other))
            _, r = pearson_correlation(a, b)
            assert float(r) > 0.99, (size, stride, index)


def test_files_of_images_are_measured(tmp_path: Path) -> None:
    """recipes/benchmarks/geometry.py, which docs/measured.md quotes."""
    for index, image in enumerate(natural_batch().images[:2]):
        Image.fromarray(image.permute(1, 2, 0).byte().numpy()).save(tmp_path / f"{index}.png")
    found = correlations(sorted(tmp_path.glob("*.png")), (640, 640))
    assert found.shape == (2, 3) and float(found[:, 0].min()) > 0.99 and float(found.max()) < 1


def test_squashed_images_hold_no_padding() -> None:
    batch = pkdzoo.Batch(torch.full((1, 3, 64, 96), 7.0), [(40, 50)])
    batch.images[:, :, 40:] = torch.nan
    batch.images[:, :, :, 50:] = torch.nan
    torch.testing.assert_close(squash_images(batch, (32, 48)), torch.full((1, 3, 32, 48), 7.0))


def test_padding_gets_the_mean_of_its_image() -> None:
    maps = torch.rand(2, 4, 5, 5)
    placed = place_maps(maps, [(64, 64), (32, 64)], (64, 96), 16)
    assert placed.shape == (2, 4, 4, 6)
    torch.testing.assert_close(placed[0, :, :, 4:], maps[0].mean(dim=(1, 2))[:, None, None].expand(4, 4, 2))
    torch.testing.assert_close(placed[1, :, 2:], maps[1].mean(dim=(1, 2))[:, None, None].expand(4, 2, 6))


def test_maps_of_the_same_geometry_stay_as_they_are() -> None:
    maps = torch.rand(1, 4, 6, 8)
    torch.testing.assert_close(place_maps(maps, [(96, 128)], (96, 128), 16), maps)


def test_maps_are_placed_in_full_precision_under_autocast() -> None:
    maps, canvas = torch.rand(2, 4, 5, 7), ([(64, 64), (32, 64)], (64, 96), 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        placed = place_maps(maps, *canvas)
    assert torch.equal(placed, place_maps(maps, *canvas))
