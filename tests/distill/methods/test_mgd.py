"""MGD equals mmrazor's connector and loss, masks what it says, and refuses what it can't work with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.kd_reference import mgd_numbers, sampled_error, tiny_batch, tiny_detector
from helpers.reference import load, uniform, weight
from torch import nn

import pkdzoo
from pkdzoo.distill.methods.mgd import MGD
from pkdzoo.models.trace import Trace
from pkdzoo.structures import FeaturePyramid

CASES: dict[str, dict[str, Any]] = {case["name"]: case for case in load("kd/mgd_loss")["cases"]}


class Maps(pkdzoo.Detector):
    """A detector that is nothing but the number of channels of its only map."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Identity(), nn.Identity(), 1)
        self.neck.width, self.neck.strides = channels, (8,)


@pytest.mark.parametrize("name", CASES)
def test_equals_mmrazor(name: str) -> None:
    case = CASES[name]
    detectors = [Maps(case[f"{who}_shape"][1]) for who in ("student", "teacher")]
    numbers = mgd_numbers(f"mgd.{name}.mask", case["mask_shape"])
    method = MGD(
        *detectors, case["alpha"], case["lambda"], levels=1, mask_channels=case["mask_on_channel"], draws=[numbers]
    )
    layers = {"generation.0": method.restorations[0][0], "generation.2": method.restorations[0][2]}
    if "align.weight" in case["state_dict"]:
        layers["align"] = method.pairs.projections[0]
    parameters = {f"{layer}.{key}": p for layer, module in layers.items() for key, p in module.named_parameters()}
    assert set(parameters) == set(case["state_dict"])
    for key, parameter in parameters.items():
        parameter.data.copy_(torch.from_numpy(weight(f"mgd.{name}.{key}", case["state_dict"][key])))
    maps = [torch.from_numpy(uniform(f"mgd.{name}.{who[0]}", case[f"{who}_shape"])) for who in ("student", "teacher")]
    maps[0].requires_grad_()
    traces = [Trace(model, FeaturePyramid([x], (8,))) for model, x in zip(detectors, maps)]
    assert int(method.mask(0, maps[1]).sum()) == case["kept"]
    loss = method(*traces, tiny_batch())["loss_mgd"]
    assert float(loss.detach()) == pytest.approx(case["loss"], rel=1e-5)
    loss.backward()
    assert sampled_error(maps[0].grad, case["grad"]) < 1e-4
    for key, parameter in parameters.items():
        assert float(parameter.grad.norm()) == pytest.approx(case["grad_norms"][key], rel=1e-4), key


def test_published_settings_by_kind_of_student() -> None:
    dense = MGD(tiny_detector("gfl_r10w16"), tiny_detector("faster_rcnn_r10w16"))
    regions = MGD(tiny_detector("faster_rcnn_r10w16"), tiny_detector("gfl_r10w16"))
    assert (dense.weight, dense.masked, len(dense.pairs)) == (2e-5, 0.65, 5)
    assert (regions.weight, regions.masked, len(regions.pairs)) == (5e-7, 0.45, 4)


def test_the_share_of_masked_locations() -> None:
    method = MGD(tiny_detector(), tiny_detector(seed=1), masked=0.65)
    maps = torch.ones(4, 64, 50, 50)
    mask = method.mask(0, maps)
    assert mask.shape == (4, 1, 50, 50) and set(mask.unique().tolist()) == {0.0, 1.0}
    assert float(mask.mean()) == pytest.approx(0.35, abs=0.02)
    assert not torch.equal(mask, method.mask(0, maps))  # drawn anew
    assert MGD(tiny_detector(), tiny_detector(seed=1), mask_channels=True).mask(0, maps).shape == (4, 64, 1, 1)


def test_maps_are_those_before_the_necks_norm() -> None:
    student, teacher = (tiny_detector("retina_r10w16", seed=i, neck_norm="gn") for i in range(2))
    batch, keep_all = tiny_batch(), lambda level, shape: torch.zeros(shape)
    with torch.no_grad():
        traces = [model.trace(batch, "features") for model in (student, teacher)]
        found, of_output = (
            MGD(student, teacher, levels=1, before_norm=before, draws=keep_all) for before in (True, False)
        )
        of_output.load_state_dict(found.state_dict())
        losses = [float(method(*traces, batch)["loss_mgd"]) for method in (found, of_output)]
        convs = [model.neck.output[0] for model in (student, teacher)]
        for features, conv in zip([t.features for t in traces], convs):
            assert torch.equal(conv.norm(features.before_norm[0]), features.levels[0])
        raw = [t.features.before_norm[0] for t in traces]
        expected = 2e-5 * float((found.restorations[0](raw[0]) - raw[1]).square().sum()) / 2
    assert losses[0] == pytest.approx(expected, rel=1e-4) and losses[1] != pytest.approx(expected, rel=1e-2)


def test_a_folded_neck_is_refused_where_its_maps_before_the_norm_are_compared() -> None:
    student, teacher = (tiny_detector("rtmdet_tiny", seed=i, width=0.125) for i in range(2))
    teacher.optimize()
    with pytest.raises(ValueError, match=r"the norms of rtmdet_tiny are folded: leave out optimize\(\)"):
        pkdzoo.Distiller(student, teacher, {"mgd": {}})
    pkdzoo.Distiller(student, teacher, {"mgd": {"before_norm": False}})


def test_bad_options_are_refused() -> None:
    pair = tiny_detector(), tiny_detector(seed=1)
    with pytest.raises(ValueError, match=r"masked=1\.5: write the share"):
        pkdzoo.Distiller(*pair, {"mgd": {"masked": 1.5}})
    with pytest.raises(ValueError, match="levels=6, but by index only 5 can be paired"):
        pkdzoo.Distiller(*pair, {"mgd": {"levels": 6}})
    with pytest.raises(ValueError, match="draws holds 2 tensors: write one for each of the 5 levels"):
        pkdzoo.Distiller(*pair, {"mgd": {"draws": [torch.zeros(1), torch.zeros(1)]}})
    distiller = pkdzoo.Distiller(*pair, {"mgd": {"draws": [torch.zeros(2, 1, 3, 3)] * 5}})
    with pytest.raises(ValueError, match=r"draws of level 0 are of shape \(2, 1, 3, 3\), write \(2, 1, 12, 16\)"):
        distiller(tiny_batch())
