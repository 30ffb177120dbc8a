"""Losses between maps: reference figures of mmrazor, hand-computed values, and what must hold for any maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.kd_reference import PKD, pkd_pyramids, sampled_error
from helpers.reference import load, uniform
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from pkdzoo.losses import correlation, cwd, norm_kl, normalize_channels, pearson, pearson_correlation
from pkdzoo.losses.correlation import EPS

CWD = load("kd/cwd_loss")["cases"]


def maps(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    numbers = torch.arange(24, dtype=torch.float64)
    return numbers.sin().view(2, 2, 2, 3).to(dtype), (0.7 * numbers).cos().view(2, 2, 2, 3).to(dtype)


@pytest.mark.parametrize("name", ["homogeneous", "batch of one"])
def test_pearson_equals_reference(name: str) -> None:
    case = PKD[name]
    student, teacher = pkd_pyramids(case)
    for level in student:
        level.requires_grad_()
    loss = case["weight"] * sum(pearson(s, t) for s, t in zip(student, teacher, strict=True))
    assert float(loss.detach()) == pytest.approx(case["loss"], rel=1e-5)
    loss.backward()
    for level, figures in zip(student, case["grads"], strict=True):
        assert sampled_error(level.grad, figures) < 1e-4


def test_dead_channels_count_as_in_the_reference_and_get_no_gradient() -> None:
    case = PKD["one dead channel"]
    (student,), (teacher,) = pkd_pyramids(case)
    student.requires_grad_()
    loss = pearson(student, teacher)
    assert float(loss.detach()) == pytest.approx(case["loss"], rel=1e-5)
    loss.backward()
    assert (student.grad[:, 1] == 0).all()
    figures = case["grads"][0]
    _, channels, height, width = figures["shape"]
    of_channel = [i // (height * width) % channels for i in figures["index"]]
    alive = [(i, v) for i, v, c in zip(figures["index"], figures["value"], of_channel) if c != 1]
    assert alive
    found = student.grad.flatten()[torch.tensor([i for i, _ in alive])]
    expected = torch.tensor([v for _, v in alive])
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("value", [0.1, 1 / 3, -7.7, 1e4])
def test_a_constant_that_no_float_mean_reproduces_is_still_constant(value: float) -> None:
    teacher = torch.randn(3, 2, 7, 9)
    student = torch.randn(3, 2, 7, 9)
    student[:, 0] = value
    student.requires_grad_()
    count = 3 * 7 * 9
    loss = pearson(student, teacher)
    alone = pearson(student[:, 1:], teacher[:, 1:])
    assert loss.item() == pytest.approx(0.5 * (alone.item() + (count - 1) / (2 * count)), rel=1e-4)
    loss.backward()
    assert (student.grad[:, 0] == 0).all()
    normalized = normalize_channels(student)
    assert (normalized[:, 0] == 0).all()
    assert torch.autograd.grad((normalized * teacher).sum(), student)[0][:, 0].abs().max() == 0


def test_golden_values() -> None:
    student, teacher = maps()
    assert float(pearson(student, teacher)) == pytest.approx(0.8473053687, abs=1e-9)
    assert float(norm_kl(student, teacher, 50.0)) == pytest.approx(0.8488471070, abs=1e-9)
    assert float(cwd(student, teacher, 1.0)) == pytest.approx(0.4623530996, abs=1e-9)


@pytest.mark.parametrize("case", CWD, ids=lambda case: case["name"])
def test_cwd_equals_reference(case: dict[str, Any]) -> None:
    student = torch.from_numpy(uniform(f"cwd.{case['name']}.s", case["shape"]) * 2).requires_grad_()
    teacher = torch.from_numpy(uniform(f"cwd.{case['name']}.t", case["shape"]) * 2)
    loss = case["weight"] * cwd(student, teacher, case["tau"])
    assert loss.item() == pytest.approx(case["loss"], rel=1e-5)
    loss.backward()
    assert sampled_error(student.grad, case["grad"]) < 1e-4


def test_plain_form_and_analytic_form_agree() -> None:
    student, teacher = (torch.randn(2, 5, 9, 11) for _ in range(2))
    student = (student * 3 + 40).requires_grad_()
    plain = 0.5 * F.mse_loss(normalize_channels(student), normalize_channels(teacher))
    analytic = pearson(student, teacher)
    assert torch.allclose(plain, analytic, rtol=1e-5)
    a, b = (torch.autograd.grad(7 * loss, student)[0] for loss in (plain, analytic))
    assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max()))


def test_gradcheck() -> None:
    student, teacher = maps()
    student.requires_grad_()
    for function in (pearson, norm_kl, cwd):
        assert torch.autograd.gradcheck(lambda s, f=function: f(s, teacher), (student,))


def test_teacher_gets_no_gradient() -> None:
    student, teacher = maps()
    student.requires_grad_()
    teacher.requires_grad_()
    for function in (pearson, norm_kl, cwd):
        function(student, teacher).backward()
    assert teacher.grad is None


def test_range_and_extremes() -> None:
    student, _ = maps()
    count = student.numel() // student.shape[1]
    assert float(pearson(student, student)) == 0
    assert float(pearson(student, -student)) == pytest.approx(2 * (count - 1) / count, rel=1e-4)


def test_positive_affine_map_of_a_channel_changes_nothing() -> None:
    student, teacher = maps()
    gain, offset = torch.tensor([0.3, 20.0]).view(1, 2, 1, 1), torch.tensor([-4.0, 9.0]).view(1, 2, 1, 1)
    assert float(pearson(student * gain + offset, teacher)) == pytest.approx(float(pearson(student, teacher)), rel=1e-5)
    assert float(pearson(student, teacher * gain + offset)) == pytest.approx(float(pearson(student, teacher)), rel=1e-5)


def test_correlation_is_pearsons() -> None:
    student, teacher = (torch.randn(2, 4, 6, 7) for _ in range(2))
    student = student + teacher
    loss, r = pearson_correlation(student, teacher)
    rows = [x.transpose(0, 1).flatten(1) for x in (student, teacher)]
    expected = torch.stack([torch.corrcoef(torch.stack([s, t]))[0, 1] for s, t in zip(*rows)]).mean()
    assert torch.allclose(r, expected, rtol=1e-5)
    assert torch.allclose(loss, (1 - expected) * 83 / 84, rtol=1e-4)


def test_large_mean_costs_no_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 8, 20, 24, generator=generator) for _ in range(2))
    far = [(x + 1000).requires_grad_() for x in (student, teacher)]
    exact = [x.detach().double().requires_grad_() for x in far]  # the same rounded values, wider arithmetic
    loss, expected = pearson(*far), pearson(*exact)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    found, true = torch.autograd.grad(loss, far[0])[0], torch.autograd.grad(expected, exact[0])[0]
    assert (found - true).abs().max() < 1e-5 * true.abs().max()


def test_a_small_loss_keeps_its_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(2, 8, 20, 24, generator=generator)
    student = teacher + 1e-2 * torch.randn(2, 8, 20, 24, generator=generator)
    expected = pearson(student.double(), teacher.double())
    assert float(pearson(student, teacher)) == pytest.approx(expected.item(), rel=1e-5)


def test_an_outlier_costs_no_precision() -> None:
    student, teacher = (torch.randn(2, 3, 16, 16) for _ in range(2))
    student[0, :, 2, 2] = 1e3
    assert float(pearson(student, teacher)) == pytest.approx(
        float(pearson(student.double(), teacher.double())), rel=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_and_autocast_compute_in_float32(dtype: torch.dtype) -> None:
    student, teacher = (torch.randn(2, 4, 8, 8).add(30).to(dtype) for _ in range(2))
    student.requires_grad_()
    expected = pearson(student.detach().float(), teacher.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = pearson(student, teacher)
        kl = norm_kl(student, teacher)
    assert loss.dtype == kl.dtype == torch.float32
    assert torch.equal(loss, expected)
    loss.backward()
    assert student.grad.dtype == dtype


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = (torch.randn(2, 7, 5, 6) for _ in range(2))
    student.requires_grad_()
    results = []
    for size in (1, 100, 1 << 20):
        monkeypatch.setattr("pkdzoo.losses.correlation.BLOCK", size)
        loss = pearson(student, teacher)
        results.append((loss.detach(), torch.autograd.grad(loss, student)[0]))
    for loss, grad in results[1:]:
        assert torch.allclose(loss, results[0][0], rtol=1e-6)
        assert torch.allclose(grad, results[0][1], rtol=1e-5, atol=1e-9)


def test_channels_last_is_the_same() -> None:
    student, teacher = (torch.randn(2, 7, 5, 6) for _ in range(2))
    last = student.to(memory_format=torch.channels_last).requires_grad_()
    loss = pearson(last, teacher)
    assert torch.allclose(loss, pearson(student, teacher), rtol=1e-6)
    loss.backward()
    assert last.grad.is_contiguous(memory_format=torch.channels_last)


def test_a_single_value_a_channel_is_no_variation() -> None:
    student = torch.randn(1, 3, 1, 1, requires_grad=True)
    loss = pearson(student, torch.randn(1, 3, 1, 1))
    loss.backward()
    assert loss.item() == 0
    assert (student.grad == 0).all()


def test_norm_kl_goes_to_pearson_as_the_temperature_grows() -> None:
    student, teacher = maps()
    student.requires_grad_()
    expected = pearson(student, teacher)
    errors = [abs((norm_kl(student, teacher, t) - expected).item()) for t in (10.0, 100.0, 1000.0)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-4
    a, b = (torch.autograd.grad(loss, student)[0] for loss in (expected, norm_kl(student, teacher, 1e4)))
    assert torch.allclose(a, b, atol=1e-4 * float(a.abs().max()))


def test_maps_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        pearson(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 4))
    with pytest.raises(ValueError, match="one shape"):
        cwd(torch.zeros(2, 3), torch.zeros(2, 3))


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    student, teacher = maps()
    student.requires_grad_()
    with pytest.raises(RuntimeError, match=r"gradient of PKD's loss .* leave create_graph=True out"):
        torch.autograd.grad(pearson(student, teacher), student, create_graph=True)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_without_a_break(backend: str) -> None:
    """Once, for maps that hardly agree; the program is right for those that nearly do as well."""
    compiled = torch.compile(pearson, backend=backend, fullgraph=True)
    for noise in (1.0, 1e-3):
        student, teacher = pair_of(noise)
        loss, expected = compiled(student, teacher), pearson(student, teacher)
        assert torch.allclose(loss, expected, rtol=1e-6)
        found, true = (torch.autograd.grad(each, student)[0] for each in (loss, expected))
        assert torch.allclose(found, true, rtol=1e-5, atol=1e-9)


def pair_of(noise: float) -> tuple[Tensor, Tensor]:
    """Two maps that agree up to it, the first with a gradient."""
    teacher = torch.randn(2, 7, 5, 6)
    return (teacher + noise * torch.randn(2, 7, 5, 6)).requires_grad_(), teacher


def test_maps_without_values_have_a_loss_and_a_gradient_of_the_right_shape() -> None:
    with FakeTensorMode():
        student, teacher = pair_of(1.0)
        loss, correlation = pearson_correlation(student, teacher)
        loss.backward()
    assert isinstance(loss, FakeTensor)
    assert loss.shape == correlation.shape == ()
    assert loss.dtype == torch.float32
    assert student.grad.shape == student.shape and student.grad.stride() == student.stride()


def test_a_program_made_of_maps_that_hardly_agree_is_right_for_those_that_do() -> None:
    def gradient(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        student = student.detach().requires_grad_()
        loss = pearson(student, teacher)
        return loss, torch.autograd.grad(loss, student)[0]

    program = make_fx(gradient, tracing_mode="symbolic")(*pair_of(1.0))
    near = pair_of(1e-3)
    for found, expected in zip(program(*near), gradient(*near)):
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("shape", [(2, 64, 50, 70), (1, 3, 1, 5), (3, 1, 4, 4)])
def test_pearson_does_not_depend_on_how_maps_lie_in_memory(shape: tuple[int, ...]) -> None:
    first, second = torch.randn(shape) + 5, torch.randn(shape)
    found = []
    for formats in (("contiguous", "contiguous"), ("channels_last", "channels_last"), ("channels_last", "contiguous")):
        layouts = [torch.channels_last if name == "channels_last" else torch.contiguous_format for name in formats]
        student = first.clone(memory_format=layouts[0]).requires_grad_()
        loss = pearson(student, second.clone(memory_format=layouts[1]))
        loss.backward()
        assert student.grad is not None and student.grad.stride() == student.stride()
        found.append((loss.detach(), student.grad))
    for loss, grad in found[1:]:
        assert torch.allclose(loss, found[0][0], rtol=1e-6)
        assert torch.allclose(grad, found[0][1], rtol=1e-5, atol=1e-6 * float(grad.abs().max()))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("noise", [3.0, 1.0, 0.4, 0.3, 0.25, 0.2, 0.03, 1e-3])
def test_near_and_far_the_loss_has_all_its_digits(noise: float, last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps that hardly agree are judged by their moments, those that nearly do by the sum of their differences."""
    sums: list[Any] = []
    affine = correlation._affine
    monkeypatch.setattr(correlation, "_affine", lambda *args: sums.append(args) or affine(*args))
    monkeypatch.setattr(correlation, "BLOCK", 2 * 2 * 60 * 90)  # two channels, or a few rows: three blocks or more
    draw = torch.Generator().manual_seed(0)
    student = torch.randn(2, 6, 60, 90, generator=draw) + 50
    # channels that are more and less alike side by side
    teacher = student + noise * torch.linspace(0.8, 1.2, 6)[:, None, None] * torch.randn(2, 6, 60, 90, generator=draw)
    wide = [m.double().transpose(0, 1).flatten(1) for m in (student, teacher)]
    normed = [(m - m.mean(1, keepdim=True)) / (m.std(1, keepdim=True) + EPS) for m in wide]
    exact = 0.5 * (normed[0] - normed[1]).square().mean()
    if last:
        student = student.contiguous(memory_format=torch.channels_last)
    assert float(pearson(student, teacher)) == pytest.approx(float(exact), rel=1e-6)
    if noise >= 1:
        assert not sums
    elif noise <= 0.2:  # in between it is some channels' blocks
        assert len(sums) >= 3
