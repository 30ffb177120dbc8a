"""Prediction in tiles: the grid, merged borders, and a large image in bounded memory."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.commands import run
from PIL import Image

import pkdzoo
from pkdzoo.data import make_shapes
from pkdzoo.inference.tiles import make_tiles, merge_tiles
from pkdzoo.structures import Detections

SIDE = 160


@pytest.fixture(scope="module")
def model() -> Any:
    return pkdzoo.create_detector("fcos_r18w24.shapes", pretrained=True)  # its weights come with the package


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    data = make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=1, val=6, size=(SIDE, SIDE))
    return sorted((data / "val2017").iterdir())


@pytest.fixture(scope="module")
def board(photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images side by side: 480 x 320 pixels."""
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in photos]
    path = tmp_path_factory.mktemp("board") / "board.png"
    Image.fromarray(np.concatenate([np.concatenate(pixels[i : i + 3], axis=1) for i in (0, 3)])).save(path)
    return path


def detections(*rows: tuple[list[float], float, int]) -> Detections:
    boxes, scores, labels = zip(*rows)
    return Detections(torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels))


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.75])
@pytest.mark.parametrize("size", [(64, 64), (65, 100), (1000, 37), (999, 640)])
def test_tiles_cover_the_image_and_overlap(size: tuple[int, int], overlap: float) -> None:
    tiles = make_tiles(size, 64, overlap)
    covered = np.zeros(size, bool)
    for tile in tiles:
        assert 0 <= tile.left < tile.right <= size[1] and 0 <= tile.top < tile.bottom <= size[0]
        assert (tile.right - tile.left, tile.bottom - tile.top) == (min(64, size[1]), min(64, size[0]))
        covered[tile.top : tile.bottom, tile.left : tile.right] = True
    assert covered.all()
    lefts = sorted({tile.left for tile in tiles})
    assert all(a + 64 - b >= int(64 * overlap) for a, b in itertools.pairwise(lefts))


class TestMerge:
    """Two tiles of 100 x 100 pixels, the second from pixel 80 on, in an image of 180 x 100."""

    tiles = make_tiles((100, 180), 100, 0.2)

    def merge(self, first: Detections, second: Detections, **options: Any) -> list[list[float]]:
        merged = merge_tiles([first, second], self.tiles, (100, 180), 0.5, **options)
        assert merged.scores.tolist() == sorted(merged.scores.tolist(), reverse=True)
        return [[*box, label] for box, label in zip(merged.boxes.tolist(), merged.labels.tolist())]

    def test_an_object_that_both_see_whole(self) -> None:
        found = self.merge(detections(([81.0, 10, 99, 40], 0.8, 0)), detections(([1.0, 10, 19, 41], 0.9, 0)))
        assert found == [[81, 10, 99, 41, 0]]

    def test_a_part_gives_way_to_the_whole_even_with_the_better_score(self) -> None:
        part, whole = ([85.0, 10, 100, 40], 0.9, 0), ([5.0, 10, 60, 40], 0.6, 0)
        assert self.merge(detections(part), detections(whole)) == [[85, 10, 140, 40, 0]]

    @pytest.mark.parametrize(
        ("part", "whole"),
        [
            (([85.0, 10, 100, 40], 0.9, 1), ([5.0, 10, 60, 40], 0.6, 0)),  # of another class
            (([85.0, 10, 97, 40], 0.9, 0), ([5.0, 10, 60, 40], 0.6, 0)),  # not cut: a small object in a large one
            (([0.0, 10, 15, 40], 0.9, 0), ([5.0, 10, 60, 40], 0.6, 0)),  # at the image's border, and elsewhere
            (([85.0, 10, 100, 40], 0.9, 0), ([5.0, 10, 60, 40], 0.3, 0)),  # the larger one is doubtful
        ],
    )
    def test_what_is_no_part_stays(self, part: Any, whole: Any) -> None:
        assert len(self.merge(detections(part), detections(whole))) == 2

    def test_boxes_of_one_tile_do_not_drop_each_other(self) -> None:
        rows = detections(([85.0, 10, 100, 40], 0.9, 0), ([20.0, 5, 100, 60], 0.8, 0))
        assert len(self.merge(rows, detections(([50.0, 70, 60, 80], 0.5, 0)))) == 3

    def test_the_number_of_detections(self) -> None:
        rows = detections(*(([float(k), 50, k + 0.5, 60], 0.9 - k / 100, 0) for k in range(50)))
        assert len(self.merge(rows, rows)) == 100
        assert len(self.merge(rows, rows, max_detections=7)) == 7


