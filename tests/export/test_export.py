"""Exported files: what onnxruntime and torch.export make of them, against the detector itself."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

import pkdzoo
from pkdzoo.cli import main
from pkdzoo.data.synthetic import draw_image
from pkdzoo.export import WHAT, What, build_graph, export_onnx, graphs
from pkdzoo.models.cascade_rcnn import CascadeMaskRCNN
from pkdzoo.models.dense import DenseDetector
from pkdzoo.models.fcos import DETECTRON
from pkdzoo.models.mask_rcnn import MaskRCNN
from pkdzoo.models.two_stage import TwoStageDetector
from pkdzoo.ops.boxes import clip_boxes
from pkdzoo.ops.levels import flatten_levels

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

writes_onnx = pytest.mark.skipif(
    torch.__version__.startswith("2.6."), reason="the ONNX exporter of torch 2.6 cannot leave sizes open"
)
ROOT = Path(__file__).parents[2]
BATCHES = (
    [(120, 150), (128, 146)],
    [(64, 64)],
    [(200, 250), (224, 240), (210, 256)],
)
TOLERANCE = 1e-4  # relative to the largest value
NARROW: dict[str, Any] = {"num_classes": 5, "neck_norm": "gn"}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "retina": ("retina_r10w16", {}),
    "fcos": ("fcos_r10w16", {"pixel_norm": DETECTRON}),  # BGR; the shipped detector above has RGB and the tricks
    "gfl": ("gfl_r10w16", {}),
    "atss": ("atss_r10w16", {}),
    "tood": ("tood_r10w16", {}),
    "reppoints": ("reppoints_r10w16", {}),
    "faster_rcnn": ("faster_rcnn_r10w16", {}),
    "mask_rcnn": (
        "mask_rcnn_r50",
        {"backbone": "r10w16", "norm": "gn", "frozen_stages": 0, "width": 64, "box_width": 64, "mask_width": 32},
    ),
    "cascade_rcnn": (
        "cascade_mask_rcnn_x101_32x4d_dcn",
        {
            **{"backbone": "r10w16", "deformable": (), "norm": "gn", "frozen_stages": 0},
            **{"width": 64, "box_width": 64, "mask_width": 32},
        },
    ),
}


def lively(model: pkdzoo.Detector) -> pkdzoo.Detector:
    """Weights of unit gain from a fixed seed, so that detections are many, spread out and not saturated."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("cls.bias") or name == "head.agreement.2.bias":
                parameter.fill_(-2.0)
            elif parameter.ndim >= 2:
                gain = 2.0 if ".cls." in name else 0.1 if ".offset." in name else 1.2  # shifts of about a cell
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * gain / parameter[0].numel() ** 0.5)
    return model.eval()


def tiny(family: str) -> pkdzoo.Detector:
    name, arguments = FAMILIES[family]
    return lively(pkdzoo.create_detector(name, **{**NARROW, **arguments}))


