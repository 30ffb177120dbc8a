"""Masks cropped to regions and pasted back."""

from __future__ import annotations

import pytest
import torch

from pkdzoo.ops import masks as masks_module
from pkdzoo.ops.masks import crop_masks, paste_masks


def rectangle(h: int, w: int, x1: int, y1: int, x2: int, y2: int) -> torch.Tensor:
    mask = torch.zeros(h, w, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    return mask


def test_a_region_sees_its_part_of_the_mask() -> None:
    masks = torch.stack([rectangle(40, 60, 10, 10, 30, 20), rectangle(40, 60, 0, 0, 60, 40)])
    boxes = torch.tensor([
        [10.0, 10.0, 30.0, 20.0],  # exactly the object
        [0.0, 10.0, 20.0, 20.0],  # its left half, in the right half of the region
        [10.0, 10.0, 30.0, 30.0],  # the object in the upper half
        [10.0, 10.0, 30.0, 20.0],  # the other object, which covers all
        [40.0, 30.0, 50.0, 40.0],  # beside the object
        [50.0, 30.0, 60.0, 40.0],  # at the edge of the image
    ])  # fmt: skip
    cut = crop_masks(masks, boxes, torch.tensor([0, 0, 0, 1, 0, 1]), 4)
    assert cut.dtype == torch.bool and cut.shape == (6, 4, 4)
    assert cut[0].all() and cut[3].all() and cut[5].all() and not cut[4].any()
    assert cut[1].tolist() == [[False, False, True, True]] * 4
    assert cut[2].tolist() == [[True] * 4] * 2 + [[False] * 4] * 2


def test_many_objects_are_cut_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    masks = torch.rand(7, 30, 30) > 0.5
    boxes = torch.rand(20, 2).mul(15).repeat(1, 2) + torch.tensor([0.0, 0.0, 10.0, 12.0])
    matched = torch.arange(20) % 7
    whole = crop_masks(masks, boxes, matched, 14)
    monkeypatch.setattr(masks_module, "MAX_PIXELS", 2 * 30 * 30)
    assert torch.equal(crop_masks(masks, boxes, matched, 14), whole)
    assert 0.2 < whole.float().mean() < 0.8


def test_nothing_to_cut() -> None:
    none = torch.zeros(0, 4)
    assert crop_masks(torch.zeros(0, 8, 8, dtype=torch.bool), none, torch.zeros(0).long(), 28).shape == (0, 28, 28)
    assert crop_masks(torch.ones(2, 8, 8, dtype=torch.bool), none, torch.zeros(0).long(), 28).shape == (0, 28, 28)


def test_pasting_fills_the_box() -> None:
    full = torch.ones(1, 28, 28)
    drawn = paste_masks(full, torch.tensor([[5.0, 8.0, 25.0, 18.0]]), (30, 40))
    assert torch.equal(drawn[0], rectangle(30, 40, 5, 8, 25, 18))
    left = full.clone()
    left[..., 14:] = 0
    drawn = paste_masks(left, torch.tensor([[4.0, 8.0, 24.0, 18.0]]), (30, 40))
    assert torch.equal(drawn[0], rectangle(30, 40, 4, 8, 14, 18))


def test_pasting_undoes_cutting() -> None:
    masks = torch.stack([rectangle(64, 64, 10, 20, 50, 40) | rectangle(64, 64, 20, 10, 30, 60)])
    box = torch.tensor([[10.0, 10.0, 50.0, 60.0]])
    cut = crop_masks(masks, box, torch.tensor([0]), 28)
    drawn = paste_masks(cut.float(), box, (64, 64))
    assert (drawn & masks).sum() / (drawn | masks).sum() > 0.95


@pytest.mark.parametrize(
    "box",
    [[-10.0, -5.0, 20.0, 15.0], [30.0, 20.0, 80.0, 60.0], [5.0, 5.0, 5.0, 9.0], [50.0, 50.0, 60.0, 60.0]],
    ids=["beyond the top left", "beyond the bottom right", "without width", "outside"],
)
def test_pasting_stays_in_the_image(box: list[float]) -> None:
    drawn = paste_masks(torch.ones(1, 28, 28), torch.tensor([box]), (30, 40))
    x1, y1, x2, y2 = (int(v) for v in box)
    expected = rectangle(30, 40, max(0, x1), max(0, y1), x2, y2) if x2 > x1 else torch.zeros(30, 40, dtype=torch.bool)
    assert torch.equal(drawn[0], expected)


def test_threshold() -> None:
    gray = torch.full((1, 28, 28), 0.5)
    box = torch.tensor([[5.0, 5.0, 15.0, 15.0]])
    assert paste_masks(gray, box, (20, 20))[0, 10, 10]
    assert not paste_masks(gray, box, (20, 20), threshold=0.51).any()
    assert paste_masks(gray[:0], box[:0], (20, 20)).shape == (0, 20, 20)
