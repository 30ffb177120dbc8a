"""Folders as finished runs leave them, made in a second without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import pkdzoo
from pkdzoo import Detections
from pkdzoo.data import open_dataset
from pkdzoo.evaluation import METRICS, CocoEvaluator
from pkdzoo.evaluation.saved_detections import SavedDetections
from pkdzoo.utils.files import sha256_of_file


def detections(dataset: Any, seed: int, noise: float) -> list[Detections]:
    """The objects of a data set, moved by noise, some of them missing, and random boxes."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for index in range(len(dataset)):
        truth = dataset.load_instances(index)
        kept = torch.rand(len(truth), generator=generator) > 0.2
        boxes = truth.boxes[kept] + noise * (torch.rand(int(kept.sum()), 4, generator=generator) - 0.5)
        corner = 40 * torch.rand(3, 2, generator=generator)
        wrong = torch.cat([corner, corner + 5 + 20 * torch.rand(3, 2, generator=generator)], 1)
        labels = torch.cat([truth.labels[kept], torch.zeros(3, dtype=torch.int64)])
        scores = torch.cat([0.4 + 0.6 * torch.rand(len(boxes), generator=generator), torch.full((3,), 0.45)])
        result.append(Detections(torch.cat([boxes, wrong]), scores, labels))
    return result


def write_run(folder: Path, data: Path, noise: float, distill: dict[str, Any] | None = None, file: Path | None = None):
    """Write a run; returns its metrics.

    Args:
        folder: of the run.
        data: its data set; ``val`` is evaluated.
        noise: of its detections, in pixels.
        distill: of its recipe.
        file: of the detections; None means that of the run.
    """
    dataset = open_dataset(data, "val")
    evaluator = CocoEvaluator(dataset, "pycocotools")
    evaluator.update(dataset.image_ids.tolist(), detections(dataset, 0, noise))
    names = tuple(dataset.label_names)
    about = {"images": len(dataset), "annotations_sha256": sha256_of_file(dataset.json_path), "step": 10}
    metrics = {**evaluator.compute(), **about, "ms_per_image": 12.5, "hardware": "one core"}
    folder.mkdir(parents=True, exist_ok=True)
    saved = SavedDetections(evaluator.state(), dataset.json_path, dataset.image_dir, names)
    saved.write(file or folder / "detections.safetensors")
    recipe = {"name": folder.name, "model": "retina_r10w16", "seed": 0, "distill": distill}
    lines = [
        {"step": 5, "epoch": 0, "loss": 3.0, "loss_cls": 1.0, "loss_pkd": 1.5, "log/pkd/r0": 0.1, "log/pkd/r1": 0.2},
        {"step": 10, "epoch": 1, "loss": 2.0, "loss_cls": 1.0, "loss_pkd": 0.5, "log/pkd/r0": 0.6, "log/pkd/r1": 0.7},
        {"step": 10, "epoch": 1, **{key: metrics[key] for key in METRICS}},
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "run.json").write_text(json.dumps({"command": "pkdzoo distill --data photos", "torch": "2.9"}))
    model = pkdzoo.create_detector("retina_r10w16", label_names=names, resize=(64, 96))
    for name in ("best", "last"):
        model.save_pretrained(folder / name)
        of_weights = {"weights_sha256": sha256_of_file(folder / name / "model.safetensors")}
        (folder / name / "metrics.json").write_text(json.dumps({**metrics, **of_weights}))
    return metrics


def write_comparison(folder: Path, data: Path) -> None:
    """A folder with teacher, plain and distilled student, as ``pkdzoo distill --baseline`` leaves it."""
    teacher = folder.parent / "teachers" / "big"
    rows = [{"name": "big", "role": "teacher", **write_run(teacher, data, 1.0)}]
    (teacher / "detections.safetensors").rename(folder.parent / "moved")
    distill = {"teacher": f"local-dir:{teacher / 'best'}", "methods": {"pkd": {}}}
    rows.append({"name": "plain", "role": "plain", **write_run(folder / "plain", data, 12.0)})
    rows.append({"name": "distilled", "role": "distilled", **write_run(folder / "distilled", data, 4.0, distill)})
    (folder.parent / "moved").rename(folder / "teacher_detections.safetensors")
    (folder / "comparison.json").write_text(json.dumps(rows))
