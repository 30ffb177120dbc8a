"""The published distillation of RTMDet: equal to mmrazor's, its end, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.kd_reference import gradient_error, tiny_batch, tiny_detector
from helpers.reference import GOLDEN, batch_for, checkpoint, load, print_row, weight

import pkdzoo
from pkdzoo.distill.methods.norm_cwd import NormCWD
from pkdzoo.models.trace import Trace
from pkdzoo.structures import FeaturePyramid

PAIRS = {path.stem: path.stem.rpartition("__")[2].split("_") for path in sorted((GOLDEN / "kd").glob("norm_cwd__*"))}
FAST = ("norm_cwd__tiny_s",)


def loaded(name: str, size: str, seed: int, rules: dict[str, Any]) -> pkdzoo.Detector:
    """A detector with the weights of MMYOLO's file of its size, but for ``rules``."""
    twin, own = load(f"mmdet/rtmdet_{size}"), load(f"mmyolo/rtmdet_{size}")
    state = checkpoint(twin["state_dict"], seed, {**twin["rules"], **own["rules"], **rules})
    return pkdzoo.load_checkpoint(pkdzoo.create_detector(name), state)


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in PAIRS])
def test_equals_mmrazor(name: str) -> None:
    case, (small, large) = load(f"kd/{name}"), PAIRS[name]
    student = loaded(f"rtmdet_{small}_kd_{large}", small, case["student_seed"], {})
    teacher = loaded(f"rtmdet_{large}_yolo", large, case["teacher_seed"], case["rules_teacher"])
    distiller = pkdzoo.Distiller(student, teacher, {"norm_cwd": {}})
    connectors = [f"connectors.fpn{i}_s.conv_module.conv.weight" for i in range(3)]
    with torch.no_grad():
        for key, own in zip(connectors, distiller.connectors(), strict=True):
            own.copy_(torch.from_numpy(weight(f"distiller.{key}", case["distiller_state_dict"][key], 0)))
    losses = distiller(batch_for(student, case))
    expected = {
        "loss_cls": case["losses"]["student.loss_cls"],
        "loss_box": case["losses"]["student.loss_bbox"],
        "loss_norm_cwd": sum(case["losses"][f"distill.loss_fpn{i}"] for i in range(3)),
    }
    errors = {key: abs(float(losses[key].detach()) - value) / value for key, value in expected.items()}
    total = sum(losses.values())
    errors["total"] = abs(float(total.detach()) - case["total"]) / case["total"]
    total.backward()
    norms = case["grad_norms"]
    own_norms = {k.removeprefix("architecture."): v for k, v in norms.items() if k.startswith("architecture.")}
    errors["gradients"] = gradient_error(student, own_norms)
    for key, own in zip(connectors, distiller.connectors(), strict=True):
        (norm,) = [value for wanted_key, value in norms.items() if wanted_key.endswith(key)]
        errors["gradients"] = max(errors["gradients"], abs(float(own.grad.norm()) - norm) / norm)
    print_row(name, errors)
    assert errors.pop("gradients") < 2e-3
    assert max(errors.values()) < 1e-4, errors
    assert all(p.grad is None for p in teacher.parameters())


def test_gain_and_offset_of_a_channel_do_not_matter() -> None:
    student, teacher = tiny_detector("gfl_r10w16"), tiny_detector("gfl_r10w16", seed=1)
    method = NormCWD(student, teacher)
    batch = tiny_batch()
    with torch.no_grad():
        traces = [model.trace(batch, "features") for model in (student, teacher)]
        plain = method(*traces, batch)["loss_norm_cwd"]
        changed = [3 * x + 5 for x in traces[1].features.before_norm]
        scaled = Trace(teacher, FeaturePyramid(traces[1].features.levels, traces[1].features.strides, changed))
        assert torch.allclose(method(traces[0], scaled, batch)["loss_norm_cwd"], plain, rtol=1e-3)
        assert plain > 0


def test_it_ends_with_its_last_epoch_and_connectors_still_get_a_gradient() -> None:
    student, teacher = tiny_detector("gfl_r10w16"), tiny_detector("gfl_r10w16", seed=1)
    distiller = pkdzoo.Distiller(student, teacher, {"norm_cwd": {"stop_epoch": 5}})
    for epoch, runs in ((0, True), (4, True), (5, False), (6, False)):
        distiller.set_progress(epoch=epoch, epochs=8)
        distiller.zero_grad()
        loss = distiller(tiny_batch())["loss_norm_cwd"]
        assert (float(loss.detach()) > 0) == runs
        loss.backward()
        gradients = [p.grad for p in distiller.connectors()]
        assert all(gradient is not None for gradient in gradients)
        assert any(gradient.abs().sum() > 0 for gradient in gradients) == runs


def test_published_epochs() -> None:
    assert pkdzoo.distill.method_options("norm_cwd")["stop_epoch"] == 280


def test_a_pyramid_of_three_levels_meets_one_of_five() -> None:
    student = tiny_detector("rtmdet_tiny", width=0.125)
    method = NormCWD(student, tiny_detector("gfl_r10w16"))
    assert method.pairs.levels == [(0, 0), (1, 1), (2, 2)]
    assert [tuple(p.weight.shape) for p in method.pairs.projections] == [(64, 32, 1, 1)] * 3


def test_necks_without_these_maps_and_folded_norms_are_refused() -> None:
    student = tiny_detector("gfl_r10w16")
    net = torch.nn.Conv2d(3, 64, 8, stride=8)
    teacher = pkdzoo.Teacher(net, lambda net, images: [net(images)], [0.5] * 3, [0.5] * 3)
    with pytest.raises(ValueError, match="which Conv2d does not give"):
        NormCWD(student, teacher)
    with pytest.raises(ValueError, match="leave out optimize"):
        NormCWD(student, tiny_detector("rtmdet_tiny", width=0.125).optimize())
