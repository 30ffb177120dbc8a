"""Whether exported files detect what ``predict`` detects: a table of formats and precisions by family.

    python -m recipes.benchmarks.parity --data bccd --output recipes/benchmark_results/deploy/parity.json

``--data`` is a data set in COCO's format, whose validation images are used. APs are those of the student that is
shipped for BCCD, in percent. The other detectors have random weights whose last layers are scaled so that some hundred
scores pass the threshold, which is harder than trained ones: many scores are nearly equal, and boxes lie near the
threshold of NMS. Detections are compared with the nearest one of their class; those without a counterpart within 2
pixels and 0.02 are counted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from accelerate import Accelerator

import pkdzoo
from pkdzoo.data import CocoDataset, collate, find_split
from pkdzoo.export import ExportedDetector, FixedSize, export_onnx, quantize_onnx
from pkdzoo.export.onnx_file import halve
from pkdzoo.export.openvino_file import convert_onnx
from pkdzoo.inference.predictor import View, view_of
from pkdzoo.inference.result import Result
from pkdzoo.training import build, loaders
from pkdzoo.training.evaluate import evaluate
from pkdzoo.utils.files import write_json
from pkdzoo.utils.option_types import positive_int
from recipes.benchmarks import deploy_page
from recipes.benchmarks.predict import CANDIDATES

TRAINED = "gfl_r10w16_crosskd_cspnext_tiny"
RANDOM = (
    "fcos_r10w16",
    "gfl_r10w16",
    "atss_r10w16",
    "tood_r10w16",
    "reppoints_r10w16",
    "rtmdet_tiny",
    "faster_rcnn_r10w16",
)
HIGHEST = 5.0  # range of the logits of the best scores, none of which is then rounded to 1
CANVAS = {"rtmdet_tiny": (320, 320)}  # (height, width); others: (256, 320)
PIXELS, SCORE = 2.0, 0.02  # differences from which on two detections are different ones
IMAGES = 12  # for calibration


def compare(found: list[Result], expected: list[Result]) -> dict[str, Any]:
    """Largest differences of boxes and scores, and the share of detections without a counterpart."""
    boxes, scores, alone, total = 0.0, 0.0, 0, 0
    for ours, theirs in zip(found, expected, strict=True):
        total += len(ours) + len(theirs)
        if not len(ours) or not len(theirs):
            alone += len(ours) + len(theirs)
            continue
        far = (ours.boxes[:, None] - theirs.boxes).abs().amax(dim=2)
        apart = (ours.scores[:, None] - theirs.scores).abs()
        same = (far < PIXELS) & (apart < SCORE) & (ours.labels[:, None] == theirs.labels)
        distance = torch.where(same, far / PIXELS + apart / SCORE, torch.inf)
        best, index = distance.min(dim=1)
        kept = best.isfinite()
        alone += int((~kept).sum()) + int((~same.any(dim=0)).sum())
        if kept.any():
            rows = kept.nonzero().squeeze(1)
            boxes = max(boxes, float(far[rows, index[rows]].max()))
            scores = max(scores, float(apart[rows, index[rows]].max()))
    return {"pixels": boxes, "score": scores, "alone": alone, "detections": total // 2}


def files_of(model: pkdzoo.Detector, folder: Path, train: CocoDataset | None) -> Iterator[tuple[str, str, Path | None]]:
    """Format, precision and path of each file of a detector; None for a format that refuses it."""
    height, width = CANVAS.get(model.name, (256, 320))
    plain = export_onnx(model, folder / "plain.onnx", fixed=FixedSize(height, width))
    yield "onnx", "float32", plain
    file = onnx.load(plain)
    halve(file)
    onnx.save(file, folder / "half.onnx")
    yield "onnx", "float16 weights", folder / "half.onnx"
    try:
        yield "openvino", "float32", convert_onnx(plain, folder / "plain.xml")
        yield "openvino", "float16 weights", convert_onnx(plain, folder / "half.xml", half=True)
    except ValueError as error:  # deformable convolutions
        yield "openvino", f"refused: {error}", None
    if train is not None:
        batches = (collate([train[number * len(train) // IMAGES]]) for number in range(IMAGES))
        yield "onnx", "int8", quantize_onnx(plain, folder / "int8.onnx", batches)


@torch.no_grad()
def spread_scores(model: pkdzoo.Detector, batch: pkdzoo.Batch) -> None:
    """Scale the last class layer of a one-stage detector: about ``CANDIDATES`` scores of an image pass 0.05.

    The scores of a two-stage detector with random weights pass it anyway.
    """
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):  # random weights with the initial statistics give hardly a signal
            part.momentum = 1.0
    model.train().trace(batch, upto="head")
    outputs = model.eval().trace(batch, upto="head").outputs
    if model.two_stage or outputs is None:
        return
    head: Any = model.head
    if isinstance(getattr(head, "box", None), torch.nn.ModuleList):
        for layer in head.box:  # RTMDet's boxes have an area where its distances are positive
            torch.nn.init.constant_(layer.bias, 3.0)
    logits = torch.cat([level.flatten() for level in outputs.cls])
    best = logits.topk(CANDIDATES * len(batch.sizes)).values
    gain = min(1.5 / float(logits.std()), HIGHEST / float(best[0] - best[-1]))
    shift = -2.9 - float(best[-1]) * gain  # 0.05 is the sigmoid of -2.9
    for layer in head.cls.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.bias is not None:
            layer.weight *= gain
            layer.bias.copy_(layer.bias * gain + shift)
    if hasattr(head, "agreement"):  # TOOD's logits are not those of its class layer but of a product
        torch.nn.init.constant_(head.cls.bias, -3.0)
        torch.nn.init.constant_(head.agreement[-1].bias, -1.0)


def rows(data: Path, names: list[str], limit: int) -> Iterator[dict[str, Any]]:
    """One row per detector and file."""
    accelerator = Accelerator(cpu=True)
    split = find_split(data, "val")
    for name in names:
        torch.manual_seed(0)
        trained = name == TRAINED
        canvas = CANVAS.get(name, (256, 320))
        sides: dict[str, Any] = {} if trained else {"resize": (min(canvas), max(canvas)), "num_classes": 3}
        model = pkdzoo.create_detector(name, pretrained=trained, **sides).eval()
        shape = (model.resize, model.label_names, False, model.letterbox)
        val = build.val_dataset(split, (min(canvas), max(canvas)), *shape[1:]) if trained else None
        listed = json.loads(split[0].read_text())["images"][:limit]
        paths = [str(split[1] / image["file_name"]) for image in listed]
        model.resize = (min(canvas), max(canvas))
        if not trained:
            images = map(pkdzoo.data.read_image, paths)
            spread_scores(model, collate([view_of(image, View(model.resize), model.letterbox) for image in images]))
        expected = model.predict(paths, threshold=None)
        if not any(len(result) for result in expected):
            raise ValueError(f"{name} detects nothing in {len(paths)} images: there is nothing to compare")
        AP = None if val is None else average_precision(model, val, accelerator)
        with tempfile.TemporaryDirectory() as folder:
            train = None
            if trained:
                found = find_split(data, "train")
                train = build.val_dataset(found, model.resize, model.label_names, False, model.letterbox, canvas)
            for kind, precision, path in files_of(model, Path(folder), train):
                row: dict[str, Any] = {"detector": name, "format": kind, "precision": precision}
                if path is None:
                    yield row
                    continue
                exported = ExportedDetector(path, 1)
                row |= compare(exported.predict(paths, threshold=None), expected)  # type: ignore[arg-type]
                weights = path.with_suffix(".bin")  # beside OpenVINO's .xml
                row["bytes"] = path.stat().st_size + (weights.stat().st_size if weights.is_file() else 0)
                if val is not None and AP is not None:
                    own = build.val_dataset(split, model.resize, model.label_names, False, model.letterbox, canvas)
                    row["AP"] = average_precision(exported, own, accelerator)
                    row["AP difference"] = row["AP"] - AP
                yield row


def average_precision(model: Any, dataset: CocoDataset, accelerator: Accelerator) -> float:
    """AP in percent."""
    AP = evaluate(model, accelerator.prepare(loaders.val_loader(dataset, 1, 0)), dataset, accelerator)["AP"]
    assert AP is not None
    return float(AP)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data set with train and val")
    parser.add_argument("--names", nargs="+", default=[TRAINED, *RANDOM])
    parser.add_argument(
        "--limit", type=positive_int, default=20, help="validation images that are compared (default: 20)"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--update", action="store_true", help="keep the rows of other detectors in --output")
    args = parser.parse_args(argv)
    start, found = time.perf_counter(), []
    if args.update:
        found = [row for row in json.loads(args.output.read_text())["rows"] if row["detector"] not in args.names]
    for row in rows(args.data, args.names, args.limit):
        found.append(row)
        print(row, flush=True)
        write_json(args.output, {"images": args.limit, "seconds": round(time.perf_counter() - start), "rows": found})
    print(deploy_page.parity(args.output))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
