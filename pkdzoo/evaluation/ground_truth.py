"""Ground truth of a COCO evaluation: what the evaluator reads, from a data set or straight from an annotation file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pycocotools import mask as coco_mask


class GroundTruth(Protocol):
    """The part of a data set that the evaluator uses; ``CocoDataset`` is one."""

    image_ids: Any
    sizes: Any
    label_names: list[str]
    label_to_coco_id: list[int]

    def ground_truth(self, segmentations: bool = False) -> dict[str, Any]:
        """Columns ``image_id``, ``category_id``, ``bbox``, ``area``, ``iscrowd`` and ``segmentation``."""
        ...


class JsonGroundTruth:
    """A COCO annotation file as ground truth, for evaluation without images.

    Args:
        path: the JSON file.

    Raises:
        ValueError: it is not a COCO annotation file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.data = json.loads(self.path.read_text(encoding="utf-8"))
        except ValueError as error:
            hint = "results files are evaluated against COCO annotations; pkdzoo data convert writes them"
            raise ValueError(f"{path} is not JSON ({error}): {hint}") from None
        missing = [key for key in ("images", "annotations", "categories") if key not in self.data]
        if missing:
            raise ValueError(f"{path} is not a COCO annotation file: it has no {', '.join(map(repr, missing))}")
        categories = sorted(self.data["categories"], key=lambda c: int(c["id"]))
        self.label_names = [str(c["name"]) for c in categories]
        self.label_to_coco_id = [int(c["id"]) for c in categories]
        self.image_ids = np.array([i["id"] for i in self.data["images"]], np.int64)
        self.sizes = np.array([(i["height"], i["width"]) for i in self.data["images"]], np.int64).reshape(-1, 2)

    def ground_truth(self, segmentations: bool = False) -> dict[str, Any]:
        """See ``GroundTruth``."""
        rows = self.data["annotations"]
        columns: dict[str, Any] = {
            "image_id": np.array([r["image_id"] for r in rows], np.int64),
            "category_id": np.array([r["category_id"] for r in rows], np.int64),
            "bbox": np.array([r["bbox"] for r in rows], np.float64).reshape(-1, 4),
            "area": np.array([r.get("area", np.nan) for r in rows], np.float64),
            "iscrowd": np.array([bool(r.get("iscrowd")) for r in rows], bool),
        }
        if segmentations:
            sizes = dict(zip(self.image_ids.tolist(), self.sizes.tolist()))
            columns["segmentation"] = [run_lengths(r.get("segmentation"), sizes.get(r["image_id"])) for r in rows]
        return columns


def run_lengths(segmentation: Any, size: list[int] | None) -> dict[str, Any] | None:
    """Compressed run lengths of a segmentation in a COCO file; None where there is none."""
    if not segmentation or size is None:
        return None
    if isinstance(segmentation, list):  # pycocotools would read a list of four numbers as a box
        segmentation = [part for part in segmentation if len(part) >= 6]
        merged: dict[str, Any] | None = (
            coco_mask.merge(coco_mask.frPyObjects(segmentation, *size)) if segmentation else None
        )
        return merged
    if isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, *size)
    runs: dict[str, Any] = segmentation
    return runs
