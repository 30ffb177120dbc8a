"""Prediction, folded norms, exported programs and memory on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.kd_reference import tiny_batch, tiny_detector

import pkdzoo
from pkdzoo.export import export_onnx, export_program

FAMILIES = ("retina", "fcos", "gfl", "atss", "tood", "reppoints", "faster_rcnn")


def detector(family: str) -> pkdzoo.Detector:
    """A narrow detector that detects: with random weights no score reaches the published threshold."""
    model = tiny_detector(f"{family}_r10w16").eval()
    model.postprocess_config = replace(model.postprocess_config, score_threshold=1e-4)
    return model


def apart(one: pkdzoo.Detections, other: pkdzoo.Detections) -> float:
    """Largest distance in pixels of a box to the nearest one of its class and score on the other side.

    The lists may be in another order where scores are equal to the last digits.
    """
    assert len(one) == len(other) > 0
    one, other = one.to("cpu"), other.to("cpu")
    far = (one.boxes[:, None] - other.boxes).abs().amax(dim=-1)
    unlike = (one.labels[:, None] != other.labels) | ((one.scores[:, None] - other.scores).abs() > 1e-4)
    far[unlike] = float("inf")
    return float(torch.cat([far.amin(dim=0), far.amin(dim=1)]).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_optimize_changes_nothing(family: str, device: torch.device, record: Callable[..., None]) -> None:
    model = detector(family).to(device)
    batch = tiny_batch().to(device)
    plain = model.detect(batch)
    fast = model.optimize().detect(batch)
    difference = max(apart(a, b) for a, b in zip(plain, fast, strict=True))
    record(family=family, pixels=difference)
    assert difference < 0.05


# Proposals of a random Faster R-CNN have nearly equal scores, so that rounding decides which of them are kept; its
# predictions are compared in test_equality.py.
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "faster_rcnn"])
def test_predict_agrees_with_the_cpu(family: str, device: torch.device, record: Callable[..., None]) -> None:
    model = detector(family)
    batch = tiny_batch()
    on_cpu = model.detect(batch)
    on_gpu = model.to(device).detect(batch.to(device))
    difference = max(apart(a, b) for a, b in zip(on_cpu, on_gpu, strict=True))
    record(family=family, pixels=difference)
    assert difference < 0.05


def test_a_program_of_torch_export_runs(device: torch.device, tmp_path: Path) -> None:
    model = tiny_detector("fcos_r10w16").eval().to(device)
    export_program(model, tmp_path / "model.pt2")
    assert (tmp_path / "model.pt2").stat().st_size > 0


def test_an_onnx_file_runs_through_cuda(device: torch.device, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if device.type == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime was built without CUDA")
    model = tiny_detector("fcos_r10w16").eval()
    export_onnx(model, tmp_path / "model.onnx")
    provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=[provider])
    assert session.get_providers()[0] == provider
