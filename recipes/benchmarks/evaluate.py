"""COCO's twelve metrics of many detections, with our evaluator and with pycocotools as it is commonly used.

Both start from the detections of each image as tensors; the annotations are already loaded.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pkdzoo.evaluation import METRICS, CocoEvaluator
from pkdzoo.structures import Detections
from recipes.benchmarks.measure import Row, Settings, in_turns, ratios, unmeasured

AGAINST = "pycocotools: loadRes and COCOeval"
CLASSES = 80
NAME = "evaluation of {} images, {} detections"


def rows(settings: Settings) -> Iterator[Row]:
    """5,000 images with 52 detections each."""
    count, per_image = (60, 20) if settings.quick else (5000, 52)
    name = NAME.format(f"{count:,}", f"{count * per_image:,}")
    if importlib.util.find_spec("faster_coco_eval") is None:
        yield unmeasured(5, name, AGAINST, 8.0, "faster-coco-eval is not installed")
        return
    truth, detections = random_detections(count, per_image)
    ids = [image["id"] for image in truth["images"]]
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "truth.json"
        path.write_text(json.dumps(truth))
        evaluator, loaded = CocoEvaluator(path, "faster"), COCO(str(path))
    numbers: dict[str, list[float]] = {}

    def run_ours() -> None:
        evaluator.reset()
        evaluator.update(ids, detections)
        metrics = evaluator.compute()
        numbers["ours"] = [-1.0 if metrics[key] is None else metrics[key] / 100 for key in METRICS]

    def run_theirs() -> None:
        numbers["theirs"] = by_pycocotools(loaded, ids, detections)

    # pycocotools takes a minute or two, so it is measured once
    times = in_turns({"ours": run_ours, "theirs": run_theirs}, settings, rounds=1, warmup=0)
    gap = max(abs(a - b) for a, b in zip(numbers["ours"], numbers["theirs"], strict=True))
    assert any(number > 0 for number in numbers["ours"]), "all metrics are 0, so there is nothing to compare"
    yield Row(5, name, AGAINST, want=8.0, differences={"12 numbers": gap}, tolerance=1e-6, **ratios(times))


def by_pycocotools(truth: COCO, ids: Sequence[int], detections: Sequence[Detections]) -> list[float]:
    """The twelve metrics as training scripts commonly compute them: one dict per detection, loadRes, COCOeval."""
    results = [
        {"image_id": number, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for number, one in zip(ids, detections, strict=True)
        for (x1, y1, x2, y2), score, label in zip(one.boxes.tolist(), one.scores.tolist(), one.labels.tolist())
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(truth, truth.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [float(value) for value in run.stats]


def random_detections(count: int, per_image: int) -> tuple[dict[str, Any], list[Detections]]:
    """Annotations with about seven objects per image, and detections, some of them close to the objects."""
    draw = torch.Generator().manual_seed(0)
    images = [{"id": i + 1, "height": 480, "width": 640, "file_name": f"{i}.jpg"} for i in range(count)]
    annotations: list[dict[str, Any]] = []
    detections = []
    for i in range(count):
        objects = int(torch.randint(1, 14, (), generator=draw))
        corner = torch.rand(objects, 2, generator=draw) * torch.tensor([400.0, 300.0])
        side = 10 + torch.rand(objects, 2, generator=draw) ** 2 * 200
        labels = torch.randint(0, CLASSES, (objects,), generator=draw)
        for (x, y), (w, h), label in zip(corner.tolist(), side.tolist(), labels.tolist()):
            row = {"id": len(annotations) + 1, "image_id": i + 1, "category_id": label + 1, "bbox": [x, y, w, h]}
            annotations.append({**row, "area": w * h, "iscrowd": 0})
        pick = torch.randint(0, objects, (per_image,), generator=draw)
        noise = torch.randn(per_image, 4, generator=draw) * 0.15 * side[pick].repeat(1, 2)
        boxes = torch.cat([corner, corner + side], dim=1)[pick] + noise
        correct = torch.rand(per_image, generator=draw) < 0.6
        predicted = torch.where(correct, labels[pick], torch.randint(0, CLASSES, (per_image,), generator=draw))
        detections.append(Detections(boxes, torch.rand(per_image, generator=draw), predicted))
    categories = [{"id": i + 1, "name": f"class {i}"} for i in range(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}, detections
