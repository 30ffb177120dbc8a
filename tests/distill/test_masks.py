"""Masks of the mask methods against hand-drawn cases."""

from __future__ import annotations

import torch
from helpers.kd_reference import tiny_batch
from torch import Tensor

import pkdzoo
from pkdzoo.distill.masks import assign_size_levels, near_anchor_mask, object_mask, objects_of, select_level


def objects(*boxes: tuple[float, float, float, float]) -> pkdzoo.Instances:
    return pkdzoo.Instances(torch.tensor(boxes).reshape(-1, 4), torch.zeros(len(boxes), dtype=torch.int64))


def drawn(*rows: str) -> Tensor:
    return torch.tensor([[float(c == "#") for c in row] for row in rows])


def test_cells_that_overlap_an_object() -> None:
    images = [objects((9.0, 0.0, 24.0, 8.0), (30.0, 20.0, 31.0, 21.0)), objects()]
    mask = object_mask(images, (4, 5), 8)
    assert mask.shape == (2, 1, 4, 5)
    assert torch.equal(mask[0, 0], drawn(
        ".##..",
        ".....",
        "...#.",
        ".....",
    ))  # fmt: skip
    assert (mask[1] == 0).all()


def test_an_object_beyond_the_map_is_cut() -> None:
    mask = object_mask([objects((20.0, 12.0, 300.0, 300.0))], (3, 4), 8)
    assert torch.equal(mask[0, 0], drawn("....", "..##", "..##"))


def test_level_by_size() -> None:
    sides = torch.tensor([1.0, 110.0, 112.0, 223.0, 225.0, 447.0, 450.0, 5000.0])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], dim=1)
    assert assign_size_levels(boxes, 5).tolist() == [0, 0, 1, 2, 2, 3, 3, 4]
    assert assign_size_levels(boxes, 3).max() == 2
    parts = [len(select_level([pkdzoo.Instances(boxes, torch.zeros(8).long())], level, 5)[0]) for level in range(5)]
    assert parts == [2, 1, 2, 2, 1]


def test_cells_with_an_anchor_near_the_best() -> None:
    # one anchor of 8 x 8 a cell of a 2 x 3 map. The object covers cell 0 wholly (IoU 64 / 96) and half of cell 1
    # (32 / 128): the second has 3/8 of the best overlap.
    anchors = torch.tensor([[x, y, x + 8.0, y + 8.0] for y in (0.0, 8.0) for x in (0.0, 8.0, 16.0)])
    image = objects((0.0, 0.0, 12.0, 8.0))
    assert torch.equal(near_anchor_mask([image], anchors, (2, 3))[0, 0], drawn("#..", "..."))
    assert torch.equal(near_anchor_mask([image], anchors, (2, 3), 0.3)[0, 0], drawn("##.", "..."))


def test_every_object_marks_the_cells_near_its_own_best_anchor() -> None:
    anchors = torch.tensor([[x, 0.0, x + side, side] for x in (0.0, 8.0, 16.0) for side in (4.0, 8.0)])  # two a cell
    image = objects((0.0, 0.0, 4.0, 4.0), (17.0, 0.0, 19.0, 1.0))
    assert torch.equal(near_anchor_mask([image, objects()], anchors, (1, 3))[0, 0], drawn("#.#"))
    assert (near_anchor_mask([image, objects()], anchors, (1, 3))[1] == 0).all()


def test_an_object_that_no_anchor_meets_marks_nothing() -> None:
    anchors = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    assert (near_anchor_mask([objects((50.0, 50.0, 60.0, 60.0))], anchors, (1, 1)) == 0).all()


def test_crowds_are_no_objects() -> None:
    batch = tiny_batch()
    assert batch.instances is not None
    batch.instances[0].crowd = torch.tensor([False, True, False])
    assert [len(o) for o in objects_of(batch)] == [2, 1]
    batch.instances = None
    assert [len(o) for o in objects_of(batch)] == [0, 0]
