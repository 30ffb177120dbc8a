"""What is counted before the first step, against what the allocator says of a real one and against counted sizes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import pkdzoo
from pkdzoo.models._zoo_index import INDEX
from pkdzoo.structures import Batch
from pkdzoo.training import compute
from pkdzoo.training.cost_estimate import dry_pass, estimate_cost, estimate_memory, gray


def test_the_dry_pass_changes_nothing() -> None:
    model = pkdzoo.create_detector("retina_r10w16", num_classes=2, norm="bn").train()
    model.backbone.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    dry_pass(model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_dry_pass_sees_broken_weights() -> None:
    model = pkdzoo.create_detector("retina_r10w16", num_classes=2)
    torch.nn.init.constant_(model.head.cls.bias, math.nan)
    with pytest.raises(ValueError, match="loss_cls is not finite"):
        dry_pass(model)


def test_nothing_is_left_of_a_pass_that_fails() -> None:
    model = pkdzoo.create_detector("retina_r10w16", num_classes=2).train()
    weight = model.head.cls.weight
    model.head.cls = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match="a pass over a small gray image failed"):
        dry_pass(model)
    assert model.training and weight.grad is None


@pytest.mark.parametrize("name", ["retina_r10w16", "reppoints_r10w16"])
def test_multiply_adds_are_those_of_the_zoo(name) -> None:
    """Of an image of 1333 x 800, extrapolated from images of 128 and 256 pixels: within a hundredth."""
    cost = estimate_cost(pkdzoo.create_detector(name), (800, 1344), 1)
    assert cost.forward / 1e9 == pytest.approx(INDEX[name].gflops, rel=0.01)
    assert cost.total == pytest.approx(3 * cost.forward, rel=0.1)  # backward: once for weights, once for maps


def test_a_teachers_multiply_adds_are_in_it_once() -> None:
    student, teacher = pkdzoo.create_detector("retina_r10w16"), pkdzoo.create_detector("fcos_r18w24")
    alone = estimate_cost(student, (320, 480), 2)
    both = estimate_cost(pkdzoo.Distiller(student, teacher, {"pkd": {}}), (320, 480), 2)
    assert both.total - alone.total == pytest.approx(both.forward - alone.forward, rel=0.01)  # it has no backward pass
    assert both.forward > 1.2 * alone.forward


def peak_of_a_step(task: nn.Module, batch: Batch, precision: torch.dtype | None) -> int:
    """Bytes that the allocator handed out at most during a step: everything but weights and momentum."""
    optimizer = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], lr=1e-6, momentum=0.9)
    task.train()
    for _ in range(2):  # the first one makes the momentum
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
        ) as profile:
            with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
                losses = task(batch)
            torch.stack([value.float() for value in losses.values()]).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def plain(name: str, **kwargs: object) -> nn.Module:
    return pkdzoo.create_detector(name, num_classes=6, **kwargs)


def distilled() -> nn.Module:
    return pkdzoo.Distiller(plain("retina_r10w16"), plain("fcos_r18w24"), {"pkd": {}})


def recomputed() -> nn.Module:
    model = pkdzoo.create_detector("retina_r18", num_classes=6, norm="gn", frozen_stages=0)
    compute.apply_options(model, channels_last=False, checkpoint_activations=True)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(("make", "precision"), [
    (lambda: plain("retina_r10w16"), None),
    (lambda: plain("faster_rcnn_r10w16"), None),
    (lambda: plain("gfl_r10w16"), torch.bfloat16),
    (distilled, None),
    (recomputed, None),
], ids=["plain", "two-stage", "bf16", "distilled", "recomputed"])  # fmt: skip
def test_memory_is_what_the_allocator_says(make: Callable[[], nn.Module], precision) -> None:
    """A pass over two images of 480 x 320, extrapolated from smaller ones, against a real step: a tenth off at most.

    Gradients may come when maps have gone already: the peak lies between maps alone and both.
    """
    torch.manual_seed(0)
    task = make()
    autocast = None if precision is None else torch.autocast("cpu", precision)
    cost = estimate_cost(task, (320, 480), 2, autocast)
    estimate = estimate_memory(task, task, cost.memory, "sgd", False, processes=1)
    objects = gray(2, 320, torch.device("cpu")).instances
    batch = Batch(torch.rand(2, 3, 320, 480) * 255, [(320, 480)] * 2, objects)
    peak = peak_of_a_step(task, batch, precision)
    megabytes = [round(value / 1e6, 1) for value in (estimate.maps, estimate.gradients, peak)]
    print("estimated maps, estimated gradients, measured peak in MB:", *megabytes)
    assert 0.9 * estimate.maps <= peak <= 1.1 * (estimate.maps + estimate.gradients)


def test_what_has_to_be_in_memory_at_once() -> None:
    student, teacher = nn.Linear(10, 9, bias=False), plain("fcos_r10w16")
    weights = sum(p.numel() * 4 for p in (*teacher.parameters(), *teacher.buffers()))
    task = nn.Module()
    task.student = student
    object.__setattr__(task, "teacher", teacher)
    few = estimate_memory(task, student, 7.0, "sgd", False, 1)
    assert (few.weights, few.gradients, few.optimizer, few.average, few.maps) == (360, 360, 360, 0, 7)
    assert few.teacher == pytest.approx(weights, rel=1e-3) and few.total == few.teacher + 3 * 360 + 7
    many = estimate_memory(task, student, 7.0, "adamw", True, 2)
    assert (many.gradients, many.optimizer, many.average) == (720, 720, 360)
