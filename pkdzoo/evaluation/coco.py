"""Detections to COCO's twelve numbers, per class too, for boxes and masks.

pycocotools measures, or faster-coco-eval where it is installed (same numbers to six decimals, ten times
faster). Around them stand guards for what pycocotools stumbles over: it prints, it fails on an empty list of
results, and it takes annotation id 0 for "not matched", so files that count from 0 score too low; here every
annotation gets a new id from 1 up.

Numbers are percent, 0..100, unrounded, as APs are published; None where there is nothing to measure (no
ground truth of that size or class), where pycocotools says -1.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from pkdzoo.structures import Detections

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
BACKENDS = ("auto", "pycocotools", "faster")
State = dict[str, Tensor]


class GroundTruth(Protocol):
    """What the evaluator needs to know of a data set; ``CocoDataset`` is one."""

    image_ids: Any
    sizes: Any
    label_names: list[str]
    label_to_coco_id: list[int]

    def ground_truth(self, segmentations: bool = False) -> dict[str, Any]:
        """Columns ``image_id``, ``category_id``, ``bbox``, ``area``, ``iscrowd`` and ``segmentation``."""
        ...


class JsonGroundTruth:
    """A COCO annotation file as ground truth, for evaluation without images."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.data = json.loads(self.path.read_text(encoding="utf-8"))
        except ValueError as error:
            told = "results files are compared with COCO's annotations, which pkdzoo data convert makes"
            raise ValueError(f"{path} is not JSON ({error}): {told}") from None
        lacking = [key for key in ("images", "annotations", "categories") if key not in self.data]
        if lacking:
            raise ValueError(f"{path} is not a COCO annotation file: it has no {', '.join(map(repr, lacking))}")
        categories = sorted(self.data["categories"], key=lambda c: int(c["id"]))
        self.label_names = [str(c["name"]) for c in categories]
        self.label_to_coco_id = [int(c["id"]) for c in categories]
        self.image_ids = np.array([i["id"] for i in self.data["images"]], np.int64)
        self.sizes = np.array([(i["height"], i["width"]) for i in self.data["images"]], np.int64).reshape(-1, 2)

    def ground_truth(self, segmentations: bool = False) -> dict[str, Any]:
        """See ``GroundTruth``."""
        rows = self.data["annotations"]
        found: dict[str, Any] = {
            "image_id": np.array([r["image_id"] for r in rows], np.int64),
            "category_id": np.array([r["category_id"] for r in rows], np.int64),
            "bbox": np.array([r["bbox"] for r in rows], np.float64).reshape(-1, 4),
            "area": np.array([r.get("area", np.nan) for r in rows], np.float64),
            "iscrowd": np.array([bool(r.get("iscrowd")) for r in rows], bool),
        }
        if segmentations:
            sizes = dict(zip(self.image_ids.tolist(), self.sizes.tolist()))
            found["segmentation"] = [_as_runs(r.get("segmentation"), sizes.get(r["image_id"])) for r in rows]
        return found


def _as_runs(segmentation: Any, size: list[int] | None) -> dict[str, Any] | None:
    """Compressed run lengths of a segmentation as it stands in a file."""
    if not segmentation or size is None:
        return None
    if isinstance(segmentation, list):  # a list of four numbers would be read as a box
        segmentation = [part for part in segmentation if len(part) >= 6]
        merged: dict[str, Any] | None = (
            coco_mask.merge(coco_mask.frPyObjects(segmentation, *size)) if segmentation else None
        )
        return merged
    if isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, *size)
    runs: dict[str, Any] = segmentation
    return runs


