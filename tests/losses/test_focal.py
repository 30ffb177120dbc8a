"""Focal losses by meaning: known special cases, torch's own numbers, ignored and empty input, gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from pkdzoo.losses import cross_entropy_of_probabilities, detection, focal_of_probabilities, sigmoid_focal

LABELS = torch.tensor([0, 3, 4, -1, 2])  # of 4 classes: two ends, background, ignored, middle


def logits() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def one_hot() -> Tensor:
    return F.one_hot(LABELS.clamp(min=0), 5)[:, :4].float()


def test_equals_torchvision_on_one_hot_targets() -> None:
    counted = LABELS >= 0
    expected = sigmoid_focal_loss(logits()[counted], one_hot()[counted], reduction="sum")
    torch.testing.assert_close(sigmoid_focal(logits(), LABELS), expected)


def test_without_focus_it_is_balanced_cross_entropy() -> None:
    counted = LABELS >= 0
    expected = F.binary_cross_entropy_with_logits(logits()[counted], one_hot()[counted], reduction="sum")
    torch.testing.assert_close(sigmoid_focal(logits(), LABELS, alpha=0.5, gamma=0.0), expected / 2)


@pytest.mark.parametrize("gamma", [2.0, 1.5])
def test_probabilities_give_the_same_number_as_logits(gamma: float) -> None:
    expected = sigmoid_focal(logits(), LABELS, gamma=gamma)
    torch.testing.assert_close(focal_of_probabilities(logits().sigmoid(), LABELS, gamma=gamma), expected)


def test_by_hand() -> None:
    """One prior, one class, p = 0.8: as positive 0.25 * 0.04 * -ln 0.8, as background 0.75 * 0.64 * -ln 0.2."""
    p = torch.tensor([[0.8]])
    assert float(focal_of_probabilities(p, torch.tensor([0]))) == pytest.approx(0.25 * 0.04 * 0.2231436, rel=1e-5)
    assert float(focal_of_probabilities(p, torch.tensor([1]))) == pytest.approx(0.75 * 0.64 * 1.6094379, rel=1e-5)


@pytest.mark.parametrize("loss", [sigmoid_focal, lambda x, labels: focal_of_probabilities(x.sigmoid(), labels)])
def test_ignored_priors_get_no_gradient(loss) -> None:
    x = logits().requires_grad_()
    loss(x, LABELS).backward()
    assert not x.grad[3].any()
    assert x.grad[[0, 1, 2, 4]].abs().min() > 0


@pytest.mark.parametrize("loss", [sigmoid_focal, focal_of_probabilities])
def test_nothing_costs_nothing(loss) -> None:
    x = torch.zeros(0, 4, requires_grad=True)
    total = loss(x, torch.zeros(0, dtype=torch.int64))
    total.backward()
    assert total == 0 and x.grad.shape == (0, 4)


def test_gradients() -> None:
    x = logits().double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal(x, LABELS), x)
    assert torch.autograd.gradcheck(lambda x: focal_of_probabilities(x.sigmoid(), LABELS), x)


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
@pytest.mark.parametrize("block", [1, 2 * 4, 3 * 4, 1 << 18])
def test_blocks_are_of_any_size(monkeypatch, block: int, gamma: float) -> None:
    """Number and gradient are those of autograd on torchvision's loss, images first."""
    monkeypatch.setattr(detection, "_BLOCK", block)
    x, same = (logits().repeat(2, 1, 1).requires_grad_() for _ in range(2))
    counted = LABELS.repeat(2, 1) >= 0
    expected = sigmoid_focal_loss(same[counted], one_hot().repeat(2, 1, 1)[counted], gamma=gamma, reduction="sum")
    found = sigmoid_focal(x, LABELS.repeat(2, 1), gamma=gamma)
    torch.testing.assert_close(found, expected)
    (3 * found).backward()
    (3 * expected).backward()
    torch.testing.assert_close(x.grad, same.grad)


