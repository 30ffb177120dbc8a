"""IoU losses by meaning."""

from __future__ import annotations

import math

import pytest
import torch

from pkdzoo.losses import giou_loss, iou_log_loss

UNIT = torch.tensor([[0.0, 0.0, 2.0, 2.0]])


@pytest.mark.parametrize("loss", [giou_loss, iou_log_loss])
def test_equal_boxes_cost_nothing(loss) -> None:
    assert float(loss(UNIT, UNIT)) == pytest.approx(0, abs=1e-6)


def test_half_overlap_by_hand() -> None:
    """Shifted by 1 of 2: 2 of 6 units in common; the hull is the union."""
    other = UNIT + torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert float(iou_log_loss(UNIT, other)) == pytest.approx(math.log(3), rel=1e-6)
    assert float(giou_loss(UNIT, other)) == pytest.approx(1 - 1 / 3, rel=1e-6)


def test_apart_only_giou_still_pulls() -> None:
    far = (UNIT + 10).requires_grad_()
    loss = giou_loss(far, UNIT)
    loss.sum().backward()
    assert 1 < float(loss.detach()) < 2  # 12 x 12 hull, 8 units filled
    assert float(loss.detach()) == pytest.approx(1 + (144 - 8) / 144, rel=1e-6)
    assert far.grad[0, 0] > 0
    assert float(iou_log_loss(UNIT + 10, UNIT)) == pytest.approx(-math.log(1e-6), rel=1e-6)


@pytest.mark.parametrize("loss", [giou_loss, iou_log_loss])
def test_degenerate_and_no_boxes(loss) -> None:
    point = torch.zeros(1, 4, requires_grad=True)
    value = loss(point, UNIT)
    value.sum().backward()
    assert value.isfinite().all() and point.grad.isfinite().all()
    assert loss(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


@pytest.mark.parametrize("loss", [giou_loss, iou_log_loss])
def test_gradients(loss) -> None:
    found = torch.tensor([[0.1, 0.2, 1.7, 1.5], [0.5, -0.3, 2.8, 2.2]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: loss(x, UNIT.double().expand(2, 4)), found)