def make_images(sizes: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """A padded batch of noise, with noise in the padding too."""
    generator = torch.Generator().manual_seed(1)
    height, width = (-(-max(size[i] for size in sizes) // 32) * 32 for i in (0, 1))
    images = torch.randint(0, 256, (len(sizes), 3, height, width), generator=generator, dtype=torch.uint8)
    return images, torch.tensor(sizes)


def open_session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run(session: Any, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {"images": images.numpy(), "sizes": sizes.numpy()})
    return {name: torch.from_numpy(value) for name, value in zip(names, values)}


def off(got: Tensor, want: Tensor) -> float:
    """Largest difference relative to the largest value."""
    assert got.shape == want.shape
    return float((got.double() - want.double()).abs().max() / want.abs().max())


def same_detections(got: dict[str, Tensor], i: int, want: pkdzoo.Detections, size: tuple[int, int]) -> None:
    """As many, best first, each met by one of its label, score and corners; empty places say so."""
    count = int(got["counts"][i])
    assert count == len(want)
    boxes, scores, labels = (got[name][i] for name in ("boxes", "scores", "labels"))
    assert (labels[count:] == -1).all() and (scores[count:] == 0).all() and (boxes[count:] == 0).all()
    assert (scores[:-1] >= scores[1:]).all()
    met = (boxes[:count, None] - want.boxes).abs().amax(dim=-1) < TOLERANCE * max(size)
    met &= (scores[:count, None] - want.scores).abs() < TOLERANCE
    met &= labels[:count, None] == want.labels
    assert met.any(dim=0).all() and met.any(dim=1).all(), f"{int(met.any(dim=0).sum())} of {count} are met"


# -- the shipped detector ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> pkdzoo.Detector:
    """The shipped detector, which finds real things."""
    return pkdzoo.create_detector("fcos_r18w24", pretrained=True)


@pytest.fixture(scope="module")
def file(trained: pkdzoo.Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(trained, tmp_path_factory.mktemp("export") / "deep" / "shapes.onnx")


@writes_onnx
@pytest.mark.slow
def test_a_trained_detector_finds_the_same(trained: pkdzoo.Detector, file: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = [(128, 160), (120, 150), (128, 131)]
    images = torch.full((3, 3, 128, 160), 77, dtype=torch.uint8)
    for image, (height, width) in zip(images, sizes):
        image[:, :height, :width] = torch.tensor(draw_image(height, width, rng)[0]).permute(2, 0, 1)
    got = run(open_session(file), images, torch.tensor(sizes))
    for i, want in enumerate(trained.detect(pkdzoo.Batch(images.float(), sizes))):
        assert (want.scores > 0.3).any()
        same_detections(got, i, want, (128, 160))


@writes_onnx
@pytest.mark.slow
def test_the_file_says_what_it_is(trained: pkdzoo.Detector, file: Path) -> None:
    facts = open_session(file).get_modelmeta().custom_metadata_map
    assert json.loads(facts["label_names"]) == list(trained.label_names)
    rule = {"short": 128, "long": 160, "interpolation": "bilinear", "antialias": False, "divisor": 32}
    assert json.loads(facts["resize"]) == rule
    assert facts["outputs"] == "detections"
    config = json.loads(facts["config"])
    assert config["architecture"] == trained.name
    assert config["pkdzoo_cfg"]["postprocess"]["nms_threshold"] == trained.postprocess_config.nms_threshold
    proto = onnx.load(file)
    onnx.checker.check_model(proto)
    sides = [[side.dim_param or side.dim_value for side in v.type.tensor_type.shape.dim] for v in proto.graph.input]
    assert sides == [["batch", 3, "32*h", "32*w"], ["batch", 2]]
    assert {o.name: [s.dim_param or s.dim_value for s in o.type.tensor_type.shape.dim] for o in proto.graph.output} == {
        "boxes": ["batch", 100, 4],
        "scores": ["batch", 100],
        "labels": ["batch", 100],
        "counts": ["batch"],
    }
    content = file.read_bytes()
    assert str(ROOT).encode() not in content and b"graphs.py" not in content, "paths of this machine"
    assert [path.name for path in file.parent.iterdir()] == ["shapes.onnx"]


def test_what_cannot_be_exported(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model = pkdzoo.create_detector("faster_rcnn_r10w16")
    with pytest.raises(ValueError, match="write 'detections' or 'features'"):
        build_graph(model, "dense")
    with pytest.raises(ValueError, match="write one of 'features', 'dense', 'detections'"):
        build_graph(model, "boxes")  # type: ignore[arg-type]
    assert main(["export", "fcos_r18w24", "--what", "dense", "--max-detections", "5"]) == 1
    assert "add --what detections" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", "fcos_r18w24", "--output", "never.onnx"]) == 1
    assert 'pip install -e ".[export]"' in capsys.readouterr().err.splitlines()[-1]
    assert not Path("never.onnx").exists()


# -- all families ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a family's tiny detector, written once: the exporter takes half a minute."""
    folder = tmp_path_factory.mktemp("families")
    return functools.cache(lambda family: export_onnx(tiny(family), folder / f"{family}.onnx"))


@writes_onnx
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_detections_are_the_detectors(family: str, exported: Callable[[str], Path]) -> None:
    model = tiny(family)
    session = open_session(exported(family))
    for sizes in BATCHES:
        images, tensor = make_images(sizes)
        got = run(session, images, tensor)
        found = model.detect(pkdzoo.Batch(images.float(), sizes))
        for i, want in enumerate(found):
            assert len(want) >= 5, "the comparison would say nothing"
            same_detections(got, i, want, (images.shape[2], images.shape[3]))
        if "masks" in got:
            assert isinstance(model, (MaskRCNN, CascadeMaskRCNN))
            with torch.no_grad():
                expected = model.predict_masks(model.extract_features(pkdzoo.Batch(images.float(), sizes)), found)
            for i, (masks, want) in enumerate(zip(expected, found)):
                order = (got["boxes"][i, : len(want), None] - want.boxes).abs().amax(dim=-1).argmin(dim=0)
                assert float((got["masks"][i, order] - masks).abs().max()) < 1e-3


@writes_onnx
@pytest.mark.slow
@pytest.mark.parametrize("family", ["retina", "faster_rcnn", "mask_rcnn"])
def test_openvino_agrees(family: str, exported: Callable[[str], Path]) -> None:
    """OpenVINO computes RoIAlign in its own way: an empty box with an adaptive number of samples is NaN there."""
    openvino = pytest.importorskip("openvino")
    path = exported(family)
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images, sizes = make_images(BATCHES[0])
    results = compiled({"images": images.numpy(), "sizes": sizes.numpy()})
    expected = run(open_session(path), images, sizes)
    got = {name: torch.from_numpy(results[name]) for name in expected}
    assert expected["counts"].min() >= 5, "the comparison would say nothing"
    assert all(value.isfinite().all() for value in got.values())
    for i, count in enumerate(expected["counts"].tolist()):
        rows = pkdzoo.Detections(*(expected[name][i, :count] for name in ("boxes", "scores", "labels")))
        same_detections(got, i, rows, (images.shape[2], images.shape[3]))


def test_no_region_of_a_graph_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A region is pooled at every level, and counts at its own; regions without area are zero."""
    model = tiny("faster_rcnn")
    assert isinstance(model, TwoStageDetector)
    seen: list[Tensor] = []

    def pooled(level: Tensor, rois: Tensor, *args: Any, **options: Any) -> Tensor:
        seen.append(rois)
        return roi_align(level, rois, *args, **options)

    monkeypatch.setattr(graphs, "roi_align", pooled)
    boxes = torch.tensor([[0.0, 0, 20, 30], [5, 5, 200, 220], [0, 0, 0, 0], [8, 8, 8, 40], [1, 2, 60, 130]])[None]
    graph = build_graph(model, "detections")
    assert isinstance(graph, graphs.TwoStageDetections)
    with torch.no_grad():
        features = model.extract_features(pkdzoo.Batch(torch.rand(1, 3, 224, 256) * 255, [(224, 256)]))
        result = graph.pool(features, boxes, 7)
        expected = model.pool(features, [boxes[0]], 7)
    assert len(seen) == model.roi_levels
    assert all((rois[:, 3:] > rois[:, 1:3]).all() for rois in seen)
    full = torch.tensor([True, True, False, False, True])
    torch.testing.assert_close(result[full], expected[full])
    assert not result[~full].any()


def wide_boxes(name: str, **args: Any) -> pkdzoo.Detector:
    """A detector with many boxes that reach beyond the image or lie outside."""
    torch.manual_seed(0)
    model = pkdzoo.create_detector(name, num_classes=3, **args).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # statistics are those of the next passes
    with torch.no_grad():
        model.trace(pkdzoo.Batch(torch.rand(4, 3, 128, 128) * 255, [(128, 128)] * 4), upto="head")
        for key, parameter in model.named_parameters():
            if key.startswith("head"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.postprocess_config = replace(model.postprocess_config, score_threshold=0.02, max_detections=60)
    return model.eval()


@pytest.mark.parametrize(("name", "args"), [("tood_r10w16", {}), ("rtmdet_w12", {"dialect": "mmyolo"})])
def test_boxes_beyond_the_image_are_suppressed_as_in_the_detector(name: str, args: dict[str, Any]) -> None:
    """Classes stay apart where coordinates are negative, and boxes without area count where the detector keeps them."""
    model = wide_boxes(name, **args)
    images, sizes = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 255, [(64, 96), (61, 91)]
    images = images.round()
    expected = model.detect(pkdzoo.Batch(images, sizes))
    assert min(map(len, expected)) > 5
    with torch.no_grad():
        _, scores, _, counts = build_graph(model, "detections")(images.to(torch.uint8), torch.tensor(sizes))
    for i, found in enumerate(expected):
        count = int(counts[i])
        assert count == len(found)
        torch.testing.assert_close(scores[i, :count], found.scores, rtol=0, atol=1e-5)  # their order may differ: ties


@pytest.mark.parametrize("family", [name for name in FAMILIES if "rcnn" not in name])
def test_rows_without_suppression(family: str) -> None:
    """The graph against the detector; what onnxruntime makes of it is the next test's."""
    model = tiny(family)
    graph = build_graph(model, "dense")
    for sizes in BATCHES[:2]:
        images, tensor = make_images(sizes)
        with torch.no_grad():
            boxes, scores = graph(images, tensor)
        for got, want in zip((boxes, scores), rows_of(model, images, sizes), strict=True):
            assert off(got, want) < 1e-6


@writes_onnx
@pytest.mark.slow
@pytest.mark.parametrize("family", ["gfl", "atss"])
def test_rows_without_suppression_as_a_file(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    session = open_session(export_onnx(model, tmp_path / "model.onnx", what="dense"))
    for sizes in BATCHES:
        images, tensor = make_images(sizes)
        got = run(session, images, tensor)
        boxes, scores = rows_of(model, images, sizes)
        assert off(got["scores"], scores) < TOLERANCE
        assert off(got["boxes"], boxes) < TOLERANCE


def rows_of(model: pkdzoo.Detector, images: Tensor, sizes: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Clipped boxes and reported scores of all priors, as the detector itself has them."""
    assert isinstance(model, DenseDetector)
    with torch.no_grad():
        trace = model.trace(pkdzoo.Batch(images.float(), sizes), upto="head")
        assert trace.outputs is not None and trace.priors is not None
        cls, box = model.flat(trace.outputs)
        scores, boxes = model.class_scores(cls), model.decode(box, trace.priors)
        if trace.outputs.quality:
            scores = scores * flatten_levels(trace.outputs.quality, 1).sigmoid()
    return torch.stack([clip_boxes(b, size) for b, size in zip(boxes, sizes)]), scores


BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("retina_r10w16", {}),
    "swin": ("retina_swin_t", {"width": 32, "depth": 1}),
    "resnext_dcn": ("reppoints_x101_dcn", {"backbone": "r50", "groups": 32, "group_width": 4, "deformable": (2, 3, 4)}),
}


@writes_onnx
@pytest.mark.parametrize(
    "backbone", [name if name == "resnet" else pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES]
)
def test_pyramids(backbone: str, tmp_path: Path) -> None:
    name, arguments = BACKBONES[backbone]
    model = lively(pkdzoo.create_detector(name, num_classes=3, **arguments))
    session = open_session(export_onnx(model, tmp_path / "pyramid.onnx", what="features"))
    for sizes in BATCHES:
        images, tensor = make_images(sizes)
        with torch.no_grad():
            pyramid = model.extract_features(pkdzoo.Batch(images.float(), sizes))
        got = run(session, images, tensor)
        assert list(got) == [f"stride_{stride}" for stride in pyramid.strides]
        for level, want in zip(got.values(), pyramid.levels):
            assert off(level, want) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("what", WHAT)
def test_programs_of_torch_export(what: What, tmp_path: Path) -> None:
    """From the command line to a process that has no pkdzoo (but for suppression, which it brings)."""
    folder = tiny("atss").save_pretrained(tmp_path / "model")
    path = tmp_path / "model.pt2"
    assert main(["export", str(folder), "--format", "torch", "--what", what, "--output", str(path)]) == 0
    with zipfile.ZipFile(path) as archive:
        assert not any(str(ROOT).encode() in archive.read(name) for name in archive.namelist()), "paths of this machine"
    images, sizes = make_images(BATCHES[0])
    torch.save([images, sizes], tmp_path / "inputs.pt")
    code = (
        "import sys, torch\n"
        + ("import pkdzoo.export\n" if what == "detections" else "sys.modules['pkdzoo'] = None\n")
        + "facts = {'label_names': '', 'resize': ''}\n"
        "module = torch.export.load(sys.argv[1], extra_files=facts).module()\n"
        "outputs = list(module(*torch.load(sys.argv[2])))\n"
        "print(facts['label_names']); print(facts['resize'])\n"
        "torch.save(outputs, sys.argv[3])\n"
    )
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "inputs.pt"), str(tmp_path / "outputs.pt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    names, rule = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    assert names == [f"class_{i}" for i in range(5)] and rule["divisor"] == 32
    model = tiny("atss")
    with torch.no_grad():
        expected = build_graph(model, what)(images, sizes)
    for got, want in zip(torch.load(tmp_path / "outputs.pt"), expected, strict=True):
        assert torch.equal(got, want)
