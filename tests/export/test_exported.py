"""Files of ``pkdzoo export`` as detectors: the same results as the detector that they were made of."""

from __future__ import annotations

import functools
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pkdzoo
from pkdzoo.cli import main
from pkdzoo.cli.export_int8 import file_size
from pkdzoo.data import make_shapes
from pkdzoo.export import (
    ExportedDetector,
    FixedSize,
    export_litert,
    export_onnx,
    export_openvino,
    export_program,
    quantize_openvino,
)
from pkdzoo.export.onnx_file import read_properties
from pkdzoo.export.openvino_file import convert_onnx
from pkdzoo.export.program import round_up
from pkdzoo.export.quantize import KEPT
from pkdzoo.structures import Batch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(
    torch.__version__.startswith("2.6."), reason="the ONNX exporter of torch 2.6 cannot leave sizes open"
)
NAME = "fcos_r18w24.shapes"  # its weights come with the package


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=1, val=4, size=(110, 150))


@pytest.fixture(scope="module")
def images(shapes: Path) -> list[str]:
    return sorted(map(str, (shapes / "val2017").iterdir()))


@pytest.fixture(scope="module")
def detector() -> Any:
    return pkdzoo.create_detector(NAME, pretrained=True)


@pytest.fixture(scope="module")
def fixed(detector: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of two images of 160 x 128 pixels."""
    return export_onnx(detector, tmp_path_factory.mktemp("fixed") / "shapes.onnx", fixed=FixedSize(128, 160, 2))


def assert_same(found: Any, expected: Any, pixels: float = 1e-3) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected):
        assert one.labels.tolist() == other.labels.tolist() and len(other) > 0
        assert (one.boxes - other.boxes).abs().max() < pixels and (one.scores - other.scores).abs().max() < 1e-5


def test_a_graph_of_one_size_detects_the_same_without_operations_on_shapes(fixed, detector, images) -> None:
    file = onnx.load(fixed)
    assert not {node.op_type for node in file.graph.node} & {"Shape", "Size", "If", "Loop"}
    shape = [side.dim_value for side in file.graph.input[0].type.tensor_type.shape.dim]
    assert shape == [2, 3, 128, 160]
    exported = ExportedDetector(fixed, threads=1)
    assert (exported.name, exported.label_names, exported.canvas) == ("fcos_r18w24", detector.label_names, (128, 160))
    assert_same(exported.predict(images[:3]), detector.predict(images[:3]))  # a part of a batch is filled
    assert_same(exported.predict(images, batch_size=4, threshold=0.5), detector.predict(images, threshold=0.5))
    single = exported.predict(np.zeros((40, 300, 3), np.uint8))
    assert single.size == (40, 300)


def test_portrait_images_fit_a_landscape_graph(fixed) -> None:
    image = np.full((300, 90, 3), 120, np.uint8)
    assert ExportedDetector(fixed).predict(image, flip=True).size == (300, 90)


def test_settings_that_the_graph_cannot_follow_are_refused(fixed, images) -> None:
    exported = ExportedDetector(fixed)
    with pytest.raises(ValueError, match=r"threshold 0.01 is below .* 0.05: export fcos_r18w24 again with --threshold"):
        exported.predict(images[0], threshold=0.01)
    with pytest.raises(ValueError, match="leave nms_threshold out"):
        exported.predict(images[0], nms_threshold=0.9)
    with pytest.raises(ValueError, match="at most 100 detections"):
        exported.predict(images[0], max_detections=300)
    with pytest.raises(ValueError, match="takes one size: leave sizes out"):
        exported.predict(images[0], sizes=(96, 128))
    assert len(exported.predict(images[0], max_detections=1)) == 1
    with pytest.raises(ValueError, match="larger than the graph's 160 x 128"):
        exported.detect(pkdzoo.Batch(torch.zeros(1, 3, 160, 160), [(160, 160)]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "has no config, outputs, resize in its metadata"),
        ({"outputs": "features"}, r"gives 'features': write the file again .* --what detections"),
        ({"config": "{"}, "the config in the metadata of .* is not JSON"),
        ({"config": "[]"}, "is no JSON object"),
        ({"config": '{"architecture": "x"}'}, "lacks num_classes, label_names"),
        ({"resize": '{"canvas": [0, 5]}'}, "canvas or batch"),
        ({"batch": "1e9"}, "canvas or batch"),
    ],
)
def test_metadata_of_strangers(fixed, tmp_path, change, message) -> None:
    file = onnx.load(fixed)
    metadata = {**read_properties(fixed), **change} if change else {}
    del file.metadata_props[:]
    onnx.helper.set_model_props(file, metadata)
    onnx.save(file, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=message):
        ExportedDetector(tmp_path / "other.onnx")


def test_files_that_are_none(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none.onnx: write it with `pkdzoo export`"):
        ExportedDetector(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ValueError, match="is no file that onnxruntime can run"):
        ExportedDetector(tmp_path / "text.onnx")
    with pytest.raises(ValueError, match=r"write a file that ends in .onnx or .xml"):
        ExportedDetector(tmp_path / "model.pt")
    assert main(["predict", str(tmp_path / "model.tflite"), str(tmp_path)]) == 1


def test_openvino_files_that_are_none(fixed, tmp_path) -> None:
    pytest.importorskip("openvino")
    for name, content in (("text.xml", b"<net"), ("graph.xml", fixed.read_bytes())):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} is no file that OpenVINO can run: "):
            ExportedDetector(tmp_path / name)
    (tmp_path / "text.onnx").write_text("no graph")
    level = logging.getLogger().level
    with pytest.raises(ValueError, match=r"OpenVINO's converter refuses the graph: .*; export it as onnx"):
        convert_onnx(tmp_path / "text.onnx", tmp_path / "new.xml")
    assert not (tmp_path / "new.xml").exists() and logging.getLogger().level == level


def test_a_size_that_the_stride_does_not_divide_is_rounded_up_and_said(tmp_path, capsys) -> None:
    path = tmp_path / "pyramid.pt2"
    words = ["--format", "torch", "--size", "150x100", "--output", str(path)]
    assert main(["export", "retina_r10w16", "--checkpoint", "none.safetensors", *words]) == 1
    capsys.readouterr()
    saved = pkdzoo.create_detector("retina_r10w16").save_pretrained(tmp_path / "saved")
    assert main(["export", str(saved), *words]) == 0
    assert "the size is rounded up to 160 x 128 pixels, multiples of 32" in capsys.readouterr().err
    images, sizes = torch.zeros(1, 3, 128, 160, dtype=torch.uint8), torch.tensor([[100, 150]])
    assert torch.export.load(path).module()(images, sizes)[0].shape[-2:] == (16, 20)


@pytest.mark.parametrize(
    ("write", "name", "message"),
    [
        (export_onnx, "a.txt", r"a\.txt: files in the format 'onnx' end in \.onnx: write a\.onnx"),
        (export_onnx, "a", "write a.onnx"),
        (export_onnx, "A.ONNX", r"write A\.onnx$"),
        (export_onnx, "model.v2", r"write model\.v2\.onnx$"),
        (export_program, "student.best", r"write student\.best\.pt2$"),
        (export_onnx, "model.v2.XML", r"write model\.v2\.onnx, or export it in the format 'openvino'"),
        (export_onnx, "a.xml", r"write a\.onnx, or export it in the format 'openvino'"),
        (export_openvino, "a.onnx", r"\.xml, with a \.bin of the same name beside: write a\.xml, or .* 'onnx'"),
        (export_program, "a.pt", r"write a\.pt2"),
        (functools.partial(export_litert, fixed=FixedSize(64, 64)), "a.lite", r"write a\.tflite"),
    ],
)
def test_another_suffix_is_refused(write, name, message, detector, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        write(detector, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_an_exported_file_is_not_exported_again(fixed, tmp_path, capsys) -> None:
    for words in (["export", str(fixed)], ["data", "label", str(tmp_path), "--model", str(fixed)]):
        suffix = ".onnx" if words[0] == "export" else ".json"
        assert main([*words, "--output", str(tmp_path / f"again{suffix}")]) == 1
        said = capsys.readouterr().err
        assert "shapes.onnx is a file of 'pkdzoo export', which predict and eval take" in said


@pytest.mark.parametrize("written", [".", "../cells/", "../cells"])
def test_a_file_is_named_after_the_folder_of_its_detector(written, tmp_path, monkeypatch) -> None:
    folder = pkdzoo.create_detector("retina_r10w16").save_pretrained(tmp_path / "cells")
    monkeypatch.chdir(folder)
    monkeypatch.setattr("pkdzoo.cli.export.write", lambda args, model, path, what: path.write_bytes(b""))
    assert main(["export", written]) == 0
    assert (folder / "cells.onnx").is_file()


def test_another_suffix_is_refused_on_the_command_line(tmp_path, capsys) -> None:
    assert main(["export", NAME, "--output", str(tmp_path / "a.xml")]) == 1
    assert "write a.onnx, or export it in the format 'openvino'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (5, {}, "5: write a file that ends with .onnx"),
        ("a.onnx", {"size": "640"}, "size='640': write one side or"),
        ("a.onnx", {"size": (640,)}, "write one side or"),
        ("a.onnx", {"size": True}, "size=True: write one side or"),
        ("a.onnx", {"size": [np.int64(320), np.int64(33)]}, "a graph of 33 x 320 pixels"),
        ("a.onnx", {"size": (64.0, 64)}, "write one side or"),
        ("a.onnx", {"treshold": 0.5}, r"no option 'treshold'\. Did you mean threshold"),
        ("a.pt2", {"half": True}, "no option 'half'"),
        ("a.tflite", {"size": 64, "threshold": 0.5}, r"no option 'threshold'\. It has no options"),
        ("a.onnx", {"threshold": 50}, "threshold=50: write a number from 0 to 1"),
        ("a.onnx", {"what": "dense", "threshold": 0.5}, "threshold has no effect on dense"),
    ],
)
def test_wrong_arguments_are_refused_in_a_sentence(name, options, message, detector, tmp_path) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        detector.export(name if name == 5 else tmp_path / name, **options)


@pytest.mark.slow
def test_a_detector_of_one_channel(tmp_path) -> None:
    model = pkdzoo.create_detector("retina_r10w16", num_classes=2, in_chans=1).eval()
    exported = ExportedDetector(export_onnx(model, tmp_path / "gray.onnx", fixed=FixedSize(64, 96), threshold=0.0))
    batch = Batch(torch.randint(0, 255, (1, 1, 64, 96)).float(), [(64, 96)])
    config = exported.postprocess_config
    assert_same(exported.detect(batch), model.detect(batch, config))
    with pytest.raises(ValueError, match=r"this detector takes 1 channel: write model\.detect"):
        exported.predict(np.zeros((64, 96, 3), np.uint8))


def test_sizes() -> None:
    assert [round_up(side) for side in (1, 32, 33, 640, 99999)] == [32, 32, 64, 640, 16384]
    with pytest.raises(ValueError, match="multiples of 32 up to 16384; write 64 x 640"):
        FixedSize(640, 50)
    with pytest.raises(ValueError, match="whole number of images"):
        FixedSize(64, 64, 0)
    with pytest.raises(ValueError, match=r"square canvas: write one side, e.g. --size 96, not 96x64"):
        export_onnx(pkdzoo.create_detector("rtmdet_tiny"), "never.onnx", fixed=FixedSize(64, 96))


def test_the_commands_take_exported_files(fixed, detector, shapes, images, tmp_path, capsys) -> None:
    assert main(["predict", str(fixed), images[0], "--save", str(tmp_path / "found.json")]) == 0
    rows = json.loads((tmp_path / "found.json").read_text())
    assert len(rows.get("annotations", rows) if isinstance(rows, dict) else rows) == len(detector.predict(images[0]))
    capsys.readouterr()
    words = ["eval", str(fixed), "--data", str(shapes), "--cpu", "--threads", "1", "--workers", "0", "--json"]
    assert main(words) == 0
    exported = json.loads(capsys.readouterr().out)
    assert main(["eval", NAME, *words[2:]]) == 0
    assert json.loads(capsys.readouterr().out)["AP"] == pytest.approx(exported["AP"], abs=1e-6)
    assert main(["predict", str(fixed), images[0], "--labels", "a,b"]) == 1
    assert "leave --checkpoint and --labels out" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--half"], ["--size", "150x100"], []], ids=["half", "fixed", "free"])
def test_openvino_files_detect_the_same(words, detector, images, tmp_path, capsys) -> None:
    pytest.importorskip("openvino")
    path = tmp_path / "shapes.xml"
    assert main(["export", NAME, "--format", "openvino", "--output", str(path), *words]) == 0
    said = capsys.readouterr()
    assert ("rounded up to 160 x 128 pixels" in said.err) == ("--size" in words)
    found, expected = ExportedDetector(path, threads=1).predict(images), detector.predict(images)
    if "--half" in words:
        assert [one.labels.tolist() for one in found] == [one.labels.tolist() for one in expected]
    else:
        assert_same(found, expected)


@pytest.mark.slow
def test_an_operation_that_openvino_does_not_know(tmp_path) -> None:
    pytest.importorskip("openvino")
    model = pkdzoo.create_detector("tood_r10w16")
    with pytest.raises(ValueError, match=r"it does not know DeformConv-\d+; export it as onnx"):
        export_openvino(model, tmp_path / "never.xml", fixed=FixedSize(64, 64))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_half_of_the_file_for_the_same_detections(detector, fixed, images, tmp_path) -> None:
    path = export_onnx(detector, tmp_path / "half.onnx", fixed=FixedSize(128, 160, 2), half=True)
    assert path.stat().st_size < 0.55 * fixed.stat().st_size
    for one, other in zip(ExportedDetector(path).predict(images), detector.predict(images), strict=True):
        assert one.labels.tolist() == other.labels.tolist()
        assert (one.boxes - other.boxes).abs().max() < 0.5 and (one.scores - other.scores).abs().max() < 0.01
    heavy = pkdzoo.create_detector("retina_r10w16")
    torch.nn.init.constant_(heavy.backbone.conv1.weight, 1e6)  # type: ignore[union-attr, arg-type]
    with pytest.raises(ValueError, match="beyond float16: export without half"):
        export_onnx(heavy, tmp_path / "heavy.onnx", fixed=FixedSize(64, 64), half=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "2"], "--batch belongs to --size"),
        (["--no-nms", "--what", "features"], "leave --what features out"),
        (["--half", "--format", "torch"], "--half is for onnx and openvino"),
    ],
)
def test_arguments_that_exclude_each_other(words, message, capsys) -> None:
    assert main(["export", "retina_r10w16", *words]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_int8_is_measured_before_it_is_written(kind, tmp_path, capsys, monkeypatch) -> None:
    if kind == "openvino":
        pytest.importorskip("nncf")
    data = make_shapes(tmp_path / "data", train=24, val=24, size=(96, 128))
    path = tmp_path / f"int8{'.onnx' if kind == 'onnx' else '.xml'}"
    words = ["export", NAME, "--size", "160x128", "--int8", "--data", str(data), "--output", str(path), "--json"]
    words += ["--format", kind]
    with monkeypatch.context() as patch:
        patch.setattr("pkdzoo.cli.export_int8.MAX_DROP", -100)  # no choice of layers gains as much
        assert main(words) == 1 and not path.exists()
    assert "int8 loses more than -100 AP (all layers" in capsys.readouterr().err
    assert main([*words, "--images", "10"]) == 0
    printed = capsys.readouterr()
    content = json.loads(printed.out)
    assert "10 images cannot measure the ranges of activations well" in printed.err
    assert content["layers"] == "all layers"
    assert content["float32"]["ap"] > 30 and content["int8"]["ap"] > content["float32"]["ap"] - 1
    assert file_size(path) < 0.45 * 1e6 * content["float32"]["megabytes"]
    detector = ExportedDetector(path)
    assert detector.session.metadata["precision"] == "int8" and detector.canvas == (128, 160)


@pytest.mark.slow
def test_layers_that_openvino_keeps_in_float32(tmp_path) -> None:
    openvino, _ = pytest.importorskip("openvino"), pytest.importorskip("nncf")
    model = pkdzoo.create_detector(NAME, pretrained=True)
    plain = export_openvino(model, tmp_path / "plain.xml", fixed=FixedSize(128, 160))
    images = [Batch(torch.randint(0, 256, (1, 3, 128, 160)).float(), [(128, 160)]) for _ in range(3)]
    level, counts = logging.getLogger().level, {}
    for part, keep in KEPT.items():
        graph = openvino.Core().read_model(quantize_openvino(plain, tmp_path / f"{part}.xml", images, keep))
        counts[part] = sum(op.get_type_name() == "FakeQuantize" for op in graph.get_ops())
    assert counts["none"] > counts["predictors"] > counts["head"] > 0
    assert logging.getLogger().level == level


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--int8"], "--int8 needs --data"),
        (["--int8", "--data", "no_such_folder"], "no_such_folder"),
        (["--images", "5"], "--images belongs to --int8"),
        (["--int8", "--data", "x", "--half"], "leave another --format, --what, --no-nms and --half out"),
    ],
)
def test_arguments_of_int8(words, message, capsys) -> None:
    assert main(["export", "retina_r10w16", *words]) == 1
    assert message in capsys.readouterr().err
