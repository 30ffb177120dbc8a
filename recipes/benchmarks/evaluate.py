"""Target 5: COCO's twelve numbers of many detections, by faster-coco-eval and by pycocotools."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from pkdzoo.evaluation import METRICS, CocoEvaluator
from pkdzoo.structures import Detections
from recipes.benchmarks.measure import Row, Settings, in_turns, ratios, unmeasured

AGAINST = "pycocotools"
CLASSES = 80
NAME = "evaluation of {} pictures, {} detections"


def rows(settings: Settings) -> Iterator[Row]:
    """5,000 pictures with 52 detections each."""
    count, found_each = (60, 20) if settings.quick else (5000, 52)
    name = NAME.format(f"{count:,}", f"{count * found_each:,}")
    if importlib.util.find_spec("faster_coco_eval") is None:
        yield unmeasured(5, name, AGAINST, 8.0, "faster-coco-eval is not installed")
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "truth.json"
        truth, found = crowd_of(count, found_each)
        path.write_text(json.dumps(truth))
        evaluators = {kind: CocoEvaluator(path, kind) for kind in ("faster", "pycocotools")}
    ids = [picture["id"] for picture in truth["images"]]
    numbers = {}
    for kind, evaluator in evaluators.items():
        evaluator.update(ids, found)
        numbers[kind] = evaluator.compute()
    both = [(numbers["faster"][key], numbers["pycocotools"][key]) for key in METRICS]
    apart = max(abs(a - b) for a, b in both if a is not None and b is not None) / 100
    assert any(a for a, _ in both), "nothing was found: the comparison would be empty"
    # pycocotools takes about a minute: it is measured once
    runs = {"ours": evaluators["faster"].compute, "theirs": evaluators["pycocotools"].compute}
    times = in_turns(runs, settings, rounds=1, warmup=0)
    yield Row(5, name, AGAINST, want=8.0, differences={"12 numbers": apart}, tolerance=1e-6, **ratios(times))


def crowd_of(count: int, found_each: int) -> tuple[dict[str, Any], list[Detections]]:
    """Annotations of about seven objects a picture, and detections of which some lie near them."""
    draw = torch.Generator().manual_seed(0)
    images = [{"id": i + 1, "height": 480, "width": 640, "file_name": f"{i}.jpg"} for i in range(count)]
    annotations: list[dict[str, Any]] = []
    found = []
    for i in range(count):
        objects = int(torch.randint(1, 14, (), generator=draw))
        corner = torch.rand(objects, 2, generator=draw) * torch.tensor([400.0, 300.0])
        side = 10 + torch.rand(objects, 2, generator=draw) ** 2 * 200
        labels = torch.randint(0, CLASSES, (objects,), generator=draw)
        for (x, y), (w, h), label in zip(corner.tolist(), side.tolist(), labels.tolist()):
            row = {"id": len(annotations) + 1, "image_id": i + 1, "category_id": label + 1, "bbox": [x, y, w, h]}
            annotations.append({**row, "area": w * h, "iscrowd": 0})
        pick = torch.randint(0, objects, (found_each,), generator=draw)
        noise = torch.randn(found_each, 4, generator=draw) * 0.15 * side[pick].repeat(1, 2)
        boxes = torch.cat([corner, corner + side], dim=1)[pick] + noise
        right = torch.rand(found_each, generator=draw) < 0.6
        guessed = torch.where(right, labels[pick], torch.randint(0, CLASSES, (found_each,), generator=draw))
        found.append(Detections(boxes, torch.rand(found_each, generator=draw), guessed))
    categories = [{"id": i + 1, "name": f"class {i}"} for i in range(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}, found
