"""On a GPU a detector of each family gives the results of the original in float32, as it does on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from helpers.reference import batch_for, checkpoint, error_of, gradient_error, load, matched_share
from torch import Tensor

import pkdzoo
from pkdzoo.models.assigners import atss

SMALLEST = {
    "retina": "retina_r18",
    "fcos": "fcos_r50_caffe",
    "gfl": "gfl_r50",
    "atss": "atss_r50",
    "tood": "tood_r50",
    "reppoints": "reppoints_r50",
    "faster_rcnn": "faster_rcnn_r50",
    "mask_rcnn": "mask_rcnn_swin_t",
    "rtmdet": "rtmdet_tiny",
}


@pytest.fixture
def nearest_anchors_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ATSS find its candidates on the CPU, also in TOOD's first epochs.

    Boxes may be equally far from several anchors, and ``topk`` of a GPU then takes others than that of a CPU, with
    which the reference was computed. The original has the same freedom.
    """
    nearest = atss.nearest_anchors

    def on_cpu(anchors: Tensor, counts: Sequence[int], boxes: Tensor, k: int = 9) -> Tensor:
        return nearest(anchors.cpu(), counts, boxes.cpu(), k).to(anchors.device)

    monkeypatch.setattr(atss, "nearest_anchors", on_cpu)


@pytest.mark.usefixtures("nearest_anchors_of_the_cpu")
@pytest.mark.parametrize("name", SMALLEST.values(), ids=SMALLEST)
def test_equals_mmdetection(name: str, device: torch.device, record: Callable[..., None]) -> None:
    case = load(f"mmdet/{name}")
    model = pkdzoo.create_detector(name, **({"sample": False} if "rcnn" in name else {}))
    pkdzoo.load_checkpoint(model, checkpoint(case["state_dict"], rules=case.get("rules")))
    batch = batch_for(model, case, masks=name.startswith("mask_rcnn")).to(device)
    model.to(device)

    with torch.no_grad():
        trace = model.trace(batch, upto="head")
        detections = model.postprocess(trace, batch)
    errors = {"features": max(error_of(m.cpu(), f) for m, f in zip(trace.features.levels, case["features"]))}
    scale = case["original_shapes"][0][0] / case["image_shapes"][0][0]
    matches = (
        matched_share(found.to("cpu"), expected, scale, size)
        for found, expected, size in zip(detections, case["detections"], case["original_shapes"], strict=True)
    )
    errors["unmatched"] = 1 - min(matches)
    phase = "_epoch0" if "losses_epoch0" in case else ""
    model.set_epoch(0)
    total = torch.stack(list(model(batch).values())).sum()
    expected = sum(value for key, value in case[f"losses{phase}"].items() if "loss" in key)
    errors["loss"] = abs(float(total.detach()) - expected) / expected
    total.backward()
    errors["gradients"] = gradient_error(model, case[f"grad_norms{phase}"])
    record(**errors)
    # the tolerances of the CPU, except for gradients: sums in another order change signs before early ReLUs
    assert errors["features"] <= 1e-3
    assert errors["unmatched"] <= 0.02
    assert errors["loss"] <= 1e-4
    assert errors["gradients"] <= 5e-3
