"""A hand-made COCO data set, small enough to read: three images, two classes with ids 3 and 7."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def annotation(number: int, image: int, box: list[float], category: int = 3, **more: Any) -> dict[str, Any]:
    x, y, w, h = box
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    row = {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": w * h, "iscrowd": 0}
    return {**row, "segmentation": [polygon], **more}


def content() -> dict[str, Any]:
    """Three images (landscape, portrait, landscape); the last one has no box. The categories are not sorted by id."""
    return {
        "info": {"description": "hand-made"},
        "images": [
            {"id": 10, "file_name": "a.png", "height": 40, "width": 60},
            {"id": 4, "file_name": "deep/b.png", "height": 60, "width": 40},
            {"id": 7, "file_name": "c.png", "height": 40, "width": 60},
        ],
        "annotations": [
            annotation(1, 10, [5, 6, 20, 10]),
            annotation(2, 4, [2, 2, 10, 30], 7),
            annotation(3, 10, [30, 20, 10, 10], 7),
            annotation(4, 10, [0, 0, 60, 40], iscrowd=1),
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def write(folder: Path, data: Any, with_images: bool = True) -> tuple[Path, Path]:
    """Write the JSON file and its images; returns the file and the image folder."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    file = folder / "instances.json"
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    if with_images and isinstance(data, dict):
        for k, row in enumerate(data["images"]):
            path = images / row["file_name"]
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(image(row["height"], row["width"], k)).save(path)
    return file, images
