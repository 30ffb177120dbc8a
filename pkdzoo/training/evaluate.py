"""Measuring a detector on a validation set, over any number of processes."""

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
from pkdzoo.evaluation import METRICS, CocoEvaluator
from pkdzoo.inference.predictor import to_original
from pkdzoo.models._factory import create_detector
from pkdzoo.models.detector import Detector
from pkdzoo.structures import Batch


def open_detector(source: str | Path, best: bool = True) -> Detector:
    """A trained detector by whatever names it.

    Args:
        source: a registered name, ``hf-hub:...``, a saved detector's folder, or a run's folder.
        best: of a run, take its best student rather than its last.

    Raises:
        ValueError: for a folder that holds neither, and as :func:`pkdzoo.create_detector`.
    """
    folder = Path(str(source).removeprefix("local-dir:"))
    if not folder.is_dir():
        return create_detector(str(source), pretrained=True)
    places = [folder, *(folder / name for name in (("best", "last") if best else ("last", "best")))]
    found = next((place for place in places if (place / "config.json").is_file()), None)
    if found is None:
        raise ValueError(f"{folder} holds no detector: neither config.json nor a run's best/ or last/")
    return create_detector(f"local-dir:{found}")


@torch.inference_mode()
def evaluate(
    model: Detector,
    loader: DataLoader[Batch],
    dataset: CocoDataset,
    accelerator: Accelerator,
    backend: str = "auto",
    seen_only: bool = False,
) -> dict[str, Any]:
    """COCO's numbers of a detector.

    Processes keep their own detections and exchange them once, at the end; the images that Accelerate repeats to
    even out the last batch are counted once. Every process returns the same numbers.

    Args:
        model: not wrapped; its mode is put back.
        loader: prepared by Accelerate, in the order of ``dataset``.
        dataset: what ``loader`` reads.
        accelerator: of the run.
        backend: see CocoEvaluator.
        seen_only: the loader reads only a part of ``dataset``; measure on that part.

    Returns:
        The twelve numbers in percent and ``per_class``; see ``CocoEvaluator.compute``.
    """
    for buffer in model.buffers() if accelerator.num_processes > 1 else ():
        broadcast(buffer)  # running statistics are each process's own; what is saved and measured is the first one's
    found = CocoEvaluator(dataset, backend)
    main = accelerator.is_main_process
    for batch in tqdm(loader, desc="evaluate", leave=False, dynamic_ncols=True, disable=None if main else True):
        assert batch.meta is not None
        with accelerator.autocast():
            detections = model.detect(batch)
        original = [to_original(d, m["scale"], m["original_size"]) for d, m in zip(detections, batch.meta)]
        found.update([m["image_id"] for m in batch.meta], original)
    states = gather_object([found.state()])
    numbers: list[dict[str, Any] | None] = [None]
    if main:
        merged = CocoEvaluator(dataset, backend)
        merged.load(states)
        numbers = [merged.compute(seen_only)]
    numbers = broadcast_object_list(numbers)
    assert numbers[0] is not None
    return numbers[0]


@torch.inference_mode()
def time_images(
    model: Detector, dataset: CocoDataset, accelerator: Accelerator, count: int = 10, budget: float = 2.0
) -> dict[str, float]:
    """How long an image takes from memory to its detections, one at a time, after two that do not count.

    Args:
        model: not wrapped, on its device.
        dataset: its first images are taken.
        accelerator: of the run.
        count: at most so many.
        budget: seconds after which the rest is left out.

    Returns:
        ``ms_per_image``, the median; nothing of an empty data set.
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
    """The twelve numbers on two lines, and AP by class below them."""
    words = {key: "-" if metrics[key] is None else f"{metrics[key]:.1f}" for key in METRICS}
    lines = ["  ".join(f"{key:>5}" for key in METRICS), "  ".join(f"{words[key]:>5}" for key in METRICS)]
    if per_class:
        names = metrics["per_class"]
        width = max(map(len, names), default=0)
        lines += [f"{name:<{width}}  {'-' if ap is None else format(ap, '.1f'):>5}" for name, ap in names.items()]
    return "\n".join(lines)
