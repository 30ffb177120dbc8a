"""Selection of candidates by score before NMS."""

from __future__ import annotations

import pytest
import torch

from pkdzoo.ops.nms import select_candidates


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.5, 1.0])
def test_logits_are_selected_as_their_probabilities(threshold: float) -> None:
    logits = torch.randn(200, 7) * 4
    logits[3, 2] = torch.tensor(0.05).logit()  # on the threshold, up to rounding
    expected = select_candidates(logits.sigmoid(), threshold, 150)
    found = select_candidates(logits, threshold, 150, sigmoid=True)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))