def test_an_image_of_one_tile(model: Any, photos: list[Path]) -> None:
    for image in (str(photos[0]), np.asarray(Image.open(photos[1]).convert("RGB"))):
        for options in ({}, {"threshold": None}, {"max_detections": 1}, {"flip": True, "classes": [0, 1]}):
            plain = model.predict(image, **options)
            tiled = model.predict(image, tiles=SIDE, **options)
            assert torch.equal(plain.boxes, tiled.boxes) and torch.equal(plain.scores, tiled.scores)
            assert plain.labels.tolist() == tiled.labels.tolist() and plain.size == tiled.size and len(plain) > 0


def test_tiles_without_overlap_find_what_each_image_alone_has(model: Any, photos: list[Path], board: Path) -> None:
    expected = []
    for number, result in enumerate(model.predict(photos, threshold=0.5)):
        shift = torch.tensor([number % 3, number // 3] * 2) * SIDE
        expected += [(*(box + shift).tolist(), int(label)) for box, label in zip(result.boxes, result.labels)]
    for batch_size in (1, 4):
        result = model.predict(board, tiles=SIDE, overlap=0, threshold=0.5, batch_size=batch_size)
        found = [(*box, label) for box, label in zip(result.boxes.tolist(), result.labels.tolist())]
        # a box that ends at a border may be dropped only as a part of another one; no object here goes over a border
        assert np.allclose(sorted(found), sorted(expected), atol=0.01) and len(found) >= 6
    overlapping = model.predict(board, tiles=SIDE, threshold=0.5)
    assert len(overlapping) >= 0.7 * len(expected) and overlapping.size == (2 * SIDE, 3 * SIDE)


def test_the_command(model: Any, board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", model.name, str(board), "--tiles", str(SIDE), "--overlap", "0.25", "--json"]
    code, out, _ = run(capsys, *words)
    expected = model.predict(board, tiles=SIDE, overlap=0.25)
    assert code == 0 and len(expected) > 0
    found = [row["box_xyxy"] for row in json.loads(out)["detections"]]
    assert np.allclose(found, expected.boxes, atol=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tiles": 8}, "tiles=8: write a whole number of at least 32"),
        ({"overlap": 0.2}, r"overlap=0.2 belongs to tiles: write tiles=640 as well"),
        ({"tiles": 64, "overlap": 0.95}, r"overlap=0.95: write a share of a tile from 0 to 0.9"),
        ({"tiles": 64, "overlap": float("nan")}, "overlap=nan"),
        ({"workers": -1}, "workers=-1: write a whole number of at least 0"),
    ],
)
def test_bad_values(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.predict(np.zeros((64, 64, 3), np.uint8), **options)


LARGE = """
import resource, sys, torch, pkdzoo  # ru_maxrss is in kilobytes on Linux
torch.set_num_threads(1)
model = pkdzoo.create_detector("retina_r10w16", resize=(320, 320))
model.predict(torch.zeros(3, 640, 640, dtype=torch.uint8))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = model.predict(sys.argv[1], tiles=2048, batch_size=2, threshold=0.0)
print(result.size, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_a_large_image_in_bounded_memory(tmp_path: Path) -> None:
    """The decoded image takes 309 MB, and PIL's copy of it as much; the tiles hardly more."""
    path = tmp_path / "large.jpg"
    pixels = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((12000, 9000)).save(path, quality=70)
    done = subprocess.run([sys.executable, "-c", LARGE, str(path)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    size, megabytes = done.stdout.rsplit(" ", 1)
    assert size == "(9000, 12000)" and float(megabytes) < 309 * 2 + 150, megabytes
