"""Checks of a batch, and one type for its boxes, before its losses are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from pkdzoo.structures import Batch, Instances
from pkdzoo.utils.text import counted


def check_batch(batch: Any) -> None:
    """Raise TypeError for anything else than a Batch; the message says what to write."""
    if not isinstance(batch, Batch):
        raise TypeError(
            f"this takes a pkdzoo.Batch of raw images, not a {type(batch).__name__}: write "
            "pkdzoo.Batch(images, sizes), or for detections model.predict(image)"
        )


def check_instances(instances: Sequence[Instances], meta: Sequence[Mapping[str, Any]] | None, num_classes: int) -> None:
    """Refuse objects with an impossible label or box, which would silently train a detector wrongly.

    Args:
        instances: objects of each image.
        meta: facts about each image for the error message, see :class:`pkdzoo.structures.Batch`; or None.
        num_classes: C.

    Raises:
        ValueError: for a label outside ``0 .. C-1``, or a box that is not finite or has no area; it names the image.
    """
    boxes = torch.cat([objects.boxes for objects in instances])
    labels = torch.cat([objects.labels for objects in instances])
    bad_label = (labels < 0) | (labels >= num_classes)
    bad_box = ~boxes.isfinite().all(dim=1) | (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)
    if not (bad_label | bad_box).any():  # the only synchronization with the device
        return
    image, index = first_of(bad_label | bad_box, instances)
    name = meta[image].get("file_name", f"image {image}") if meta else f"image {image} of the batch"
    objects = instances[image]
    label, box = int(objects.labels[index]), [round(x, 2) for x in objects.boxes[index].tolist()]
    if not 0 <= label < num_classes:
        raise ValueError(
            f"{name}: label {label}, but the detector has {counted(num_classes, 'class')}, 0 to {num_classes - 1}"
        )
    raise ValueError(f"{name}: box {box} has no area; xyxy in pixels, x1 < x2 and y1 < y2: drop or correct it")


def first_of(flags: torch.Tensor, instances: Sequence[Instances]) -> tuple[int, int]:
    """Image and object index of the first object that is flagged; ``flags`` is (sum of G,) bool."""
    row = int(flags.nonzero()[0, 0])
    for image, objects in enumerate(instances):
        if row < len(objects):
            return image, row
        row -= len(objects)
    raise AssertionError("more flags than objects")


def with_one_type(instances: Sequence[Instances], widest: torch.dtype) -> list[Instances]:
    """The objects with boxes of one type: float64 if some are float64 and ``widest`` allows it, otherwise float32.

    Float32 boxes are not widened: IoU that are equal in float32 decide which anchors an object takes, as in the
    original programs.
    """
    wide = any(each.boxes.dtype == torch.float64 for each in instances) and widest == torch.float64
    kind = torch.float64 if wide else torch.float32
    return [each if each.boxes.dtype == kind else replace(each, boxes=each.boxes.to(kind)) for each in instances]
