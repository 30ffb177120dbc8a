"""The options by which pyramids that differ are compared: ``adapter``, ``where``, ``levels`` and ``stop_epoch``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.kd_reference import tiny_batch, tiny_detector
from torch import nn

import pkdzoo
from pkdzoo.distill import PyramidPairs
from pkdzoo.distill.pairing import PyramidShape
from pkdzoo.training import load_recipe

FEATURE_METHODS = ("pkd", "cwd", "norm_kl", "mse", "gt_mask", "fgd", "mgd")
DENSE_METHODS = {"frs": {"normalize": True}, "rank_mimic": {}}
WITH_BACKBONE = ("pkd", "cwd", "norm_kl", "mse", "gt_mask", "fgd")


def pair(width: int = 32) -> tuple[pkdzoo.Detector, pkdzoo.Detector]:
    return tiny_detector("gfl_r10w16"), tiny_detector("gfl_r10w16", seed=1, width=width)


@pytest.mark.parametrize("name", [*FEATURE_METHODS, *DENSE_METHODS])
def test_different_widths_need_an_adapter_and_learn_with_it(name: str) -> None:
    options: dict[str, Any] = DENSE_METHODS.get(name, {})
    with pytest.raises(ValueError, match="adapter=True"):
        pkdzoo.Distiller(*pair(), {name: {**options, "adapter": False}})
    student, teacher = pair()
    distiller = pkdzoo.Distiller(student, teacher, {name: {**options, "adapter": True}})
    losses = distiller(tiny_batch())
    sum(value for key, value in losses.items() if name in key or key == "loss_prediction_guided").backward()
    projections = distiller.methods[name].pairs.projections
    assert all(isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) for layer in projections)
    # not the coarsest: a distribution over the single location of its map teaches nothing
    assert all(layer.weight.grad.abs().sum() > 0 for layer in projections[:3])
    assert student.backbone.conv1.weight.grad is not None
    assert not any("methods" in key for key in student.state_dict())


@pytest.mark.parametrize("name", ["pkd", "cwd", "norm_kl", "mse", "fgd"])
def test_kinds_of_adapters(name: str) -> None:
    student, teacher = pair(width=64)
    kinds = {
        value: [type(layer) for layer in build.pairs.projections]
        for value in (False, True, "conv", "conv_norm")
        for build in [pkdzoo.Distiller(student, teacher, {name: {"adapter": value}}).methods[name]]
    }
    assert set(kinds[False]) == set(kinds[True]) == {nn.Identity}
    assert set(kinds["conv"]) == {nn.Conv2d} and set(kinds["conv_norm"]) == {nn.Sequential}
    with pytest.raises(ValueError, match="adapter='linear': write one of False, True, 'conv', 'conv_norm'"):
        pkdzoo.Distiller(student, teacher, {name: {"adapter": "linear"}})


def test_an_adapter_with_a_norm_projects_before_it() -> None:
    student, teacher = pair()
    pairs = PyramidPairs(student, teacher, 2, adapter="conv_norm")
    batch = tiny_batch()
    maps = pairs(student.extract_features(batch), teacher.extract_features(batch))
    assert [m.student.shape[1] for m in maps] == [32, 32]
    expected = pairs.projections[0][1](pairs.projections[0][0](student.extract_features(batch).levels[0]))
    assert torch.equal(maps[0].student, expected)


@pytest.mark.parametrize("name", WITH_BACKBONE)
def test_backbones_teach(name: str) -> None:
    student, teacher = tiny_detector("gfl_r10w16"), tiny_detector("fcos_r10w16", seed=1, width=32)
    distiller = pkdzoo.Distiller(student, teacher, {name: {"where": "backbone"}})
    assert distiller.methods[name].pairs.strides == ((4, 8, 16, 32),) * 2
    loss = distiller(tiny_batch())
    sum(value for key, value in loss.items() if name in key).backward()
    assert student.backbone.conv1.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in student.neck.parameters())


def test_maps_of_the_backbone_are_those_that_the_neck_was_given() -> None:
    model, batch = tiny_detector("gfl_r10w16").eval(), tiny_batch()
    given = model.backbone(model.normalize(batch))
    features = model.extract_features(batch)
    assert all(torch.equal(a, b) for a, b in zip(features.backbone, given, strict=True))
    assert len(features.to("cpu").backbone) == 4


def test_detectors_without_maps_of_a_backbone_are_refused() -> None:
    net = nn.Conv2d(3, 64, 8, stride=8)
    teacher = pkdzoo.Teacher(net, lambda net, images: [net(images)], [0.5] * 3, [0.5] * 3)
    with pytest.raises(ValueError, match='Conv2d does not give maps of its backbone; write where="neck"'):
        pkdzoo.Distiller(tiny_detector(), teacher, {"pkd": {"where": "backbone"}})
    with pytest.raises(ValueError, match="'neck', 'backbone', 'before_norm'"):
        pkdzoo.Distiller(*pair(), {"pkd": {"where": "head"}})


def test_pkd_compares_maps_before_the_last_norm() -> None:
    student = tiny_detector("rtmdet_tiny", width=0.125)
    teacher = tiny_detector("rtmdet_tiny", seed=1, width=0.25)
    distiller = pkdzoo.Distiller(student, teacher, {"pkd": {"where": "before_norm", "adapter": True}})
    batch = tiny_batch()
    traces = [model.trace(batch, "features") for model in (student.eval(), teacher.eval())]
    for trace in traces:  # a random network's own are too small to be told from rounding
        trace.features.before_norm[:] = [torch.randn_like(x) for x in trace.features.before_norm]
    method = distiller.methods["pkd"]
    plain = method(*traces, batch)["loss_pkd"]
    traces[1].features.before_norm[:] = [3 * x + 5 for x in traces[1].features.before_norm]
    torch.testing.assert_close(method(*traces, batch)["loss_pkd"], plain, rtol=1e-3, atol=1e-5)
    traces[1].features.before_norm[:] = [x.flip(-1) for x in traces[1].features.before_norm]
    assert abs(float((method(*traces, batch)["loss_pkd"] - plain).detach())) > 1e-3


@pytest.mark.parametrize("adapter", [False, "conv"])
def test_pkd_ends_with_its_last_epoch(adapter: Any) -> None:
    distiller = pkdzoo.Distiller(*pair(64), {"pkd": {"stop_epoch": 2, "adapter": adapter}})
    for epoch, runs in ((0, True), (1, True), (2, False)):
        distiller.set_progress(epoch=epoch, epochs=3)
        distiller.zero_grad()
        loss = distiller(tiny_batch())["loss_pkd"]
        assert (float(loss.detach()) > 0) == runs == bool(distiller.logs)
        if adapter or runs:
            loss.backward()
        assert all(p.grad is not None for p in distiller.connectors())
        assert any(p.grad.abs().sum() > 0 for p in distiller.connectors()) == bool(runs and adapter)


def test_an_ended_loss_is_zero_whatever_its_connectors_hold() -> None:
    distiller = pkdzoo.Distiller(*pair(), {"pkd": {"stop_epoch": 0, "adapter": True}})
    with torch.no_grad():
        distiller.connectors()[0].fill_(torch.inf)
    assert float(distiller(tiny_batch())["loss_pkd"].detach()) == 0


def test_levels_default_to_what_both_have() -> None:
    three, five = tiny_detector("rtmdet_tiny", width=0.125), tiny_detector("gfl_r10w16")
    for student, teacher, count in ((three, five, 3), (five, three, 3), (five, tiny_detector(), 4)):
        method = pkdzoo.Distiller(student, teacher, {"pkd": {"adapter": True}}).methods["pkd"]
        assert method.paired_levels == [(i, i) for i in range(count)]
    method = pkdzoo.Distiller(five, three, {"mgd": {"adapter": True}}).methods["mgd"]
    assert method.paired_levels == [(0, 0), (1, 1), (2, 2)]


class Flat(nn.Module):
    """One map of stride 16."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 48, 16, stride=16)


def test_a_single_map_teaches_the_level_of_its_stride() -> None:
    teacher = pkdzoo.Teacher(Flat(), lambda net, images: [net.conv(images)], [0.5] * 3, [0.5] * 3)
    assert teacher.pyramid_shape == PyramidShape((48,), (16,))
    method = pkdzoo.Distiller(tiny_detector(), teacher, {"pkd": {"adapter": True, "pair": "stride"}}).methods["pkd"]
    assert method.paired_levels == [(1, 0)]


@pytest.mark.parametrize("sizes", ["tiny_{}_s", "s_{}_m", "m_{}_l", "l_{}_x"])
def test_the_pkd_twins_of_rtmdet_differ_in_their_loss_alone(sizes: str) -> None:
    published, twin = (load_recipe(f"rtmdet_{sizes.format(kind)}").to_dict() for kind in ("kd", "pkd"))
    differ = {key for key in published if published[key] != twin[key]}
    assert differ == {"name", "distill", "expect", "note"} and not twin["expect"]
    differ = {key for key in published["distill"] if published["distill"][key] != twin["distill"][key]}
    assert differ == {"methods"}
    assert twin["distill"]["methods"] == {"pkd": {"where": "before_norm", "adapter": True, "stop_epoch": 280}}
