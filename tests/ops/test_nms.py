"""Selection of candidates by score before NMS, and NMS per class."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import nms

from pkdzoo.ops.nms import select_candidates, suppress
from pkdzoo.structures import Detections


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.5, 1.0])
def test_logits_are_selected_as_their_probabilities(threshold: float) -> None:
    logits = torch.randn(200, 7) * 4
    logits[3, 2] = torch.tensor(0.05).logit()  # on the threshold, up to rounding
    expected = select_candidates(logits.sigmoid(), threshold, 150)
    found = select_candidates(logits, threshold, 150, sigmoid=True)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_classes_stay_apart_where_boxes_reach_beyond_the_image() -> None:
    boxes = torch.tensor([[20.0, 20, 100, 100], [-80, -80, 0, 0], [-79, -80, 0, 0]])
    found = suppress(Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 1])), 0.5, 10)
    assert found.boxes.tolist() == boxes[:2].tolist()
    assert len(suppress(Detections(boxes[:0], torch.zeros(0), torch.zeros(0).long()), 0.5, 10)) == 0


@pytest.mark.parametrize(("classes", "side"), [(80, 1333), (365, 12000), (1203, 12000)])
def test_many_classes_on_a_large_image(classes: int, side: int) -> None:
    """Classes are told apart by moving their boxes: small boxes of the last class must not lose their digits."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        corners = torch.rand(60, 2, generator=generator) * (side - 60)
        boxes = torch.cat([corners, corners + 12 * (0.7 + 0.6 * torch.rand(60, 2, generator=generator))], 1)
        boxes = torch.cat([boxes, boxes + 6 * (torch.rand(60, 4, generator=generator) - 0.5)])
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 2)
        labels = torch.randint(0, classes, (60,), generator=generator).repeat(2)
        scores = torch.rand(120, generator=generator)
        expected = torch.zeros(120, dtype=torch.bool)
        for label in labels.unique():
            (own,) = torch.where(labels == label)
            expected[own[nms(boxes[own].double(), scores[own].double(), 0.5)]] = True
        found = suppress(Detections(boxes, scores, labels), 0.5, 120)
        assert found.scores.tolist() == sorted(scores[expected].tolist(), reverse=True)
        assert found.boxes.dtype == torch.float32
