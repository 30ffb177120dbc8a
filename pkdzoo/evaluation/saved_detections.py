"""The detections of an evaluation as a file, from which reports are written without running the detector again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from pkdzoo.checkpoints.io import save_safetensors
from pkdzoo.evaluation.ground_truth import AnnotationFile
from pkdzoo.evaluation.matches import Columns, Matches
from pkdzoo.evaluation.packed import State, columns_of_rows, result_rows

DETECTIONS = "detections.safetensors"
KEYS = ("image_ids", "counts", "boxes", "scores", "labels")


@dataclass(frozen=True)
class SavedDetections:
    """Detections of all images of a validation set.

    Attributes:
        state: packed detections, see ``packed.py``; boxes in pixels of the original images.
        annotations: path of the annotations.
        images: folder of the images.
        label_names: classes of the detector.
    """

    state: State
    annotations: Path
    images: Path
    label_names: tuple[str, ...]

    def write(self, path: Path) -> None:
        """Write the file; it has boxes, scores and labels, but no masks."""
        about = {
            "annotations": str(self.annotations),
            "images": str(self.images),
            "label_names": json.dumps(self.label_names),
        }
        save_safetensors({key: self.state[key] for key in KEYS}, path, about)

    @classmethod
    def read(cls, path: Path) -> SavedDetections:
        """Read a file.

        Raises:
            ValueError: it is not as an evaluation wrote it.
        """
        try:
            with safe_open(str(path), "pt") as file:
                about: dict[str, str] = file.metadata() or {}
                state = {key: file.get_tensor(key) for key in KEYS}
            names = tuple(str(name) for name in json.loads(about["label_names"]))
            return cls(state, Path(about["annotations"]), Path(about["images"]), names)
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{path} is not as an evaluation wrote it: {error}") from error

    def columns(self, truth: AnnotationFile) -> Columns:
        """The detections as columns, with the category ids of the annotations."""
        number = dict(zip(truth.label_names, truth.label_to_coco_id))
        ids = [number.get(name, -1) for name in self.label_names]
        return columns_of_rows(list(result_rows(self.state, ids, with_masks=False)))

    def matches(self, truth: AnnotationFile, objects: dict[str, Any]) -> Matches:
        """The detections beside the objects of the annotations, ``truth.ground_truth()``."""
        return Matches(objects, self.columns(truth), np.sort(truth.image_ids), truth.label_to_coco_id)
