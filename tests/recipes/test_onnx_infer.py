"""recipes/onnx_infer.py: the images that it gives to a file, and what it finds, without torch."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pkdzoo
from pkdzoo.data import read_image
from pkdzoo.data.synthetic import draw_image
from pkdzoo.export import FixedSize, export_onnx
from pkdzoo.export.program import graph_of
from pkdzoo.inference.predictor import View, view_of

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated image that has to be scaled and padded."""
    pixels, _ = draw_image(185, 270, np.random.default_rng(3))
    path = tmp_path_factory.mktemp("photos") / "shapes.png"
    Image.fromarray(pixels).save(path)
    return path


class Recorder:
    """Stands for a session of onnxruntime: it keeps its inputs, and finds the whole image."""

    def __init__(
        self, model: pkdzoo.Detector, fixed: FixedSize | None, channels: int = 3, what: Any = "detections"
    ) -> None:
        self.graph, self.metadata = graph_of(model, what, None, None, None, fixed)
        self.channels, self.inputs = channels, {}

    def get_modelmeta(self) -> Any:
        return SimpleNamespace(custom_metadata_map=self.metadata)

    def get_inputs(self) -> Any:
        return [SimpleNamespace(shape=["batch", self.channels, "height", "width"])]

    def run(self, names: list[str], inputs: dict[str, Any]) -> list[Any]:
        self.inputs = inputs
        count = len(inputs["images"])
        box = np.array([[0, 0, *inputs["sizes"][0][::-1]]], np.float32)
        found = {"boxes": box, "scores": np.ones(1, np.float32), "labels": np.zeros(1, np.int64), "counts": 1}
        return [np.array([found[name]] * count) for name in names]


def infer(session: Recorder, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime: Any = ModuleType("onnxruntime")
    runtime.InferenceSession = lambda file: session
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    monkeypatch.setattr(sys, "argv", ["onnx_infer.py", "model.onnx", str(path)])
    runpy.run_path(str(ROOT / "recipes" / "onnx_infer.py"), run_name="__main__")


@pytest.mark.parametrize(
    ("name", "fixed"),
    [
        *(("retina_r10w16", fixed) for fixed in (None, FixedSize(192, 192), FixedSize(96, 224, 3))),
        *(("rtmdet_tiny", fixed) for fixed in (None, FixedSize(192, 192))),  # its canvas is square
    ],
    ids=str,
)
@pytest.mark.parametrize("bits", [8, 16])
def test_it_prepares_images_as_predict_does(
    name: str,
    fixed: FixedSize | None,
    bits: int,
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if bits == 16:
        gray = np.asarray(Image.open(photo).convert("L")).astype(np.uint16) * 256 + 77
        photo = tmp_path / "gray.png"
        Image.fromarray(gray).save(photo)
    side = 160
    model = pkdzoo.create_detector(name, num_classes=2, resize=(side, side if name == "rtmdet_tiny" else 200))
    session = Recorder(model, fixed)
    infer(session, photo, monkeypatch)
    graph: Any = session.graph.model
    canvas = None if fixed is None else (fixed.height, fixed.width)
    expected = view_of(read_image(photo), View(graph.resize, canvas=canvas), graph.letterbox)
    height, width = expected.image.shape[-2:]
    images, sizes = session.inputs["images"], session.inputs["sizes"]
    assert images.shape[-2:] == (canvas or tuple(-(-length // 32) * 32 for length in (height, width)))
    assert len(images) == len(sizes) == (1 if fixed is None else fixed.batch)
    assert (sizes == [height, width]).all() and (images == images[:1]).all()
    difference = np.abs(images[0, :, :height, :width].astype(int) - expected.image.numpy())
    assert difference.max() <= 1 and (images[0, :, height:] == 0).all() and (images[0, :, :, width:] == 0).all()
    box = json.loads(capsys.readouterr().out)["box"]
    if graph.letterbox is None:  # the whole image, which on a canvas is larger
        assert np.abs(np.array(box) - [0, 0, 270, 185]).max() < 1


@pytest.mark.parametrize("change", [{"channels": 1}, {"what": "dense"}], ids=str)
def test_it_refuses_files_of_other_kinds(change: Any, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="this script is for detections in RGB"):
        infer(Recorder(pkdzoo.create_detector("retina_r10w16"), None, **change), photo, monkeypatch)


@pytest.mark.skipif(
    torch.__version__.startswith("2.6."), reason="the ONNX exporter of torch 2.6 cannot leave sizes open"
)
@pytest.mark.slow
def test_inference_without_torch(photo: Path, tmp_path: Path) -> None:
    """The script of recipes/, in a process where torch, torchvision and pkdzoo cannot be imported."""
    trained = pkdzoo.create_detector("fcos_r18w24", pretrained=True)
    file = export_onnx(trained, tmp_path / "shapes.onnx")
    script = ROOT / "recipes" / "onnx_infer.py"
    guard = (
        "import runpy, sys\n"
        "for name in ('torch', 'torchvision', 'pkdzoo', 'onnx'): sys.modules[name] = None\n"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "assert not any(n.partition('.')[0] == 'torch' and m for n, m in sys.modules.items())\n"
    )
    command = [sys.executable, "-c", guard, str(script), str(file), str(photo)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    want = trained.predict(photo)
    assert isinstance(want, pkdzoo.Result)
    assert len(rows) == len(want) > 1  # at the default threshold of both
    for row in rows:
        boxes = (want.boxes - torch.tensor(row["box"])).abs().amax(dim=1)
        named = torch.tensor([name == row["name"] for name in want.names])
        assert (named & (boxes < 0.5) & ((want.scores - row["score"]).abs() < 0.01)).any(), row
    fewer = subprocess.run([*command, "0.8"], capture_output=True, text=True, timeout=120)
    assert fewer.stdout.splitlines() == [
        line for line, row in zip(done.stdout.splitlines(), rows) if row["score"] > 0.8
    ]
    alone = subprocess.run(command[:-1], capture_output=True, text=True, timeout=120)
    assert alone.returncode == 1 and "onnx_infer.py retina_r50.onnx street.jpg" in alone.stderr
    assert "Traceback" not in alone.stderr
