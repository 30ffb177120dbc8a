"""Selection of candidates by score before NMS, and NMS per class."""

from __future__ import annotations

import pytest
import torch

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