class CocoEvaluator:
    """Gathers detections image by image, then measures them.

    An image counts once: what a second ``update`` or ``load`` says about it is dropped, which is what
    becomes of the images that Accelerate repeats to even out the last batch.

    Args:
        source: a ``CocoDataset``, or the path of a COCO annotation file.
        backend: ``"pycocotools"``, ``"faster"`` (needs faster-coco-eval), or ``"auto"``: the faster one if
            it is installed.
        kinds: ``("bbox",)``, or ``("bbox", "segm")`` to measure masks as well.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from pkdzoo import Detections
        >>> from pkdzoo.data import make_shapes, open_dataset
        >>> from pkdzoo.evaluation import CocoEvaluator
        >>> dataset = open_dataset(make_shapes(tempfile.mkdtemp(), train=1, val=2, size=(64, 96)), "val")
        >>> truth = [dataset.load_instances(k) for k in range(len(dataset))]
        >>> found = [Detections(one.boxes, torch.ones(len(one)), one.labels) for one in truth]
        >>> evaluator = CocoEvaluator(dataset)
        >>> evaluator.update(dataset.image_ids.tolist(), found)
        >>> round(evaluator.compute()["AP"], 3)
        100.0
    """

    def __init__(
        self, source: GroundTruth | str | Path, backend: str = "auto", kinds: Sequence[str] = ("bbox",)
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"backend={backend!r}: write one of {', '.join(map(repr, BACKENDS))}")
        unknown = [kind for kind in kinds if kind not in ("bbox", "segm")]
        if unknown or not kinds:
            raise ValueError(f"kinds={kinds!r}: write ('bbox',), ('segm',) or both")
        installed = importlib.util.find_spec("faster_coco_eval") is not None
        if backend == "faster" and not installed:
            raise ValueError(
                "backend='faster' needs faster-coco-eval: pip install pkdzoo[fast], or write 'pycocotools'"
            )
        self.backend = "faster" if backend != "pycocotools" and installed else "pycocotools"
        self.kinds = tuple(kinds)
        self.truth = JsonGroundTruth(source) if isinstance(source, (str, Path)) else source
        self._place = {int(number): k for k, number in enumerate(self.truth.image_ids)}
        self._seen = np.zeros(len(self.truth.image_ids), bool)
        self._parts: list[State] = []

    def reset(self) -> None:
        """Forget all detections."""
        self._seen[:] = False
        self._parts = []

    @property
    def seen(self) -> int:
        """Images that detections have been given for."""
        return int(self._seen.sum())

    def update(self, image_ids: Iterable[int | Tensor], detections: Sequence[Detections]) -> None:
        """Take in the detections of some images.

        Args:
            image_ids: ids of the images, as in the annotation file.
            detections: their detections, boxes in pixels of the **original** image.

        Raises:
            ValueError: an id that is not in the data set, or numbers that do not belong together.
        """
        numbers = [int(number) for number in image_ids]
        if len(numbers) != len(detections):
            raise ValueError(f"{len(numbers)} image ids but detections of {len(detections)} images")
        self.load([_pack(numbers, detections, "segm" in self.kinds)])

    def state(self) -> State:
        """Everything taken in so far as plain tensors, to be sent to another process's ``load``."""
        return _join(self._parts, "segm" in self.kinds)

    def load(self, states: Iterable[State]) -> None:
        """Take in what other evaluators' ``state()`` holds; images already seen are dropped."""
        for state in states:
            fresh = []
            for number in state["image_ids"].tolist():
                if number not in self._place:
                    raise ValueError(f"image id {number} is not in the data set that is evaluated")
                place = self._place[number]
                fresh.append(not self._seen[place])
                self._seen[place] = True
            self._parts.append(state if all(fresh) else _select(state, torch.tensor(fresh, dtype=torch.bool)))

    def compute(self, seen_only: bool = False) -> dict[str, Any]:
        """Measure.

        Args:
            seen_only: measure on the images that detections were given for, instead of counting every
                object of the others as missed.

        Returns:
            The twelve numbers of ``METRICS`` for boxes and ``per_class``, AP by class name; those of masks
            under ``"segm"`` (at the top where only masks are measured). Percent, or None.
        """
        state = self.state()
        self._parts = [state]
        wanted = self.truth.image_ids[self._seen] if seen_only else self.truth.image_ids
        if len(wanted) == 0:
            raise ValueError("nothing to measure: no detections were given, not even empty ones")
        with _without_collector():
            results = {kind: self._measure(kind, state, np.asarray(wanted)) for kind in self.kinds}
        if len(self.kinds) == 1:
            return results[self.kinds[0]]
        return {**results["bbox"], "segm": results["segm"]}

    def _measure(self, kind: str, state: State, wanted: NDArray[np.int64]) -> dict[str, Any]:
        coco_class, eval_class = _backend(self.backend)
        ids = [number for number in self.truth.label_to_coco_id if number >= 0]
        images = [
            {"id": int(n), "height": int(h), "width": int(w)}
            for n, (h, w) in zip(self.truth.image_ids, np.asarray(self.truth.sizes))
        ]
        frame = {"images": images, "categories": [{"id": number, "name": str(number)} for number in ids]}
        with contextlib.redirect_stdout(io.StringIO()):
            truth, found = coco_class(), coco_class()
            truth.dataset = {**frame, "annotations": self._true_rows(kind)}
            found.dataset = {**frame, "annotations": self._found_rows(kind, state)}
            truth.createIndex()
            found.createIndex()
            run = eval_class(truth, found, kind)
            run.params.imgIds = sorted(set(wanted.tolist()))
            run.evaluate()
            run.accumulate()
            run.summarize()
        metrics: dict[str, Any] = {name: _percent(value) for name, value in zip(METRICS, run.stats)}
        precision = run.eval["precision"]  # (thresholds, recalls, classes, areas, limits)
        column = {number: k for k, number in enumerate(run.params.catIds)}
        metrics["per_class"] = {
            name: _mean(precision[:, :, column[number], 0, -1]) if number in column else None
            for name, number in zip(self.truth.label_names, self.truth.label_to_coco_id)
        }
        return metrics

    def _true_rows(self, kind: str) -> list[dict[str, Any]]:
        truth = self.truth.ground_truth(segmentations=kind == "segm")
        box = truth["bbox"]
        area = np.where(np.isnan(truth["area"]), box[:, 2] * box[:, 3], truth["area"])
        columns = zip(
            truth["image_id"].tolist(),
            truth["category_id"].tolist(),
            box.tolist(),
            area.tolist(),
            truth["iscrowd"].tolist(),
        )
        rows = [
            {"id": k + 1, "image_id": i, "category_id": c, "bbox": b, "area": a, "iscrowd": int(w), "ignore": int(w)}
            for k, (i, c, b, a, w) in enumerate(columns)
        ]
        if kind == "segm":
            for row, runs in zip(rows, truth["segmentation"]):
                row["segmentation"] = runs if runs is not None else _no_pixels(self._size(row["image_id"]))
        return rows

    def _size(self, image_id: int) -> list[int]:
        return [int(side) for side in self.truth.sizes[self._place[image_id]]]

    def _found_rows(self, kind: str, state: State) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for row in _rows(state, self.truth.label_to_coco_id, with_masks=kind == "segm"):
            _, _, width, height = row["bbox"]
            row |= {"id": len(rows) + 1, "iscrowd": 0, "area": width * height}
            if kind == "segm":  # small, medium and large go by the mask here, as in mmdetection
                row["area"] = float(coco_mask.area(row["segmentation"]))
            rows.append(row)
        return rows

    def to_coco_results(self) -> list[dict[str, Any]]:
        """The detections as COCO's results list, ready for ``json.dump``; boxes are x, y, width, height."""
        rows = []
        for row in _rows(self.state(), self.truth.label_to_coco_id, with_masks="segm" in self.kinds):
            if "segmentation" in row:
                runs = row["segmentation"]
                row["segmentation"] = {"size": runs["size"], "counts": runs["counts"].decode()}
            rows.append(row)
        return rows


