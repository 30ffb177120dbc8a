"""Every detector computes what the original computes: features, head, detections, losses, gradients."""

from __future__ import annotations

import pytest
import torch
from reference import GOLDEN, batch_for, checkpoint, error_of, load, matched_share

import pkdzoo
from pkdzoo.checkpoints import to_our_keys

FAST = ("retina_r18",)
NAMES = sorted(path.stem for path in (GOLDEN / "mmdet").glob("*.json"))


def total_of(losses: dict[str, float]) -> float:
    return sum(value for key, value in losses.items() if "loss" in key)


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_equals_mmdetection(name: str) -> None:
    case = load(f"mmdet/{name}")
    model = pkdzoo.create_detector(name, **({"sample": False} if "rcnn" in name else {}))
    state = checkpoint(case["state_dict"])
    pkdzoo.load_checkpoint(model, state)
    batch = batch_for(model, case)

    with torch.no_grad():
        trace = model.trace(batch, upto="head")
        detections = model.postprocess(trace, batch)
    for level, figures in zip(trace.features.levels, case["features"], strict=True):
        assert error_of(level, figures) < 1e-3
    assert trace.outputs is not None
    parts = [trace.outputs.cls, trace.outputs.box, trace.outputs.quality]
    for key, figures in case["head"].items():
        _, output, level = key.split(".")
        assert error_of(parts[int(output)][int(level)], figures) < 1e-3, key
    scale = case["original_shapes"][0][0] / case["image_shapes"][0][0]
    for found, wanted in zip(detections, case["detections"], strict=True):
        assert len(found) == len(wanted["boxes"])
        assert matched_share(found, wanted, scale) >= 0.98

    losses = model(batch)
    total = sum(losses.values())
    assert float(total) == pytest.approx(total_of(case["losses"]), rel=1e-4)
    total.backward()
    check_gradients(model, case["grad_norms"])


def check_gradients(model: pkdzoo.Detector, wanted: dict[str, float], tolerance: float = 1e-3) -> None:
    named = {key: torch.zeros(()) for key in wanted}
    ours = {key: next(iter(to_our_keys({key: value}, model.key_rules))) for key, value in named.items()}
    largest = max(wanted.values())
    parameters = dict(model.named_parameters())
    trainable = {key for key, p in parameters.items() if p.requires_grad}
    assert trainable == set(ours.values())
    for key, norm in wanted.items():
        found = float(parameters[ours[key]].grad.norm())
        assert found == pytest.approx(norm, rel=tolerance, abs=1e-6 * largest), key
