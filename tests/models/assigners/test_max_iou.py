"""Assignment by IoU, on boxes that can be checked by hand."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou

from pkdzoo.models.assigners import max_iou
from pkdzoo.models.assigners.max_iou import NEGATIVE, SKIPPED, labels_of, match_by_iou

PRIORS = torch.tensor([
    [0, 0, 10, 10],  # the first object itself
    [0, 0, 10, 20],  # overlaps it by half
    [0, 0, 10, 22],  # by 0.4545
    [0, 0, 10, 30],  # by a third
    [50, 50, 60, 70],  # overlaps the second by a quarter, the highest overlap with it
    [90, 90, 99, 99],  # nothing
], dtype=torch.float32)  # fmt: skip
BOXES = torch.tensor([[0, 0, 10, 10], [50, 50, 60, 55]], dtype=torch.float32)


def test_thresholds() -> None:
    matched = match_by_iou(PRIORS, BOXES, positive=0.5, negative=0.4)
    assert matched.tolist() == [0, 0, SKIPPED, NEGATIVE, NEGATIVE, NEGATIVE]


def test_every_object_gets_its_best_prior_where_allowed() -> None:
    assert match_by_iou(PRIORS, BOXES, 0.5, 0.4, low_quality=0.0)[4] == 1
    assert match_by_iou(PRIORS, BOXES, 0.5, 0.4, low_quality=0.3)[4] == NEGATIVE


def test_objects_that_want_one_prior_the_last_wins() -> None:
    twins = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 10]], dtype=torch.float32)
    assert match_by_iou(PRIORS[:1], twins, 0.5, 0.4).tolist() == [0]
    assert match_by_iou(PRIORS[:1], twins, 0.5, 0.4, low_quality=0.0).tolist() == [1]


def test_no_objects_and_no_priors() -> None:
    assert match_by_iou(PRIORS, torch.zeros(0, 4), 0.5, 0.4, 0.0).tolist() == [NEGATIVE] * 6
    assert match_by_iou(torch.zeros(0, 4), BOXES, 0.5, 0.4, 0.0).shape == (0,)


def test_labels_from_matches() -> None:
    matched = torch.tensor([1, NEGATIVE, SKIPPED, 0])
    assert labels_of(matched, torch.tensor([7, 3]), background=9).tolist() == [3, 9, -1, 7]
    assert labels_of(matched.clamp(max=-1), torch.zeros(0, dtype=torch.int64), 9).tolist() == [9, 9, -1, 9]


@pytest.mark.parametrize("low_quality", [None, 0.0, 0.3])
@pytest.mark.parametrize("block", [1, 50, 1 << 18])
def test_parts_of_the_priors_are_matched_as_all_of_them(block, low_quality, monkeypatch) -> None:
    """With twins among the objects, and one far away, which takes all priors that do not overlap it."""
    monkeypatch.setattr(max_iou, "BLOCK", block)
    draw = torch.Generator().manual_seed(0)
    grid = torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(9.0), indexing="ij"), -1).view(-1, 2) * 8
    priors = torch.cat([torch.cat([grid - side, grid + side], 1) for side in (8, 12, 16)])
    corners = torch.randint(0, 60, (12, 2), generator=draw).float()
    boxes = torch.cat([corners, corners + torch.randint(4, 40, (12, 2), generator=draw)], 1)
    boxes[7] = boxes[3]
    for objects in (boxes, torch.cat([boxes, torch.tensor([[900.0, 900.0, 910.0, 910.0]])])):
        overlaps = box_iou(objects, priors)
        best, index = overlaps.max(dim=0)
        expected = torch.where(best < 0.4, NEGATIVE, SKIPPED)
        expected = torch.where(best >= 0.5, index, expected)
        if low_quality is not None:
            of_object = overlaps.amax(dim=1)
            for number in range(len(objects)):
                if of_object[number] >= low_quality:
                    expected[overlaps[number] == of_object[number]] = number
        assert torch.equal(match_by_iou(priors, objects, 0.5, 0.4, low_quality), expected)
