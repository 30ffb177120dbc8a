"""FCOS: the unit of the distances in the loss, and the tower of the centerness."""

from __future__ import annotations

import pytest
import torch

import pkdzoo
from pkdzoo.ops.boxes import encode_distances
from pkdzoo.ops.levels import unflatten_levels
from pkdzoo.structures import HeadOutputs

TINY = {"backbone": "r10w16", "norm": "gn", "frozen_stages": 0, "width": 64, "depth": 1, "num_classes": 3}


def batch_of_one() -> pkdzoo.Batch:
    boxes = torch.tensor([[10.0, 12.0, 70.0, 90.0], [40.0, 8.0, 120.0, 40.0]])
    return pkdzoo.Batch(torch.rand(1, 3, 96, 128) * 255, [(96, 128)], [pkdzoo.Instances(boxes, torch.tensor([0, 2]))])


@pytest.mark.parametrize("name", ["fcos_r50_caffe", "fcos_r50_caffe_tricks", "fcos_r50_tricks"])
def test_exact_distances_cost_nothing_in_training(name: str) -> None:
    model = pkdzoo.create_detector(name, **TINY).train()
    trace = model.trace(batch_of_one())
    targets, priors = trace.targets, trace.priors
    exact = encode_distances(targets.boxes, priors.centers)
    outputs = HeadOutputs(trace.outputs.cls, unflatten_levels(exact, trace.features.sizes), trace.outputs.quality)
    assert float(model.loss(outputs, priors, targets)["loss_box"]) == pytest.approx(0, abs=1e-5)


def test_eval_mode_of_the_tricks_compares_pixels_with_strides() -> None:
    """Eval mode gives the reference's value; plain FCOS gives the same value in both modes."""
    for name, same in (("fcos_r50_caffe", True), ("fcos_r50_tricks", False)):
        model = pkdzoo.create_detector(name, **TINY)
        torch.nn.init.ones_(model.head.box.bias)  # distances below 0 would become 0 in pixels and in strides
        batch = batch_of_one()
        in_eval, in_train = model(batch), model.train()(batch)
        assert torch.equal(in_eval["loss_cls"], in_train["loss_cls"])
        assert torch.equal(in_eval["loss_box"], in_train["loss_box"]) == same


@pytest.mark.parametrize(("name", "tower"), [("fcos_r50_tricks", "cls_tower"), ("fcos_r50_caffe_tricks", "reg_tower")])
def test_centerness_comes_from_one_tower(name: str, tower: str) -> None:
    model = pkdzoo.create_detector(name, **TINY)
    model.trace(batch_of_one(), upto="head").outputs.quality[0].sum().backward()
    fed = {key.split(".")[0] for key, p in model.head.named_parameters() if p.grad is not None}
    assert fed == {tower, "quality"}


def test_unknown_tower_is_refused() -> None:
    with pytest.raises(ValueError, match="'cls' or 'reg'"):
        pkdzoo.create_detector("fcos_r50_caffe", **{**TINY, "centerness_from": "neck"})
