"""Twenty steps of every family and method in half precision: losses stay finite and the teacher is imitated better."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.kd_reference import tiny_batch, tiny_detector
from helpers.published import every_recipe, is_published, narrowest

import pkdzoo
from pkdzoo.training import Optim
from pkdzoo.training.optim import build_optimizer

STEPS = 20
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
FAMILIES = (
    "retina_r50",
    "fcos_r50_caffe",
    "gfl_r50",
    "atss_r50",
    "tood_r50",
    "reppoints_r50",
    "faster_rcnn_r50",
    "rtmdet_s",
)


def narrow(name: str, seed: int = 0) -> pkdzoo.Detector:
    """The narrowest detector of a name's family, with random weights of a seed."""
    model, arguments = narrowest(name)
    return tiny_detector(model, seed, **arguments)


def train(distiller: pkdzoo.Distiller, device: torch.device, dtype: torch.dtype | None) -> list[dict[str, float]]:
    """Losses of each step on the same two images; gradients of fp16 are scaled, and steps that overflow are skipped."""
    distiller.to(device).train()
    batch = tiny_batch().to(device)
    optimizer = build_optimizer(distiller, Optim("adamw", lr=1e-3), 2)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    distiller.on_epoch_start(0, [batch])
    history = []
    for step in range(STEPS):
        distiller.set_progress(step, STEPS, 0, 1)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            losses = distiller(batch)
        scaler.scale(torch.stack(list(losses.values())).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        history.append({key: float(value.detach()) for key, value in losses.items()})
    return history


def check(history: list[dict[str, float]]) -> None:
    assert all(math.isfinite(value) for losses in history for value in losses.values()), history[-1]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled, channels last"])
@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_learns(name: str, precision: str, compiled: bool, device: torch.device, record: Any) -> None:
    if compiled and device.type == "cuda":
        torch.compiler.reset()
    student, teacher = narrow(name), narrow(name, seed=1)
    if compiled:
        student.to(memory_format=torch.channels_last)
        student.backbone.compile()
        student.neck.compile()
    history = train(pkdzoo.Distiller(student, teacher, {"pkd": {}}), device, HALF[precision])
    check(history)
    first, last = (sum(v for k, v in losses.items() if "pkd" in k) for losses in (history[0], history[-1]))
    record(first=first, last=last)
    assert last < first  # PKD's loss is 1 - r: the correlation rises


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("method", pkdzoo.list_methods())
def test_each_method_stays_finite(method: str, precision: str, device: torch.device) -> None:
    published = (recipe for _, recipe in every_recipe() if is_published(recipe) and recipe.distill is not None)
    recipe = next(recipe for recipe in published if method in recipe.distill.methods)
    assert recipe.distill is not None
    student, teacher = narrow(recipe.model), narrow(recipe.distill.teacher, seed=1)
    options = dict(recipe.distill.methods[method])
    history = train(pkdzoo.Distiller(student, teacher, {method: options}), device, HALF[precision])
    check(history)
    assert any(
        value > 0 for losses in history for key, value in losses.items() if method.split("_")[0] in key or "gk" in key
    )


def test_an_overflow_skips_the_step(device: torch.device) -> None:
    student = tiny_detector("fcos_r10w16").to(device)
    optimizer = build_optimizer(student, Optim("adamw", lr=1e-3), 2)
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**40)
    before = {key: value.clone() for key, value in student.state_dict().items()}
    with torch.autocast(device.type, torch.float16):
        losses = student.train()(tiny_batch().to(device))
    scaler.scale(torch.stack(list(losses.values())).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() < 2.0**40
    parameters = dict(student.named_parameters())
    assert all(torch.equal(before[key], value) for key, value in parameters.items())


def test_the_fused_optimizer_takes_the_same_step(device: torch.device, record: Callable[..., None]) -> None:
    moved = []
    for fused in (False, True):
        torch.manual_seed(0)
        student = tiny_detector("fcos_r10w16").to(device).train()
        trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, 1e-3, fused=fused)
        torch.stack(list(student(tiny_batch().to(device)).values())).sum().backward()
        optimizer.step()
        moved.append(torch.cat([parameter.detach().flatten() for parameter in trained]))
    difference = float((moved[0] - moved[1]).abs().max())
    record(difference=difference)
    assert difference < 1e-5
