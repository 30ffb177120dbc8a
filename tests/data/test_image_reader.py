"""Images decoded fast and kept in memory: which pixels, which boxes, which sizes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_coco import annotation, write
from PIL import Image
from torch.utils.data import DataLoader

from pkdzoo.data import CocoDataset, MixTransform, Resize, UnreadableImage, collate, read_image, train_transform
from pkdzoo.data.image_cache import ImageCache
from pkdzoo.data.image_files import ORIENTATION
from pkdzoo.data.image_reader import ImageReader


def photograph(height: int, width: int) -> Image.Image:
    """A smooth image with a bright square at 1/4 .. 1/2 of both sides."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    pixels = np.stack([40 + 60 * x, 40 + 60 * y, np.full_like(x, 60)], -1)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = 230
    return Image.fromarray(pixels.astype(np.uint8))


def photographs(folder: Path, count: int = 4, side: int = 800, suffix: str = "jpg", turn: int = 1) -> tuple[Path, Path]:
    """``count`` photographs of ``side`` x 1.5 ``side`` pixels with a box around the bright square."""
    height, width = (side * 3 // 2, side) if turn > 4 else (side, side * 3 // 2)
    rows = [{"id": k, "file_name": f"{k}.{suffix}", "height": height, "width": width} for k in range(count)]
    left = width // 2 if turn > 4 else width // 4  # where the turn moves the square
    box = [left, height // 4, width // 4, height // 4]
    data = {"images": rows, "annotations": [annotation(k, k, box) for k in range(count)]}
    places = write(folder, data | {"categories": [{"id": 3, "name": "cat"}]})
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    for row in rows:
        photograph(side, side * 3 // 2).save(places[1] / row["file_name"], quality=95, exif=exif)
    return places


def bright(sample) -> list[int]:
    """Box of the bright square, found in the pixels."""
    rows, columns = (sample.image.float().mean(0) > 150).nonzero(as_tuple=True)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


@pytest.mark.parametrize("turn", [1, 6])
@pytest.mark.parametrize("short", [(96,), (96, 160)])
def test_fast_pixels_are_near_the_exact_ones_and_boxes_stay_on_their_objects(tmp_path, short, turn) -> None:
    places = photographs(tmp_path, count=2, turn=turn)
    transform = train_transform(short, 400, flip=0.5)
    exact, fast = (CocoDataset(*places, transform=transform, decode=kind) for kind in ("exact", "fast"))
    for one, other in zip(exact, fast, strict=True):
        assert one.size == other.size
        assert (one.image.float() - other.image.float()).abs().mean() < 4
        assert np.abs(np.array(bright(other)) - other.instances.boxes[0].numpy()).max() <= 2.0
        assert other.meta["scale"] == pytest.approx(one.meta["scale"], rel=0.01)


def test_fast_decodes_no_smaller_than_the_transform_needs(tmp_path) -> None:
    places = photographs(tmp_path, count=1)
    path = places[1] / "0.jpg"
    assert read_image(path, (800, 1200), at_least=(100, 150)).shape[-2:] == (100, 150)
    assert read_image(path, (800, 1200), at_least=(101, 150)).shape[-2:] == (200, 300)
    assert read_image(path, (800, 1200), at_least=(401, 402)).shape[-2:] == (800, 1200)
    mixed = CocoDataset(*places, transform=MixTransform(100, scale=(0.5, 2.0)), decode="fast")
    assert mixed.load(0).size == (200, 300)  # enlarged up to 2 x 100 pixels
    untouched = CocoDataset(*places, decode="fast")
    assert untouched.load(0).size == (800, 1200)


def test_an_image_of_another_size_is_refused_when_it_is_decoded_fast(tmp_path) -> None:
    places = photographs(tmp_path, count=1)
    with pytest.raises(UnreadableImage, match=r"it has 800 x 1200 pixels \(h x w\), but its boxes were drawn on 800 x"):
        read_image(places[1] / "0.jpg", (800, 1000), at_least=(80, 100))


@pytest.mark.parametrize("short", [96, (96, 160)])
@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_kept_images_give_the_same_samples(tmp_path, decode, short) -> None:
    places = photographs(tmp_path, side=200, suffix="jpg")
    transform = train_transform(short, 400)
    kept = CocoDataset(*places, transform=transform, decode="exact", cache=1 << 24)
    plain = CocoDataset(*places, transform=transform, decode="exact")
    if decode == "fast":  # fast and kept: resized once more, so compare the first with the second reading
        kept = CocoDataset(*places, transform=transform, decode="fast", cache=1 << 24)
        plain = [kept[k] for k in range(len(kept))]
    for _ in range(2):
        for one, other in zip(kept, plain, strict=True):
            assert torch.equal(one.image, other.image)
            assert torch.allclose(one.instances.boxes, other.instances.boxes, atol=1e-4)
            assert one.meta["scale"] == pytest.approx(other.meta["scale"], rel=1e-12)
    assert kept.reader.cache.count == 4


@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_images_that_are_fitted_onto_a_canvas_are_kept_at_its_size(tmp_path, decode) -> None:
    places = photographs(tmp_path, side=200)
    transform = Resize(64, 64, canvas=(160, 160))
    plain, kept = (CocoDataset(*places, transform=transform, decode=decode, cache=size) for size in (0, 1 << 24))
    for _ in range(2):
        for one, other in zip(kept, plain, strict=True):
            assert one.size == other.size and max(one.size) == 160
            assert torch.equal(one.image, other.image)


def test_loader_processes_share_the_kept_images(tmp_path) -> None:
    places = photographs(tmp_path, side=120)
    data = CocoDataset(*places, transform=train_transform(96, 400, flip=0.0), cache=1 << 24)
    first = [batch.images for batch in DataLoader(data, 2, num_workers=2, collate_fn=collate)]
    for path in places[1].iterdir():
        path.unlink()
    again = [batch.images for batch in DataLoader(data, 2, num_workers=1, collate_fn=collate)]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_another_transform_empties_the_cache(tmp_path) -> None:
    data = CocoDataset(*photographs(tmp_path, count=1, side=200), transform=train_transform(96, 400), cache=1 << 24)
    assert data[0].size == (96, 144)
    data.transform = train_transform(50, 400)
    assert data[0].size == (50, 75)


def test_the_budget_is_kept_and_kept_images_cannot_be_changed_from_outside() -> None:
    cache = ImageCache(np.array([[10, 10], [10, 10], [10, 10]]), budget=700)
    assert (cache.count, cache.nbytes) == (2, 600)
    image = torch.randint(0, 255, (3, 10, 10), dtype=torch.uint8)
    for index in range(3):
        cache.put(index, image)
    assert cache.get(2) is None
    cache.get(1).zero_()
    assert torch.equal(cache.get(1), image)
    with pytest.raises(ValueError, match="its place"):
        cache.put(0, image[:, :5])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="write 'exact' or 'fast'"):
        ImageReader(np.zeros((0, 2)), None, decode="quick")
    with pytest.raises(ValueError, match="no shared memory for a cache of"):
        ImageCache(np.array([[1 << 21, 1 << 21]] * 8), budget=1 << 50)
