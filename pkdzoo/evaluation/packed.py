"""Detections of many images in flat tensors: a dict per box takes 800 bytes, a row of these tensors 28."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from pkdzoo.structures import Detections
from pkdzoo.utils.precision import float32_or_wider

State = dict[str, Tensor]


def pack(numbers: list[int], detections: Sequence[Detections], with_masks: bool) -> State:
    """Pack the detections of some images.

    Args:
        numbers: image ids.
        detections: detections of each image.
        with_masks: keep masks as run lengths.

    Returns:
        ``image_ids`` and ``counts`` with one row per image; ``boxes``, ``scores`` and ``labels`` (and run lengths) with
        one row per detection.

    Raises:
        ValueError: masks are requested and the detections have none.
    """
    parts = [d for d in detections if len(d)]
    state = {
        "image_ids": torch.tensor(numbers, dtype=torch.int64),
        "counts": torch.tensor([len(d) for d in detections], dtype=torch.int64),
        "boxes": torch.cat(
            [float32_or_wider(d.boxes.detach()).cpu().reshape(-1, 4) for d in parts] or [torch.zeros(0, 4)]
        ),
        "scores": torch.cat([float32_or_wider(d.scores.detach()).cpu() for d in parts] or [torch.zeros(0)]),
        "labels": torch.cat(
            [d.labels.detach().to(torch.int32).cpu() for d in parts] or [torch.zeros(0, dtype=torch.int32)]
        ),
    }
    if with_masks:
        runs = [run for d in parts for run in _encode_masks(d)]
        state["run_sizes"] = torch.tensor([run["size"] for run in runs], dtype=torch.int32).reshape(-1, 2)
        state["run_bytes"] = torch.tensor([len(run["counts"]) for run in runs], dtype=torch.int64)
        state["runs"] = torch.tensor(list(b"".join(run["counts"] for run in runs)), dtype=torch.uint8)
    return state


def _encode_masks(detections: Detections) -> list[dict[str, Any]]:
    if detections.masks is None:
        raise ValueError("masks are to be evaluated, but these detections have none: evaluate kinds=('bbox',)")
    stack = detections.masks.cpu().permute(1, 2, 0).numpy()
    runs: list[dict[str, Any]] = coco_mask.encode(np.asfortranarray(stack, np.uint8))
    return runs


def join(parts: list[State], with_masks: bool) -> State:
    """Concatenate packed detections."""
    if not parts:
        return pack([], [], with_masks)
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def select(state: State, keep: Tensor) -> State:
    """Select images by a mask (bool), with their detections."""
    rows = keep.repeat_interleave(state["counts"])
    per_image = ("image_ids", "counts")
    chosen = {k: v[keep] if k in per_image else v[rows] for k, v in state.items() if k != "runs"}
    if "runs" in state:
        chosen["runs"] = state["runs"][rows.repeat_interleave(state["run_bytes"])]
    return chosen


def result_rows(state: State, category_ids: list[int], with_masks: bool) -> Iterable[dict[str, Any]]:
    """Rows of a COCO results list; detections of classes that the data set lacks are left out.

    Args:
        state: packed detections.
        category_ids: category id of each label, negative where the data set lacks the class.
        with_masks: add ``segmentation``.

    Raises:
        ValueError: a detection has a label beyond ``category_ids``.
    """
    owners = state["image_ids"].repeat_interleave(state["counts"]).tolist()
    boxes = state["boxes"].to(torch.float64, copy=True)
    boxes[:, 2:] -= boxes[:, :2]
    if state["boxes"].dtype == torch.float64:  # x + width - x is the width but for the last bits
        boxes[:, 2:] = boxes[:, 2:].round(decimals=9)
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


def columns_of_rows(rows: Sequence[dict[str, Any]]) -> dict[str, NDArray[Any]]:
    """Columns ``image_id``, ``category_id``, ``bbox`` (N, 4) and ``score`` of the rows of :func:`result_rows`."""
    return {
        "image_id": np.array([row["image_id"] for row in rows], np.int64),
        "category_id": np.array([row["category_id"] for row in rows], np.int64),
        "bbox": np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4),
        "score": np.array([row["score"] for row in rows], np.float64),
    }
