"""Parameter groups and learning rates, against hand-drawn cases and mmengine's documented counting."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pkdzoo import create_detector
from pkdzoo.training.compute import synchronize_norms
from pkdzoo.training.optim import build_average, build_optimizer, build_schedule, lr_factor, param_groups, planned_steps
from pkdzoo.training.recipe import Optim, Schedule, Warmup
from pkdzoo.training.schedules import RTMDET_OPTIM


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.norm = nn.GroupNorm(2, 8)
        self.twin = self.conv
        self.still = nn.Linear(2, 2).requires_grad_(False)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(4))


def settings(model: nn.Module, optim: Optim) -> dict[str, tuple[float, float]]:
    """(lr, weight decay) by parameter name."""
    names = {id(p): n for n, p in model.named_parameters()}
    return {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in param_groups(model, optim, optim.lr)
        for p in group["params"]
    }


def test_bias_factors_leave_norm_biases_alone() -> None:
    found = settings(Toy(), Optim(lr=0.1, weight_decay=0.2, bias_lr_mult=2.0, bias_decay_mult=0.0))
    assert found == {
        "conv.weight": (0.1, 0.2),
        "conv.bias": (0.2, 0.0),
        "norm.weight": (0.1, 0.2),
        "norm.bias": (0.1, 0.2),
        "relative_position_bias_table": (0.1, 0.2),
    }


def test_norms_and_named_parameters_without_decay() -> None:
    found = settings(Toy(), Optim(lr=0.1, weight_decay=0.2, norm_decay_mult=0.0, no_decay=("position_bias",)))
    assert found["norm.weight"] == found["norm.bias"] == (0.1, 0.0)
    assert found["relative_position_bias_table"] == (0.1, 0.0)
    assert found["conv.bias"] == (0.1, 0.2)


def test_synchronized_norms_have_the_settings_of_norms() -> None:
    model = create_detector("rtmdet_w12")
    before = settings(model, RTMDET_OPTIM)
    synchronize_norms(model)
    assert any(isinstance(layer, nn.SyncBatchNorm) for layer in model.modules())
    assert settings(model, RTMDET_OPTIM) == before
    assert {decay for _, decay in before.values()} == {0.0, 0.05}


def test_every_trainable_parameter_of_a_detector_is_in_one_group() -> None:
    model = create_detector("retina_r10w16", frozen_stages=1)
    inside = [id(p) for g in param_groups(model, Optim(bias_lr_mult=2.0), 0.1) for p in g["params"]]
    assert sorted(inside) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert len(inside) < len(list(model.parameters()))


def test_nothing_to_learn_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to train"):
        param_groups(nn.Linear(1, 1).requires_grad_(False), Optim(), 0.1)


def test_kinds_and_linear_scaling() -> None:
    model = nn.Linear(2, 2)
    sgd = build_optimizer(model, Optim(lr=0.02, base_batch_size=16, scale_lr=True), batch=8)
    assert isinstance(sgd, torch.optim.SGD) and sgd.param_groups[0]["lr"] == 0.01
    assert build_optimizer(model, Optim(lr=0.02, base_batch_size=16), batch=8).param_groups[0]["lr"] == 0.02
    adamw = build_optimizer(model, Optim("adamw", lr=1e-4, betas=(0.8, 0.9), weight_decay=0.05), batch=16)
    assert isinstance(adamw, torch.optim.AdamW) and adamw.param_groups[0]["betas"] == (0.8, 0.9)


def test_linear_warmup_reaches_the_full_rate_at_its_last_step() -> None:
    factor = lr_factor(Schedule(milestones=(8, 11), warmup=Warmup("linear", 0.001, 500)), 1000)
    assert factor(0) == pytest.approx(0.001)
    assert factor(1) == pytest.approx(0.001 + 0.999 / 499)
    assert factor(498) < 1.0
    assert factor(499) == factor(7999) == 1.0
    assert factor(8000) == pytest.approx(0.1) and factor(11000) == pytest.approx(0.01)


def test_constant_warmup_jumps() -> None:
    factor = lr_factor(Schedule(milestones=(), warmup=Warmup("constant", 1 / 3, 500)), 10)
    assert [factor(s) for s in (0, 250, 498)] == pytest.approx([1 / 3] * 3)
    assert factor(499) == 1.0


def test_without_warmup_and_with_fractions_of_an_epoch() -> None:
    factor = lr_factor(Schedule(milestones=(1.5,), gamma=0.5, warmup=None), 5)
    assert [factor(s) for s in (0, 7, 8)] == [1.0, 1.0, 0.5]
    assert lr_factor(Schedule(milestones=(), warmup=Warmup(steps=1)), 5)(0) == 1.0


def test_cosine_falls_to_zero_over_the_whole_run() -> None:
    schedule = Schedule(epochs=10, milestones=(1,), warmup=Warmup("linear", 0.1, 11), decay="cosine")
    factor = lr_factor(schedule, 10)
    assert factor(0) == pytest.approx(0.1)
    assert [factor(s) for s in (50, 100, 1000)] == pytest.approx([0.5, 0.0, 0.0])
    assert factor(25) == pytest.approx((1 + 0.5**0.5) / 2)


def test_rtmdets_rate_is_flat_for_half_of_the_run_and_ends_above_zero() -> None:
    schedule = Schedule(epochs=300, warmup=Warmup("linear", 1e-5, 1000), decay="flat_cosine", final=0.05)
    factor = lr_factor(schedule, 100)
    assert factor(0) == pytest.approx(1e-5)
    assert factor(999) == factor(14_999) == factor(15_000) == 1.0
    assert factor(22_500) == pytest.approx((1 + 0.05) / 2)
    assert factor(30_000) == pytest.approx(0.05)


def test_the_average_begins_close_to_the_student() -> None:
    student = create_detector("rtmdet_tiny", width=0.0625, depth=0.167, num_classes=2)
    average = build_average(student, 0.9998, warmup=2000)
    assert average is not None and build_average(student, None) is None
    weight, kept = student.head.cls[0].weight, average.module.head.cls[0].weight
    norm = next(m for m in student.modules() if isinstance(m, nn.BatchNorm2d))
    averaged_norm = next(m for m in average.module.modules() if isinstance(m, nn.BatchNorm2d))
    expected = None
    for step in range(4):
        with torch.no_grad():
            weight.fill_(float(step))
            norm.running_mean.fill_(10.0 * step)
            norm.num_batches_tracked.fill_(step)
        average.update_parameters(student)
        share = 1 - 0.9998 + 0.9998 * math.exp(-(1 + step) / 2000)
        expected = float(step) if expected is None else expected + share * (step - expected)  # the first is a copy
    assert float(kept[0, 0, 0, 0]) == pytest.approx(expected)
    assert float(averaged_norm.running_mean[0]) == pytest.approx(10 * expected)
    assert int(averaged_norm.num_batches_tracked) == 3


def test_shared_convolutions_are_optimized_once() -> None:
    model = create_detector("rtmdet_tiny", width=0.0625, depth=0.167, num_classes=2)
    optim = Optim("adamw", weight_decay=0.05, bias_decay_mult=0.0, norm_decay_mult=0.0)
    groups = param_groups(model, optim, 0.004)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(listed) == len(set(listed)) == len(list(model.parameters()))
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    assert decayed == {id(parameter) for parameter in model.parameters() if parameter.ndim > 1}


def test_schedule_moves_every_group_by_its_own_rate() -> None:
    optimizer = build_optimizer(Toy(), Optim(lr=0.1, bias_lr_mult=2.0), 16)
    schedule = build_schedule(optimizer, Schedule(milestones=(1,), warmup=None), steps_per_epoch=2)
    rates = []
    for _ in range(3):
        rates.append({g["lr"] for g in optimizer.param_groups})
        optimizer.step()
        schedule.step()
    assert rates[:2] == [{0.1, 0.2}] * 2
    assert sorted(rates[2]) == pytest.approx([0.01, 0.02])


def test_planned_steps() -> None:
    assert planned_steps(Schedule(epochs=3), 10) == 30
    assert planned_steps(Schedule(epochs=3, max_steps=7), 10) == 7
    assert planned_steps(Schedule(epochs=3, max_steps=70), 10) == 30