def _backend(name: str) -> tuple[Any, Any]:
    if name == "faster":
        from faster_coco_eval import COCO, COCOeval_faster

        return COCO, COCOeval_faster
    from pycocotools.coco import COCO as SlowCOCO
    from pycocotools.cocoeval import COCOeval

    return SlowCOCO, COCOeval


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """No search for garbage: a dict and a list for each detection would set it off again and again, and each time it
    walks over all of them and all of torch, which takes as long as measuring. What is made here refers to no cycles.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _percent(value: float) -> float | None:
    return None if value < 0 else 100.0 * float(value)


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[values > -1]
    return 100.0 * float(known.mean()) if known.size else None


def _no_pixels(size: list[int]) -> dict[str, Any]:
    runs: dict[str, Any] = coco_mask.encode(np.zeros(size, np.uint8, order="F"))
    return runs


# ---- detections in flat tensors: a dict a box costs 800 bytes, a row of these 28


def _pack(numbers: list[int], detections: Sequence[Detections], with_masks: bool) -> State:
    """``image_ids`` and ``counts`` by image; ``boxes``, ``scores``, ``labels`` (and masks) by detection."""
    parts = [d for d in detections if len(d)]
    state = {
        "image_ids": torch.tensor(numbers, dtype=torch.int64),
        "counts": torch.tensor([len(d) for d in detections], dtype=torch.int64),
        "boxes": torch.cat([d.boxes.detach().float().cpu().reshape(-1, 4) for d in parts] or [torch.zeros(0, 4)]),
        "scores": torch.cat([d.scores.detach().float().cpu() for d in parts] or [torch.zeros(0)]),
        "labels": torch.cat([d.labels.detach().to(torch.int32).cpu() for d in parts] or [_none(torch.int32)]),
    }
    if with_masks:
        runs = [run for d in parts for run in _encode(d)]
        state["run_sizes"] = torch.tensor([run["size"] for run in runs], dtype=torch.int32).reshape(-1, 2)
        state["run_bytes"] = torch.tensor([len(run["counts"]) for run in runs], dtype=torch.int64)
        state["runs"] = torch.tensor(list(b"".join(run["counts"] for run in runs)), dtype=torch.uint8)
    return state


def _none(dtype: torch.dtype) -> Tensor:
    return torch.zeros(0, dtype=dtype)


def _encode(detections: Detections) -> list[dict[str, Any]]:
    if detections.masks is None:
        raise ValueError("masks are to be measured, but these detections have none: measure kinds=('bbox',)")
    stack = detections.masks.cpu().permute(1, 2, 0).numpy()
    runs: list[dict[str, Any]] = coco_mask.encode(np.asfortranarray(stack, np.uint8))
    return runs


def _join(parts: list[State], with_masks: bool) -> State:
    if not parts:
        return _pack([], [], with_masks)
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _select(state: State, keep: Tensor) -> State:
    """The images that ``keep`` (bool) picks, with their detections."""
    rows = keep.repeat_interleave(state["counts"])
    per_image = ("image_ids", "counts")
    chosen = {k: v[keep] if k in per_image else v[rows] for k, v in state.items() if k != "runs"}
    if "runs" in state:
        chosen["runs"] = state["runs"][rows.repeat_interleave(state["run_bytes"])]
    return chosen


def _rows(state: State, category_ids: list[int], with_masks: bool) -> Iterable[dict[str, Any]]:
    """COCO result rows; detections of classes that the data set does not have are left out."""
    owners = state["image_ids"].repeat_interleave(state["counts"]).tolist()
    boxes = state["boxes"].double()
    boxes[:, 2:] -= boxes[:, :2]
    ends = state["run_bytes"].cumsum(0).tolist() if with_masks and "runs" in state else []
    columns = zip(owners, boxes.tolist(), state["scores"].tolist(), state["labels"].tolist())
    for k, (owner, box, score, label) in enumerate(columns):
        if not 0 <= label < len(category_ids):
            raise ValueError(f"a detection has label {label}, but the data set has classes 0..{len(category_ids) - 1}")
        if category_ids[label] < 0:
            continue
        row = {"image_id": owner, "category_id": category_ids[label], "bbox": box, "score": score}
        if ends:
            counts = state["runs"][ends[k - 1] if k else 0 : ends[k]].numpy().tobytes()
            row["segmentation"] = {"size": state["run_sizes"][k].tolist(), "counts": counts}
        yield row
