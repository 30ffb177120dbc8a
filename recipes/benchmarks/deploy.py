"""Latency of deployed detectors against their published AP: ours and other libraries', in one run.

Each detector is an ONNX file with random weights, which onnxruntime and OpenVINO run with one and with two threads. A
decoded image of 640 x 480 pixels is scaled to the size at which the detector's AP was published, normalized, run, and
its detections are read: all of this is counted. Files are prepared first, which takes minutes and is not timed.

With random weights hardly a score passes a threshold, so NMS has little to do, for all alike.
"""

from __future__ import annotations

import gc
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

import pkdzoo
from pkdzoo.export import ExportedDetector, FixedSize, export_onnx
from pkdzoo.export.openvino_file import convert_onnx
from pkdzoo.models._registry import find
from pkdzoo.utils.files import write_json
from recipes.benchmarks import deploy_page, deploy_predict
from recipes.benchmarks.measure import Settings, about, commit
from recipes.benchmarks.rivals import count_operations

IMAGE = (480, 640)  # height and width of a usual photo of COCO
THREADS = (1, 2)
SECONDS = 1.5  # for each detector, runtime and number of threads
RUNTIMES = {"onnxruntime": ".onnx", "openvino": ".xml"}
SIDE, SHORT = (640, 640), (800, 1088)  # canvas of RTMDet; of 800 x 1333 with a photo of 4 : 3
OURS = {
    "rtmdet_tiny": SIDE,
    "rtmdet_s": SIDE,
    "rtmdet_m": SIDE,
    "rtmdet_tiny_kd_s": SIDE,
    "rtmdet_s_kd_m": SIDE,
    "rtmdet_m_kd_l": SIDE,
    "gfl_mnv4_small": SHORT,
    "gfl_r18_ld_r101": SHORT,
    "gfl_r50_crosskd_r101": SHORT,
}
AGPL, APACHE, BSD = "AGPL-3.0", "Apache-2.0", "BSD-3-Clause"
TRANSFORMERS = "transformers"


@dataclass(frozen=True)
class Published:
    """What another library says about a detector.

    Attributes:
        library: the package that it is built from.
        code: license of the code.
        weights: license of the weights.
        AP: on COCO val2017, at the size that is timed.
        source: where the AP stands.
    """

    library: str
    code: str
    weights: str
    AP: float
    source: str


RIVALS = {
    "yolo11n": Published("ultralytics", AGPL, AGPL, 39.5, "docs.ultralytics.com/models/yolo11"),
    "yolo11s": Published("ultralytics", AGPL, AGPL, 47.0, "docs.ultralytics.com/models/yolo11"),
    "yolo26n": Published("ultralytics", AGPL, AGPL, 40.1, "docs.ultralytics.com/models/yolo26, end to end"),
    "yolo26s": Published("ultralytics", AGPL, AGPL, 47.8, "docs.ultralytics.com/models/yolo26, end to end"),
    "dfine_n": Published(TRANSFORMERS, APACHE, APACHE, 42.8, "readme of Peterande/D-FINE"),
    "dfine_s": Published(TRANSFORMERS, APACHE, APACHE, 48.5, "readme of Peterande/D-FINE"),
    "rtdetrv2_r18": Published(TRANSFORMERS, APACHE, APACHE, 48.1, "readme of lyuwenyu/RT-DETR"),
    "rfdetr_nano": Published("rfdetr", APACHE, APACHE, 48.4, "readme of roboflow/rf-detr"),
    "ssdlite320_mobilenet_v3_large": Published("torchvision", BSD, "not stated", 21.3, "torchvision's documentation"),
    "fasterrcnn_mobilenet_v3_large_320_fpn": Published(
        "torchvision", BSD, "not stated", 22.8, "torchvision's documentation"
    ),
    "yolox_nano": Published("yolox", APACHE, APACHE, 25.8, "readme of Megvii-BaseDetection/YOLOX"),
}


def main(folder: Path, output: Path, quick: bool = False) -> int:
    """Write what is missing of the files, time all of them, and write the results and their plot."""
    # ours and others' in turns, so that a change of the machine's speed does not favor one side
    turns = [name for pair in zip_longest(OURS, RIVALS) for name in pair if name is not None]
    names = ["rtmdet_tiny"] if quick else turns
    prepare(folder, names)
    if not quick:
        deploy_predict.eager_files(folder)
    start, settings = time.perf_counter(), Settings()
    packages = {name: version(name) for name in ("torch", "onnxruntime", "openvino")}
    results: dict[str, Any] = {"about": {**about(settings), "packages": packages}, "commit": commit()}
    results["rows"] = list(measure(folder, 0.1 if quick else SECONDS, names))
    if not quick:
        results["eager"] = deploy_predict.eager(folder, rounds=5)
        results["folder"] = deploy_predict.folders(rounds=3)
    results["seconds"] = round(time.perf_counter() - start)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, results)
    if find_spec("matplotlib"):
        deploy_page.plot(results, output.with_suffix(".png"))
    print(deploy_page.table(output))
    return 0