@pytest.mark.parametrize("size", [1.0, 15.0, 100.0, 1e6])
def test_sure_logits_keep_their_digits(size: float) -> None:
    """Sure and right, sure and wrong: against the same in twice the digits."""
    x = torch.tensor([[size, -size], [-size, size], [size, size], [-size, -size]], requires_grad=True)
    double = x.detach().double().requires_grad_()
    labels = torch.tensor([0, 0, 2, 1])
    found = sigmoid_focal(x, labels)
    expected = sigmoid_focal_loss(double, torch.tensor([[1.0, 0], [1, 0], [0, 0], [0, 1]]).double(), reduction="sum")
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    found.backward()
    expected.backward()
    assert expected.isfinite() and double.grad.isfinite().all()
    torch.testing.assert_close(x.grad.double(), double.grad, rtol=2e-5, atol=1e-30)


def test_few_bits_are_widened_for_the_sum() -> None:
    x = logits().bfloat16().requires_grad_()
    wide = x.detach().float().requires_grad_()
    for loss in (sigmoid_focal(x, LABELS), sigmoid_focal(wide, LABELS)):
        assert loss.dtype == torch.float32
        loss.backward()
    assert x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(x.grad, wide.grad.bfloat16())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_costs_the_sum_no_digits(dtype: torch.dtype) -> None:
    """Over 65,504 too, which is all that float16 holds."""
    x, labels = 9 * logits().repeat(20_000, 1), LABELS.repeat(20_000)
    with torch.autocast("cpu", dtype):
        found = sigmoid_focal(x, labels, alpha=0.3)
    assert found > 1e5
    torch.testing.assert_close(found, sigmoid_focal(x, labels, alpha=0.3), rtol=1e-6, atol=0)


def test_what_a_scaler_lifts_is_not_rounded_to_zero_before() -> None:
    """Sure background in float16: its gradient is under the smallest number of that type, the scaled one is not."""
    x = torch.full((3, 4), -9.0, dtype=torch.float16, requires_grad=True)
    wide = x.detach().float().requires_grad_()
    for loss in (sigmoid_focal(x, torch.full((3,), 4)), sigmoid_focal(wide, torch.full((3,), 4))):
        (65536.0 * loss).backward()  # a scaler's first factor, more than float16 holds
    assert 0 < wide.grad.max() / 65536 < 2**-25
    torch.testing.assert_close(x.grad, wide.grad.half())


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    x = logits().requires_grad_()
    with pytest.raises(RuntimeError, match=r"gradient of the focal loss .* leave create_graph=True out"):
        torch.autograd.grad(sigmoid_focal(x, LABELS), x, create_graph=True)


def test_compiles_as_one_graph() -> None:
    x, same = logits().requires_grad_(), logits().requires_grad_()
    torch.compile(sigmoid_focal, fullgraph=True, backend="aot_eager")(x, LABELS).backward()
    sigmoid_focal(same, LABELS).backward()
    torch.testing.assert_close(x.grad, same.grad)


def test_cross_entropy_of_probabilities_is_torchs() -> None:
    p, target = torch.rand(50), torch.rand(50)
    expected = F.binary_cross_entropy(p, target, reduction="none")
    torch.testing.assert_close(cross_entropy_of_probabilities(p, target), expected)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_certainty_stays_finite(p: float) -> None:
    x = torch.tensor([p, p], requires_grad=True)
    loss = cross_entropy_of_probabilities(x, torch.tensor([0.0, 1.0]))
    loss.sum().backward()
    assert loss.isfinite().all() and x.grad.isfinite().all()
    assert sorted(loss.tolist())[0] == pytest.approx(0, abs=1e-6) and max(loss.tolist()) > 50


def test_runs_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert cross_entropy_of_probabilities(torch.tensor([0.3]), torch.tensor([1.0])).isfinite().all()
