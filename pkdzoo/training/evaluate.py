"""Evaluation of a detector on a validation set, over any number of processes."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list, gather_object
from torch.utils.data import DataLoader
from tqdm import tqdm

from pkdzoo.data import CocoDataset
from pkdzoo.data.batching import collate
from pkdzoo.distill.adapters.students import is_saved_student, saved_student
from pkdzoo.evaluation import METRICS, CocoEvaluator
from pkdzoo.evaluation.saved_detections import SavedDetections
from pkdzoo.hub.saved_folder import find_saved_folder
from pkdzoo.inference.predictor import DetectorLike, scale_back
from pkdzoo.models._factory import create_detector
from pkdzoo.models._registry import folder_of
from pkdzoo.models.detector import Detector
from pkdzoo.structures import Batch
from pkdzoo.utils.text import printable


def open_detector(source: str | Path, best: bool = True) -> Detector:
    """Open a trained detector.

    Args:
        source: a registered name, ``hf-hub:...``, a saved detector's folder, or a run's folder.
        best: of a run, open its best student instead of its last one.

    Raises:
        FileNotFoundError: for a folder that does not exist or holds no detector.
        ValueError: as :func:`pkdzoo.create_detector`.
    """
    folder = folder_of(str(source))
    if folder is None or not folder.is_dir():
        return create_detector(str(source), pretrained=True)
    saved = find_saved_folder(folder, best)
    return saved_student(saved) if is_saved_student(saved) else create_detector(f"local-dir:{saved}")


@torch.inference_mode()
def evaluate(
    model: DetectorLike,
    loader: DataLoader[Batch],
    dataset: CocoDataset,
    accelerator: Accelerator,
    backend: str = "auto",
    seen_only: bool = False,
    thresholds: bool = False,
    save: Path | None = None,
) -> dict[str, Any]:
    """COCO metrics of a detector.

    Processes exchange their detections once, at the end. Images that Accelerate repeats to fill the last batch are
    counted once. Every process returns the same metrics.

    Args:
        model: not wrapped, or an exported file; evaluated in eval mode, its mode is restored.
        loader: prepared by Accelerate, in the order of ``dataset``.
        dataset: the data set of ``loader``.
        accelerator: of the run.
        backend: see CocoEvaluator.
        seen_only: evaluate on the images of the loader only, which may be a part of ``dataset``.
        thresholds: add ``best_f1``, the threshold with the highest F1.
        save: file for the detections, from which a report is written; None keeps none.

    Returns:
        The twelve COCO metrics in percent and ``per_class``; see ``CocoEvaluator.compute``.
    """
    shared = isinstance(model, torch.nn.Module) and accelerator.num_processes > 1
    for buffer in model.buffers() if shared else ():  # type: ignore[attr-defined]
        broadcast(buffer)  # running statistics differ between processes; those of the first one are saved and evaluated
    evaluator = CocoEvaluator(dataset, backend)
    main = accelerator.is_main_process
    for batch in tqdm(loader, desc="evaluate", leave=False, dynamic_ncols=True, disable=None if main else True):
        assert batch.meta is not None
        with accelerator.autocast():
            detections = model.detect(batch)
        original = [scale_back(d, m) for d, m in zip(detections, batch.meta)]
        evaluator.update([m["image_id"] for m in batch.meta], original)
    states = gather_object([evaluator.state()])
    metrics: list[dict[str, Any] | None] = [None]
    if main:
        merged = CocoEvaluator(dataset, backend)
        merged.load(states)
        metrics = [merged.compute(seen_only, thresholds)]
        if save is not None:
            names, images = tuple(dataset.label_names), Path(dataset.image_dir).absolute()
            SavedDetections(merged.state(), Path(dataset.json_path).absolute(), images, names).write(save)
    metrics = broadcast_object_list(metrics)
    assert metrics[0] is not None
    return metrics[0]


@torch.inference_mode()
def time_images(
    model: DetectorLike, dataset: CocoDataset, accelerator: Accelerator, count: int = 10, budget: float = 2.0
) -> dict[str, float]:
    """Latency per image, one at a time, from the loaded image to its detections, after two warm-up passes.

    Args:
        model: not wrapped, on its device.
        dataset: its first images are timed.
        accelerator: of the run.
        count: largest number of images.
        budget: seconds after which no further image is timed.

    Returns:
        ``ms_per_image``, the median; an empty dict for an empty data set.
    """
    times: list[float] = []
    begin = time.perf_counter()
    for index in range(min(count, len(dataset))):
        batch = collate([dataset[index]]).to(accelerator.device)
        for _ in range(1 if times else 3):
            if accelerator.device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            with accelerator.autocast():
                model.detect(batch)[0].boxes.cpu()
            took = time.perf_counter() - start
        times.append(1000 * took)
        if time.perf_counter() - begin > budget:
            break
    return {"ms_per_image": round(statistics.median(times), 3)} if times else {}


def table(metrics: dict[str, Any], per_class: bool = True) -> str:
    """The twelve COCO metrics on two lines, and AP by class below them."""
    texts = {key: "-" if metrics[key] is None else f"{metrics[key]:.1f}" for key in METRICS}
    lines = ["  ".join(f"{key:>5}" for key in METRICS), "  ".join(f"{texts[key]:>5}" for key in METRICS)]
    if per_class:
        names = {printable(name): ap for name, ap in metrics["per_class"].items()}
        width = max(map(len, names), default=0)
        lines += [f"{name:<{width}}  {'-' if ap is None else format(ap, '.1f'):>5}" for name, ap in names.items()]
    return "\n".join(lines)
