"""Losses of quality and of distributions by meaning."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pkdzoo.losses import (
    cross_entropy_of_probabilities,
    distribution_focal,
    one_hot_quality,
    quality_focal,
    quality_focal_of_probabilities,
)

LABELS = torch.tensor([0, 3, 4, -1, 2])
QUALITY = torch.tensor([0.9, 0.2, 0.7, 0.5, 0.0])


def logits() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def test_quality_stands_at_the_own_class_only() -> None:
    target = one_hot_quality(LABELS, QUALITY, 4)
    expected = torch.zeros(5, 4)
    expected[0, 0], expected[1, 3] = 0.9, 0.2
    assert torch.equal(target, expected)


def test_a_perfect_answer_costs_nothing_and_pulls_nowhere() -> None:
    target = torch.tensor([[0.9, 1e-12], [1e-12, 1e-12]])
    x = target.logit().requires_grad_()
    loss = quality_focal(x, torch.tensor([0, 2]), torch.tensor([0.9, 0.5]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-10)
    assert x.grad.abs().max() < 1e-6


def test_without_focus_it_is_cross_entropy() -> None:
    counted = LABELS >= 0
    target = one_hot_quality(LABELS, QUALITY, 4)[counted]
    expected = F.binary_cross_entropy_with_logits(logits()[counted], target, reduction="sum")
    torch.testing.assert_close(quality_focal(logits(), LABELS, QUALITY, beta=0.0), expected)


def test_by_hand() -> None:
    """Probability 0.5 for a quality of 0.9: 0.4 ** 2 * ln 2; as background 0.5 ** 2 * ln 2."""
    x = torch.zeros(1, 1)
    assert float(quality_focal(x, torch.tensor([0]), torch.tensor([0.9]))) == pytest.approx(0.16 * 0.6931472, rel=1e-5)
    assert float(quality_focal(x, torch.tensor([1]), torch.tensor([0.9]))) == pytest.approx(0.25 * 0.6931472, rel=1e-5)


def test_probabilities_give_the_same_number_as_logits() -> None:
    expected = quality_focal(logits(), LABELS, QUALITY)
    torch.testing.assert_close(quality_focal_of_probabilities(logits().sigmoid(), LABELS, QUALITY), expected)


@pytest.mark.parametrize("loss", [quality_focal, lambda x, *rest: quality_focal_of_probabilities(x.sigmoid(), *rest)])
def test_ignored_priors_get_no_gradient_and_gradients_are_right(loss) -> None:
    x = logits().double().requires_grad_()
    loss(x, LABELS, QUALITY.double()).backward()
    assert not x.grad[3].any()
    assert x.grad[[0, 1, 2, 4]].abs().min() > 0
    assert torch.autograd.gradcheck(lambda x: loss(x, LABELS, QUALITY.double()), x)


def test_distribution_by_hand() -> None:
    """2.25 lies between 2 and 3: three quarters of the cross entropy with 2, one quarter of that with 3."""
    x = torch.randn(1, 5)
    chances = x.log_softmax(-1)[0]
    expected = -(0.75 * chances[2] + 0.25 * chances[3])
    torch.testing.assert_close(distribution_focal(x, torch.tensor([2.25]))[0], expected)


def test_distribution_is_best_where_its_mean_is_the_value() -> None:
    exact = torch.tensor([[0.0, 0.25, 0.75, 0.0]]).clamp(min=1e-9).log()
    at = torch.tensor([1.75])
    best = distribution_focal(exact, at)
    for other in ([0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 1.0, 0.0], [0.5, 0.0, 0.0, 0.5]):
        assert distribution_focal(torch.tensor([other]).clamp(min=1e-9).log(), at) > best


def test_distribution_of_a_whole_number_is_plain_cross_entropy() -> None:
    x = torch.randn(3, 17)
    expected = F.cross_entropy(x, torch.tensor([0, 7, 15]), reduction="none")
    torch.testing.assert_close(distribution_focal(x, torch.tensor([0.0, 7.0, 15.0])), expected)


def test_distribution_shapes_and_gradient() -> None:
    assert distribution_focal(torch.randn(6, 4, 17), torch.rand(6, 4) * 15).shape == (6, 4)
    assert distribution_focal(torch.randn(0, 4, 17), torch.rand(0, 4)).shape == (0, 4)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: distribution_focal(x, torch.tensor([0.0, 1.5, 3.9]).double()), x)


@pytest.mark.parametrize("loss", [
    lambda x: quality_focal(x, LABELS, QUALITY),
    lambda x: quality_focal_of_probabilities(x.sigmoid(), LABELS, QUALITY),
    lambda x: distribution_focal(x[:3], torch.tensor([0.5, 1.0, 2.5])),
    lambda x: cross_entropy_of_probabilities(x.sigmoid(), one_hot_quality(LABELS, QUALITY, 4)),
])  # fmt: skip
def test_compiles_in_one_piece(loss) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits()), loss(logits()))
