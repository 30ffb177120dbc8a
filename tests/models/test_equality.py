"""Every detector gives the results of the original: features, head outputs, detections, losses, gradients."""

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
    loss_error,
    matched_share,
    our_losses,
    overlap_error,
    print_row,
)
from torchvision.ops import box_iou

import pkdzoo
from pkdzoo.models.cascade_rcnn import CascadeMaskRCNN
from pkdzoo.models.mask_rcnn import MaskRCNN
from pkdzoo.ops.masks import paste_masks

FAST = ("retina_r18", "rtmdet_tiny")
TOLERANCES = {
    "features": 1e-3,
    "head": 1e-3,
    "unmatched": 0.02,
    "loss": 1e-4,
    "kind": 1e-4,
    "gradients": 1e-3,
    "overlaps": 1e-4,
}
MASK_ROUNDING = 1e-6  # of a probability close to 0.5: about 16 steps of float32
PHASES = {"": None, "_epoch0": 0, "_epoch12": 12}  # losses that depend on the epoch (TOOD) were computed at two
NAMES = sorted(path.stem for path in (GOLDEN / "mmdet").glob("*.json"))


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_equals_mmdetection(name: str) -> None:
    case = load(f"mmdet/{name}")
    model = pkdzoo.create_detector(name, **({"sample": False} if "rcnn" in name else {}))
    state = checkpoint(case["state_dict"], rules=case.get("rules"))
    pkdzoo.load_checkpoint(model, state)
    batch = batch_for(model, case, masks=isinstance(model, (MaskRCNN, CascadeMaskRCNN)))

    errors: dict[str, float] = {}
    with torch.no_grad():
        trace = model.trace(batch, upto="head")
        detections = model.postprocess(trace, batch)
        if isinstance(model, (MaskRCNN, CascadeMaskRCNN)):
            check_masks(model.predict_masks(trace.features, detections), detections, case)
    errors["features"] = max(map(error_of, trace.features.levels, case["features"]))
    assert trace.outputs is not None
    parts = [trace.outputs.cls, trace.outputs.box, trace.outputs.quality]
    places = {key: key.split(".")[1:] for key in case["head"]}
    errors["head"] = max(error_of(parts[int(o)][int(at)], case["head"][key]) for key, (o, at) in places.items())
    scale = case["original_shapes"][0][0] / case["image_shapes"][0][0]
    shares = []
    for found, expected, size in zip(detections, case["detections"], case["original_shapes"], strict=True):
        assert len(found) == len(expected["boxes"])
        shares.append(matched_share(found, expected, scale, size))
    errors["unmatched"] = 1 - min(shares)

    for phase, epoch in PHASES.items():
        if f"grad_norms{phase}" not in case:
            continue
        if epoch is not None:
            model.set_epoch(epoch)
        model.zero_grad()
        trained = model.trace(batch)
        if "assignment" in case:
            errors["overlaps"] = overlap_error(trained, case["assignment"])
        total = sum(trained.losses.values())
        expected = our_losses(case[f"losses{phase}"])
        errors[f"loss{phase}"] = abs(float(total.detach()) / sum(expected.values()) - 1)
        errors[f"kind{phase}"] = loss_error(trained.losses, expected)
        total.backward()
        errors[f"gradients{phase}"] = gradient_error(model, case[f"grad_norms{phase}"])
    print_row(name, errors)
    for what, error in errors.items():
        assert error <= TOLERANCES[what.split("_")[0]], what


def check_masks(drawn: list[torch.Tensor], detections: list[pkdzoo.Detections], case: dict[str, Any]) -> None:
    """Areas of the masks pasted into the original image, as in the reference; two border pixels of tolerance.

    A pixel whose probability is within rounding of the threshold belongs to the mask on one processor and not on
    another. Masks of random weights are all close to 0.5, so a large one has several such pixels.
    """
    scale = case["original_shapes"][0][0] / case["image_shapes"][0][0]
    for masks, found, expected, size in zip(
        drawn, detections, case["detections"], case["original_shapes"], strict=True
    ):
        least, most = (
            paste_masks(masks, found.boxes * scale, tuple(size), 0.5 + rounding).flatten(1).sum(dim=1)
            for rounding in (MASK_ROUNDING, -MASK_ROUNDING)
        )
        overlaps = box_iou(torch.tensor(expected["boxes"]), found.boxes * scale)
        match = torch.where(torch.tensor(expected["labels"])[:, None] == found.labels, overlaps, 0.0).argmax(dim=1)
        areas = torch.tensor(expected["mask_areas"])
        assert (least[match] - areas).max() <= 2
        assert (areas - most[match]).max() <= 2
