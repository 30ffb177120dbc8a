"""LiteRT files: the same boxes and scores, and sentences for what the format cannot hold."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pkdzoo
from pkdzoo.cli import main
from pkdzoo.export import FixedSize, build_graph, export_litert


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--format litert needs --size"),
        (["--size", "64", "--what", "detections"], "no NMS with a result of fixed shape: write dense"),
        (["--size", "64", "--half"], "--half is for onnx and openvino"),
        (["--size", "64", "--threshold", "0.5"], "have no effect with --what dense"),
    ],
)
def test_what_the_format_cannot_hold(words: list[str], message: str, capsys: Any) -> None:
    assert main(["export", "retina_r10w16", "--format", "litert", *words]) == 1
    assert message in capsys.readouterr().err


def test_without_its_package(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    assert main(["export", "retina_r10w16", "--format", "litert", "--size", "64"]) == 1
    assert 'pip install -e ".[litert]"' in capsys.readouterr().err


@pytest.mark.slow
def test_an_operation_that_the_converter_does_not_know(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch", reason="needs the extra litert")
    with pytest.raises(ValueError, match=r"does not know torchvision.deform_conv2d.* export it as onnx or openvino"):
        export_litert(pkdzoo.create_detector("tood_r10w16"), tmp_path / "never.tflite", FixedSize(64, 64))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fcos_r18w24.shapes", "rtmdet_tiny", "retina_r10w16"])
def test_boxes_and_scores_are_the_same(name: str, tmp_path: Path) -> None:
    pytest.importorskip("litert_torch", reason="needs the extra litert")
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    torch.manual_seed(0)
    model = pkdzoo.create_detector(name, pretrained="." in name).eval()
    path = tmp_path / "detector.tflite"
    export_litert(model, path, FixedSize(96, 96))
    with zipfile.ZipFile(path) as archive:
        metadata = json.loads(archive.read("pkdzoo.json"))
    assert json.loads(metadata["label_names"]) == list(model.label_names)
    assert json.loads(metadata["resize"])["canvas"] == [96, 96] and metadata["outputs"] == "dense"
    images = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    run = interpreter.Interpreter(str(path)).get_signature_runner()
    found = run(images=images.numpy(), sizes=np.array([[96, 90]], np.int32))
    graph = build_graph(model, "dense")
    with torch.no_grad():
        expected = dict(zip(graph.outputs, graph(images, torch.tensor([[96, 90]]))))
    assert np.abs(found["boxes"] - expected["boxes"].numpy()).max() < 1e-2
    assert np.abs(found["scores"] - expected["scores"].numpy()).max() < 1e-4
