"""Tensors of the distillation references, and small detectors to distill between."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pkdzoo
from helpers.reference import load, uniform
from pkdzoo.checkpoints import to_our_keys

PKD: dict[str, dict[str, Any]] = {case["name"]: case for case in load("kd/pkd_loss")["cases"]}


def pkd_pyramids(case: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Student's and teacher's maps of one case, finest level first."""
    name = case["name"]
    student = [torch.from_numpy(uniform(f"pkd.{name}.s{i}", s) * 3 + 1) for i, s in enumerate(case["student_shapes"])]
    teacher = [torch.from_numpy(uniform(f"pkd.{name}.t{i}", s) * 0.2 - 5) for i, s in enumerate(case["teacher_shapes"])]
    if name == "one dead channel":
        student[0][:, 1] = 0.25
        teacher[0][:, 2] = -3.0
    return student, teacher


def sampled_error(found: Tensor | None, figures: dict[str, Any]) -> float:
    """Largest difference at the sampled places, relative to the reference's largest value."""
    assert found is not None
    assert list(found.shape) == figures["shape"]
    expected = torch.tensor(figures["value"])
    return float((found.flatten()[torch.tensor(figures["index"])] - expected).abs().max() / figures["abs_max"])


def mgd_draws(name: str, seed: int = 0) -> Callable[[int, tuple[int, ...]], Tensor]:
    """The random numbers of MGD's references, 0..1, as the method's ``draws``."""
    return lambda level, shape: mgd_numbers(f"{name}.{level}", shape, seed)


def mgd_numbers(name: str, shape: Sequence[int], seed: int = 0) -> Tensor:
    """float32 numbers of 0..1 for one mask of MGD's references."""
    noise = uniform(name, tuple(shape), seed).astype(np.float64)
    return torch.from_numpy(((noise / math.sqrt(3.0) + 1) / 2).astype(np.float32))


def tiny_detector(name: str = "retina_r10w16", seed: int = 0, **args: Any) -> pkdzoo.Detector:
    """A small detector with random weights of a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return pkdzoo.create_detector(name, num_classes=3, **args)


def tiny_batch(size: tuple[int, int] = (96, 128), seed: int = 0) -> pkdzoo.Batch:
    """Two noisy images, the second one smaller than the padding, with three objects and one."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    images = torch.rand(2, 3, height, width, generator=generator) * 255
    boxes = torch.tensor([[8.0, 8.0, 60.0, 50.0], [40.0, 30.0, 100.0, 90.0], [10.0, 60.0, 30.0, 80.0]])
    objects = [
        pkdzoo.Instances(boxes, torch.tensor([0, 1, 2])),
        pkdzoo.Instances(boxes[:1], torch.tensor([1])),
    ]
    return pkdzoo.Batch(images, [size, (height - 16, width - 40)], objects)


def depths_of(table: dict[str, list[int]], other: dict[str, list[int]]) -> dict[str, list[int]]:
    """A table of shapes with backbone and laterals of another."""
    shared = ("backbone.", "neck.lateral_convs.")
    rest = {key: shape for key, shape in table.items() if not key.startswith(shared)}
    return {**{key: shape for key, shape in other.items() if key.startswith(shared)}, **rest}


def gradient_error(model: pkdzoo.Detector, expected: dict[str, float]) -> float:
    """Largest relative difference of a parameter's gradient norm; tiny norms count relative to the largest."""
    parameters = dict(model.named_parameters())
    ours = {key: next(iter(to_our_keys({key: torch.zeros(())}, model.key_rules))) for key in expected}
    assert {key for key, p in parameters.items() if p.requires_grad} == set(ours.values())
    floor = 1e-6 * max(expected.values())
    errors = []
    for key, norm in expected.items():
        grad = parameters[ours[key]].grad
        assert grad is not None, key
        errors.append(max(abs(float(grad.norm()) - norm) - floor, 0) / max(norm, floor))
    return max(errors)