def prepare(folder: Path, names: list[str]) -> None:
    """Write the files that are missing: ours from the zoo, and the IR of every ONNX file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / f"{name}.onnx"
        if name in OURS and not path.with_suffix(".json").is_file():
            torch.manual_seed(0)
            height, width = OURS[name]
            model = pkdzoo.create_detector(name)
            export_onnx(model, path, fixed=FixedSize(height, width))
            facts = {
                "parameters": sum(each.numel() for each in model.parameters()),
                "operations": our_operations(model, OURS[name]),
            }
            path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
        if path.is_file() and not path.with_suffix(".xml").is_file():
            convert_onnx(path, path.with_suffix(".xml"))


def our_operations(model: pkdzoo.Detector, canvas: tuple[int, int]) -> int:
    """Multiply-adds of one image up to the head's outputs."""

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Any:
            return self.model.trace(pkdzoo.Batch(images * 255, [canvas]), upto="head").outputs

    return count_operations(Network(), canvas)


def measure(folder: Path, seconds: float, only: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Time all detectors.

    Args:
        folder: of the files.
        seconds: for each pair of detector, runtime and number of threads, besides loading.
        only: names; None means all that have a file.

    Yields:
        One row per detector.
    """
    for name in only or [*OURS, *RIVALS]:
        path = folder / f"{name}.onnx"
        if not path.is_file():
            print(f"{name}: no file in {folder}, left out", file=sys.stderr)
            continue
        facts = json.loads(path.with_suffix(".json").read_text())
        row = {"name": name, **described(name), **{key: facts[key] for key in ("parameters", "operations")}, "ms": {}}
        for runtime, suffix in RUNTIMES.items():
            for threads in THREADS:
                torch.set_num_threads(threads)
                run = runner(name, path.with_suffix(suffix), facts, threads)
                row["ms"][f"{runtime}, {threads}"] = timed(run, seconds)
                del run
                gc.collect()
        print(f"{name}: {row['ms']}", file=sys.stderr, flush=True)
        yield row


def described(name: str) -> dict[str, Any]:
    """Library, size, licenses, AP and its source."""
    if name in RIVALS:
        return vars(RIVALS[name])
    entry, weights = find(name)
    weights = weights or entry.default
    return {
        "library": "pkdzoo",
        "code": APACHE,
        "weights": weights.license if weights else "none",
        "AP": weights.metrics.get("AP") if weights else None,
        "source": weights.source if weights else "not trained",
    }


def timed(run: Callable[[], Any], seconds: float) -> list[float]:
    """Median, 90th percentile and number of runs; milliseconds."""
    run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 200):
        if len(times) >= 2 and time.perf_counter() > end + 2 * seconds:
            break
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    return [round(statistics.median(times), 2), round(float(np.quantile(times, 0.9)), 2), len(times)]


def runner(name: str, path: Path, facts: dict[str, Any], threads: int) -> Callable[[], Any]:
    """A call that detects objects in one image."""
    pixels = np.random.default_rng(0).integers(0, 255, (*IMAGE, 3), dtype=np.uint8)
    if name in OURS:
        detector = ExportedDetector(path, threads)
        return lambda: detector.predict(pixels)
    run = open_rival(path, threads)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(facts[key])[:, None, None] for key in ("mean", "std"))

    def detect() -> list[Any]:
        small = resized(image, facts["side"], facts["letterbox"]).float() / facts["scale"]
        return run(((small - mean) / std).numpy())

    return detect


def resized(image: Tensor, side: int, letterbox: bool) -> Tensor:
    """An image (1, 3, H, W) on a square canvas: padded with gray, or stretched."""
    height, width = image.shape[-2:]
    scale = side / max(height, width)
    size = (round(height * scale), round(width * scale)) if letterbox else (side, side)
    small = image if size == (height, width) else interpolate(image, size=size, mode="bilinear")
    top, left = (side - size[0]) // 2, (side - size[1]) // 2
    return pad(small, (left, side - size[1] - left, top, side - size[0] - top), value=114)


def open_rival(path: Path, threads: int) -> Callable[[Any], list[Any]]:
    """Load another library's graph, with the same settings as ours."""
    if path.suffix == ".onnx":
        onnxruntime = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda array: list(session.run(None, {name: array}))
    openvino = importlib.import_module("openvino")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
    }
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda array: [np.asarray(value) for value in compiled([array]).values()]
