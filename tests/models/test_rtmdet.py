"""RTMDet: MMYOLO's dialect against its originals, checkpoints of every layout, sizes, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.reference import (
    GOLDEN,
    batch_for,
    checkpoint,
    error_of,
    gradient_error,
    load,
    matched_share,
    overlap_error,
    print_row,
)
from torch import Tensor

import pkdzoo

NAMES = sorted(path.stem for path in (GOLDEN / "mmyolo").glob("*.json"))
TOLERANCES = {"features": 1e-3, "head": 1e-3, "unmatched": 0.02, "loss": 1e-4, "gradients": 1e-3, "overlaps": 1e-4}


def weights_of(case: dict[str, Any]) -> dict[str, Tensor]:
    """A checkpoint in mmdetection's names; MMYOLO's files share shapes and statistics with mmdetection's."""
    twin = load(case["weights_of"])
    return checkpoint(twin["state_dict"], case["seed"], {**twin["rules"], **case["rules"]})


def tiny(name: str = "rtmdet_tiny", **args: Any) -> pkdzoo.Detector:
    """A detector of 16 to 128 channels."""
    torch.manual_seed(0)
    return pkdzoo.create_detector(name, **{"num_classes": 3, "width": 0.125, "depth": 0.167, **args})


@pytest.mark.parametrize("name", [n if n == "rtmdet_tiny" else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_equals_mmyolo(name: str) -> None:
    case = load(f"mmyolo/{name}")
    model = pkdzoo.load_checkpoint(pkdzoo.create_detector(f"{name}_yolo"), weights_of(case))
    assert sum(p.numel() for p in model.parameters()) == case["parameters"]
    batch = batch_for(model, case)
    trace = model.trace(batch)
    errors = {"features": max(map(error_of, trace.features.levels, load(case["weights_of"])["features"]))}
    parts = [trace.outputs.cls, trace.outputs.box]
    places = {key: key.split(".")[1:] for key in case["head"]}
    errors["head"] = max(error_of(parts[int(o)][int(at)], case["head"][key]) for key, (o, at) in places.items())
    scale = case["original_shapes"][0][0] / case["image_shapes"][0][0]
    shares = []
    for found, wanted, size in zip(model.detect(batch), case["detections"], case["original_shapes"], strict=True):
        assert len(found) == len(wanted["boxes"])
        shares.append(matched_share(found, wanted, scale, size))
    errors["unmatched"] = 1 - min(shares)
    errors["overlaps"] = overlap_error(trace, case["assignment"])
    total = sum(trace.losses.values())
    errors["loss"] = abs(float(total.detach()) - case["total"]) / case["total"]
    total.backward()
    errors["gradients"] = gradient_error(model, case["grad_norms"])
    print_row(f"{name}_yolo", errors)
    for what, error in errors.items():
        assert error <= TOLERANCES[what], what


def test_boxes_reach_beyond_the_image_in_mmdetections_dialect_alone() -> None:
    image = torch.randint(0, 255, (3, 90, 133), dtype=torch.uint8)
    for name, beyond in (("rtmdet_tiny", True), ("rtmdet_tiny_yolo", False)):
        model = tiny(name, resize=(128, 128))
        for layer in model.head.box:  # boxes of 60 pixels around every location
            torch.nn.init.constant_(layer.bias, 60.0 / 8)
        boxes = model.predict(image).boxes
        assert bool((boxes[:, 3] > 90).any()) == beyond
        assert (boxes[:, 2] <= 133.5).all() and (boxes >= 0).all()
