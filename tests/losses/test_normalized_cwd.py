"""CWD of normalized maps: its gradient is that of the plain form, and no normalized map is kept for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pkdzoo.losses import cwd, norm_cwd
from pkdzoo.losses.normalized_cwd import normalize_by_batch

SHAPE = (2, 6, 5, 7)


def plain(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """The composed form, which autograd differentiates."""
    return cwd(normalize_by_batch(student), normalize_by_batch(teacher), temperature)


def maps(shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    student, teacher = torch.randn(shape), torch.randn(shape)
    return (3 * student + 40).to(dtype).requires_grad_(), (teacher + 0.5 * student).to(dtype)


def both(student: Tensor, teacher: Tensor, temperature: float) -> list[tuple[Tensor, Tensor]]:
    results = []
    for form in (norm_cwd, plain):
        loss = 7 * form(student, teacher, temperature)
        results.append((loss.detach(), torch.autograd.grad(loss, student)[0]))
    return results


def test_normalization_is_batch_norm_without_memory() -> None:
    x = torch.randn(3, 4, 5, 6) * 3 + 2
    expected = torch.nn.BatchNorm2d(4, affine=False, track_running_stats=False)(x)
    torch.testing.assert_close(normalize_by_batch(x), expected)
    assert normalize_by_batch(torch.full((1, 4, 1, 1), 3.0)).eq(0).all()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_is_right(temperature: float) -> None:
    student, teacher = maps((2, 3, 3, 4))
    assert torch.autograd.gradcheck(lambda s: norm_cwd(s, teacher, temperature), student)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("block", [1, 2 * 2 * 35, 1 << 19])
@pytest.mark.parametrize(("dtype", "temperature"), [(torch.float64, 2.0), (torch.float32, 1.0), (torch.bfloat16, 1.0)])
def test_equals_the_composed_form(layout, block, dtype, temperature, monkeypatch) -> None:
    """In any layout, and in any parts: one channel, two channels, all."""
    monkeypatch.setattr("pkdzoo.losses.normalized_cwd.BLOCK", block)
    student, teacher = maps(dtype=dtype)
    student = student.detach().to(memory_format=layout).requires_grad_()
    (loss, gradient), (expected, slope) = both(student, teacher, temperature)
    accuracy = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    assert loss.dtype == expected.dtype and gradient.dtype == dtype
    assert float(abs(loss / expected - 1)) < min(accuracy, 1e-5)  # of bfloat16 maps it is computed in float32
    assert float((gradient - slope).abs().max() / slope.abs().max()) < accuracy


def test_channels_without_variation_and_single_values() -> None:
    student, teacher = maps(dtype=torch.float32)
    with torch.no_grad():
        student[:, 1], teacher[:, 2] = 3.0, -1.0
    for s, t in ((student, teacher), (torch.rand(1, 4, 1, 1, requires_grad=True), torch.rand(1, 4, 1, 1))):
        (loss, gradient), (expected, slope) = both(s, t, 1.0)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-6 * (1 + float(slope.abs().max())))


def test_between_forward_and_backward_only_the_maps_themselves_are_kept() -> None:
    """Whatever else is kept has a few numbers per channel and image."""
    student, teacher = maps((2, 6, 40, 40), torch.float32)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        norm_cwd(student, teacher)
    assert {x.data_ptr() for x in kept if x.numel() > 12} == {student.data_ptr(), teacher.data_ptr()}


def test_a_second_derivative_is_refused_and_other_shapes_are() -> None:
    student, teacher = maps()
    (gradient,) = torch.autograd.grad(norm_cwd(student, teacher.requires_grad_()), student)
    assert gradient.abs().sum() > 0 and teacher.grad is None
    with pytest.raises(RuntimeError, match="normalized CWD cannot be differentiated again"):
        torch.autograd.grad(norm_cwd(student, teacher), student, create_graph=True)
    with pytest.raises(ValueError, match="of one shape"):
        norm_cwd(student, teacher[:, :3])


def test_maps_without_values_have_a_loss() -> None:
    with FakeTensorMode():
        loss = norm_cwd(torch.rand(SHAPE, requires_grad=True), torch.rand(SHAPE))
        assert loss.shape == ()
