"""What ``predict`` returns for one picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pkdzoo.drawing import draw_detections
from pkdzoo.structures import Detections


@dataclass
class Result:
    """Detections in one picture, best first.

    Attributes:
        boxes: (N, 4) xyxy in pixels of the picture as it was given.
        scores: (N,) in 0..1.
        labels: (N,) int64.
        label_names: name of every class the detector knows; ``names`` are those of the detections.
        size: (height, width) of the picture.
        path: where the picture came from, if from a file.
        masks: (N, height, width) bool, where the detector draws them.
        error: why this picture of several could not be read; the other fields are empty then.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    label_names: tuple[str, ...]
    size: tuple[int, int]
    path: str | None = None
    masks: Tensor | None = None
    error: str | None = None
    picture: Image.Image | None = field(default=None, repr=False)

    @classmethod
    def of(cls, found: Detections, label_names: tuple[str, ...], size: tuple[int, int], **source: Any) -> Result:
        """A result from detections in pixels of the picture."""
        masks = None if found.masks is None else found.masks.cpu()
        return cls(found.boxes.cpu(), found.scores.cpu(), found.labels.cpu(), label_names, size, masks=masks, **source)

    @classmethod
    def failed(cls, path: str | None, error: str, label_names: tuple[str, ...]) -> Result:
        """An empty result that says why."""
        none = torch.zeros(0)
        return cls(none.reshape(0, 4), none, none.long(), label_names, (0, 0), path, error=error)

    @property
    def names(self) -> list[str]:
        """Class name of each detection."""
        return [self.label_names[int(label)] for label in self.labels]

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Tensor | slice) -> Result:
        """The detections that ``index`` picks, e.g. ``result[result.scores > 0.5]``."""
        masks = None if self.masks is None else self.masks[index]
        return replace(self, boxes=self.boxes[index], scores=self.scores[index], labels=self.labels[index], masks=masks)

    def __str__(self) -> str:
        where = self.path or "picture"
        if self.error:
            return self.error if self.error.startswith(where) else f"{where}: {self.error}"
        lines = [f"{where} ({self.size[1]} x {self.size[0]}): {len(self)} detections"]
        for name, score, box in zip(self.names, self.scores.tolist(), self.boxes.tolist()):
            lines.append(f"  {name:<20} {score:5.2f}  " + " ".join(f"{v:8.1f}" for v in box))
        return "\n".join(lines)

    def plot(self, score: float = 0.3) -> Image.Image:
        """The picture with every detection from ``score`` on drawn on it.

        Raises:
            ValueError: for a result without a picture.
        """
        picture = self.picture
        if picture is None and self.path is not None and self.error is None:
            with Image.open(self.path) as file:
                picture = ImageOps.exif_transpose(file).convert("RGB")
        if picture is None:
            raise ValueError(f"there is nothing to draw on: {self.error or 'the picture was not kept'}")
        shown = self[self.scores >= score]
        captions = [f"{name} {value:.2f}" for name, value in zip(shown.names, shown.scores.tolist())]
        masks = None if shown.masks is None else shown.masks.numpy()
        return draw_detections(picture, shown.boxes.numpy(), shown.labels.tolist(), captions, masks)

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows."""
        import io

        if self.error:
            return None
        buffer = io.BytesIO()
        self.plot().save(buffer, "PNG")
        return buffer.getvalue()

    def to_dict(self) -> dict[str, Tensor]:
        """Torchvision's form: ``boxes``, ``scores``, ``labels`` (and ``masks``)."""
        found = {"boxes": self.boxes, "scores": self.scores, "labels": self.labels}
        return found if self.masks is None else {**found, "masks": self.masks}

    def to_supervision(self) -> Any:
        """A ``supervision.Detections``, with class names in its ``data``; needs ``pip install pkdzoo[supervision]``.

        Raises:
            ImportError: when the package is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise ImportError("to_supervision() needs supervision: pip install pkdzoo[supervision]") from None
        return supervision.Detections(
            xyxy=self.boxes.numpy().reshape(-1, 4),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy(),
            mask=None if self.masks is None else self.masks.numpy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and names, ready for ``json.dump``."""
        if self.error:
            return {"path": self.path, "error": self.error}
        return {
            "path": self.path,
            "size": {"height": self.size[0], "width": self.size[1]},
            "detections": [
                {"name": name, "label": label, "score": score, "box_xyxy": box}
                for name, label, score, box in zip(
                    self.names, self.labels.tolist(), self.scores.tolist(), self.boxes.tolist()
                )
            ],
        }

    def to_coco(self, image_id: int, category_ids: Mapping[int, int] | None = None) -> list[dict[str, Any]]:
        """Rows of a COCO results file: boxes as x, y, width, height.

        Args:
            image_id: of the picture in the annotation file.
            category_ids: from our labels to the file's ids; None writes labels as they are.
        """
        rows = []
        for label, score, (x1, y1, x2, y2) in zip(self.labels.tolist(), self.scores.tolist(), self.boxes.tolist()):
            category = label if category_ids is None else category_ids[label]
            rows.append(
                {"image_id": image_id, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            )
        return rows

    def save(self, path: str | Path, score: float = 0.3) -> None:
        """Write the annotated picture."""
        self.plot(score).save(path)
