"""COCO evaluation of boxes and masks: COCO's twelve numbers, and AP per class.

pycocotools computes the numbers, or faster-coco-eval where it is installed. The numbers of pycocotools equal those of a
plain pycocotools run on the same files; those of faster-coco-eval equal them to six decimals, ten times faster. A
``CocoDataset`` and its annotation file give the same numbers.

Four problems of pycocotools are avoided: it prints, it fails on an empty list of results, it treats annotation id 0 as
"not matched", so files that count from 0 score too low (here every annotation gets a new id from 1 up), and it takes
objects that the file marks as ``ignore`` or ``difficult`` for ordinary ones. Here they count neither as found nor as
missed, and a detection that matches one counts neither as right nor as wrong, as in Pascal VOC's evaluation. Such an
object takes any number of detections by IoU; a crowd region by the share of the detection inside it.

Numbers are percent, 0..100, unrounded, as APs are published. Where there is no ground truth of a size or class, the
number is None instead of pycocotools' -1.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from pkdzoo.evaluation.ground_truth import AnnotationFile, GroundTruth
from pkdzoo.evaluation.packed import State, columns_of_rows, join, pack, result_rows, select
from pkdzoo.evaluation.thresholds import best_thresholds, count_near
from pkdzoo.structures import Detections
from pkdzoo.utils.text import counted, install_line

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
BACKENDS = ("auto", "pycocotools", "faster")
# Both backends ignore objects whose area is outside the range that is evaluated, and all ranges end below this.
IGNORED_AREA = 1e12
LOWEST_IOU, TOUCHING = 0.5, 1e-9  # lowest IoU of COCO's metrics, and of boxes whose masks may have it


class CocoEvaluator:
    """Collects detections image by image, then evaluates them.

    Every image is used once. Detections that a second ``update`` or ``load`` gives for it are dropped: Accelerate
    repeats images to fill the last batch.

    Args:
        source: a ``CocoDataset``, or the path of an annotation file.
        backend: ``"pycocotools"``, ``"faster"`` (needs faster-coco-eval), or ``"auto"``: the faster one if it is
            installed.
        kinds: ``("bbox",)``, or ``("bbox", "segm")`` to evaluate masks as well.

    Raises:
        ValueError: an unknown backend or kind, or a file that is no annotation file.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from pkdzoo import Detections
        >>> from pkdzoo.data import make_shapes, open_dataset
        >>> from pkdzoo.evaluation import CocoEvaluator
        >>> dataset = open_dataset(make_shapes(tempfile.mkdtemp(), train=1, val=2, size=(64, 96)), "val")
        >>> truth = [dataset.load_instances(k) for k in range(len(dataset))]
        >>> detections = [Detections(one.boxes, torch.ones(len(one)), one.labels) for one in truth]
        >>> evaluator = CocoEvaluator(dataset)
        >>> evaluator.update(dataset.image_ids.tolist(), detections)
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
            raise ValueError(f"backend='faster' needs faster-coco-eval: {install_line('fast')}; or write 'pycocotools'")
        self.backend = "faster" if backend != "pycocotools" and installed else "pycocotools"
        self.kinds = tuple(kinds)
        self.truth = AnnotationFile(source) if isinstance(source, (str, Path)) else source
        self._position = {int(number): k for k, number in enumerate(self.truth.image_ids)}
        self._seen = np.zeros(len(self.truth.image_ids), bool)
        self._parts: list[State] = []

    def reset(self) -> None:
        """Forget all detections."""
        self._seen[:] = False
        self._parts = []

    @property
    def seen(self) -> int:
        """Number of images with detections so far, empty ones included."""
        return int(self._seen.sum())

    def update(self, image_ids: Iterable[int | Tensor], detections: Sequence[Detections]) -> None:
        """Add the detections of some images.

        Args:
            image_ids: ids of the images, as in the annotation file.
            detections: their detections, boxes in pixels of the **original** image.

        Raises:
            ValueError: an id that is not in the data set, or different numbers of ids and detections.
        """
        numbers = [int(number) for number in image_ids]
        if len(numbers) != len(detections):
            raise ValueError(
                f"{counted(len(numbers), 'image id')} but detections of {counted(len(detections), 'image')}"
            )
        self.load([pack(numbers, detections, "segm" in self.kinds)])

    def state(self) -> State:
        """All detections so far as plain tensors, to be sent to another process's ``load``."""
        return join(self._parts, "segm" in self.kinds)

    def load(self, states: Iterable[State]) -> None:
        """Add the ``state()`` of other evaluators; images already seen are dropped.

        Raises:
            ValueError: an image id that is not in the data set.
        """
        for state in states:
            fresh = []
            for number in state["image_ids"].tolist():
                if number not in self._position:
                    raise ValueError(f"image id {number} is not in the data set that is evaluated")
                position = self._position[number]
                fresh.append(not self._seen[position])
                self._seen[position] = True
            self._parts.append(state if all(fresh) else select(state, torch.tensor(fresh, dtype=torch.bool)))

    def compute(self, seen_only: bool = False, thresholds: bool = False) -> dict[str, Any]:
        """Compute the metrics.

        Args:
            seen_only: evaluate only the images with detections (also empty ones), instead of counting the objects of
                all other images as missed.
            thresholds: add ``best_f1`` of the boxes: the threshold with the highest F1 at IoU 0.5, with precision,
                recall and F1; see :func:`pkdzoo.evaluation.thresholds.best_thresholds`.

        Returns:
            The twelve numbers of ``METRICS`` for boxes and ``per_class``, AP by class name; those of masks under
            ``"segm"`` (at the top level where only masks are evaluated). Percent, or None.

        Raises:
            ValueError: no image to evaluate, or a label that the data set does not have.
        """
        state = self.state()
        self._parts = [state]
        image_ids = self.truth.image_ids[self._seen] if seen_only else self.truth.image_ids
        if len(image_ids) == 0:
            raise ValueError("no image to evaluate: no detections were given, not even empty ones")
        with _garbage_collector_off():
            results = {kind: self._evaluate(kind, state, np.asarray(image_ids)) for kind in self.kinds}
        metrics = dict(results[self.kinds[0]] if len(self.kinds) == 1 else results["bbox"])
        if thresholds:
            metrics["best_f1"] = self._best_thresholds(state, np.asarray(image_ids))
        return metrics if len(self.kinds) == 1 else {**metrics, "segm": results["segm"]}

    def _best_thresholds(self, state: State, image_ids: NDArray[np.int64]) -> dict[str, Any]:
        truth = self.truth.ground_truth()
        kept = np.isin(truth["image_id"], image_ids)
        found = columns_of_rows(list(result_rows(state, self.truth.label_to_coco_id, with_masks=False)))
        objects = {name: column[kept] for name, column in truth.items()}
        return best_thresholds(objects, found, self.truth.label_names, self.truth.label_to_coco_id)

    def _evaluate(self, kind: str, state: State, image_ids: NDArray[np.int64]) -> dict[str, Any]:
        coco_class, eval_class = _backend(self.backend)
        ids = [number for number in self.truth.label_to_coco_id if number >= 0]
        images = [
            {"id": int(n), "height": int(h), "width": int(w)}
            for n, (h, w) in zip(self.truth.image_ids, np.asarray(self.truth.sizes))
        ]
        common = {"images": images, "categories": [{"id": number, "name": str(number)} for number in ids]}
        found = self._detection_rows(kind, state)
        with contextlib.redirect_stdout(io.StringIO()):
            truth, detections = coco_class(), coco_class()
            truth.dataset = {**common, "annotations": self._truth_rows(kind, found)}
            detections.dataset = {**common, "annotations": found}
            truth.createIndex()
            detections.createIndex()
            run = eval_class(truth, detections, kind)
            run.params.imgIds = sorted(set(image_ids.tolist()))
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

    def _truth_rows(self, kind: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows of all objects. Both backends let an ignored object take one detection, so it is repeated for others."""
        truth = self.truth.ground_truth(segmentations=kind == "segm")
        ignored = truth["ignore"] & ~truth["iscrowd"]
        if ignored.any():
            near = count_near(truth, columns_of_rows(found), LOWEST_IOU if kind == "bbox" else TOUCHING)
            copies = np.where(ignored, near.clip(min=1), 1)
            truth = {name: _repeat(column, copies) for name, column in truth.items()}
        box = truth["bbox"]
        area = np.where(np.isnan(truth["area"]), _areas(kind, truth), truth["area"])
        area = np.where(truth["ignore"] & ~truth["iscrowd"], IGNORED_AREA, area)
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
        return [int(side) for side in self.truth.sizes[self._position[image_id]]]

    def _detection_rows(self, kind: str, state: State) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for row in result_rows(state, self.truth.label_to_coco_id, with_masks=kind == "segm"):
            _, _, width, height = row["bbox"]
            row |= {"id": len(rows) + 1, "iscrowd": 0, "area": width * height}
            if kind == "segm":  # small, medium and large are by mask area here, as in mmdetection
                row["area"] = float(coco_mask.area(row["segmentation"]))
            rows.append(row)
        return rows

    def to_coco_results(self) -> list[dict[str, Any]]:
        """The detections as COCO's results list, ready for ``json.dump``; boxes are x, y, width, height."""
        rows = []
        for row in result_rows(self.state(), self.truth.label_to_coco_id, with_masks="segm" in self.kinds):
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
def _garbage_collector_off() -> Iterator[None]:
    """Turn the garbage collector off; nothing here has reference cycles.

    The dict and list of each detection would start it again and again, and each time it walks over all of them and all
    of torch, which takes as long as the evaluation.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _percent(value: float) -> float | None:
    return None if value < 0 else 100.0 * float(value)


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[values > -1]
    return 100.0 * float(known.mean()) if known.size else None


def _repeat(column: Any, counts: NDArray[np.int64]) -> Any:
    if isinstance(column, np.ndarray):
        return np.repeat(column, counts, axis=0)
    return [value for value, count in zip(column, counts.tolist()) for _ in range(count)]


def _areas(kind: str, truth: dict[str, Any]) -> NDArray[np.float64]:
    """(N,) area of each object's box, or of its mask where masks are evaluated."""
    boxes: NDArray[np.float64] = truth["bbox"][:, 2] * truth["bbox"][:, 3]
    if kind == "bbox":
        return boxes
    return np.array(
        [box if runs is None else coco_mask.area(runs) for box, runs in zip(boxes, truth["segmentation"])], np.float64
    )


def _no_pixels(size: list[int]) -> dict[str, Any]:
    runs: dict[str, Any] = coco_mask.encode(np.zeros(size, np.uint8, order="F"))
    return runs
