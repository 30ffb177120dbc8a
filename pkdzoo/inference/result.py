"""What ``predict`` returns for one image."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from pkdzoo.data.image_files import open_image
from pkdzoo.inference.draw import class_color, draw_detections
from pkdzoo.inference.options import check_share
from pkdzoo.ops.masks import paste_mask, paste_masks, run_lengths
from pkdzoo.structures import Detections
from pkdzoo.utils.text import counted, install_line, printable

SHOWN, ROWS = 1024, 20  # in a notebook: pixels of the image's longer side, rows of the table


@dataclass(repr=False)
class Result:
    """Detections in one image, best first. ``print(result)`` shows a table; a notebook also shows the image.

    A result is a sequence: ``result[0]`` is the best detection, ``result[:5]`` and ``result[result.scores > 0.5]`` are
    several, and ``for detection in result`` visits all, each as a result of one detection.

    Attributes:
        boxes: (N, 4) xyxy in pixels of the original image.
        scores: (N,) in 0..1.
        labels: (N,) int64.
        label_names: names of all classes of the detector; ``names`` are those of the detections.
        size: (height, width) of the image.
        path: the file or link of the image, or the video that it is a frame of.
        error: why the image could not be read, else None; after an error the other fields are empty.
        mask_probabilities: (N, m, m) in 0..1, inside each box, of a detector with masks; ``masks`` resizes them to the
            image.
        frame: number of the image in its video, from 0.
        time: seconds from the start of the video.
        image: the image that :meth:`plot` draws on, where no file holds it.

    Example:
        >>> import numpy as np, pkdzoo
        >>> model = pkdzoo.create_detector("fcos_r18w24", pretrained=True)
        >>> result = model.predict(np.zeros((128, 160, 3), np.uint8), threshold=0.3)
        >>> result.size, result.plot().size
        ((128, 160), (160, 128))
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    label_names: tuple[str, ...]
    size: tuple[int, int]
    path: str | None = None
    error: str | None = None
    mask_probabilities: Tensor | None = None
    frame: int | None = None
    time: float | None = None
    image: Image.Image | None = field(default=None)

    @classmethod
    def of(cls, detections: Detections, label_names: tuple[str, ...], size: tuple[int, int], **source: Any) -> Result:
        """Make a result from detections in pixels of the image."""

        def own(tensor: Tensor) -> Tensor:
            return tensor.detach().cpu().clone()

        with torch.inference_mode(False):  # tensors made in inference mode cannot be changed in place afterward
            probabilities = None if detections.mask_probabilities is None else own(detections.mask_probabilities)
            boxes, scores, labels = own(detections.boxes), own(detections.scores), own(detections.labels)
        return cls(boxes, scores, labels, label_names, size, mask_probabilities=probabilities, **source)

    @classmethod
    def failed(cls, path: str | None, error: str, label_names: tuple[str, ...]) -> Result:
        """Make an empty result with an error message."""
        empty = torch.zeros(0)
        return cls(empty.reshape(0, 4), empty, empty.long(), label_names, (0, 0), path, error)

    @property
    def masks(self) -> Tensor | None:
        """(N, height, width) bool, computed at each access: 100 masks of 12,000 x 9,000 pixels take 11 GB."""
        return None if self.mask_probabilities is None else paste_masks(self.mask_probabilities, self.boxes, self.size)

    @property
    def names(self) -> list[str]:
        """Class name of each detection."""
        return [self.label_names[int(label)] for label in self.labels]

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int | slice | Tensor | Sequence[int]) -> Result:
        """The selected detections as a result.

        Args:
            index: a number, a slice, a bool mask, or several numbers.

        Raises:
            IndexError: there is no detection of this number, or a mask is longer or shorter than the result.
            TypeError: for another kind of index.
        """
        chosen = _chosen(index, len(self))
        probabilities = None if self.mask_probabilities is None else self.mask_probabilities[chosen]
        return replace(
            self,
            boxes=self.boxes[chosen],
            scores=self.scores[chosen],
            labels=self.labels[chosen],
            mask_probabilities=probabilities,
        )

    def __iter__(self) -> Iterator[Result]:
        return (self[i] for i in range(len(self)))

    @property
    def title(self) -> str:
        """Name and size of the image and the number of detections, or the error."""
        name = self.path or "image"
        if self.frame is not None:
            name += f" frame {self.frame}" + ("" if self.time is None else f" at {self.time:.2f} s")
        if self.error:
            return printable(self.error if self.error.startswith(name) else f"{name}: {self.error}")
        return f"{printable(name)} ({self.size[1]} x {self.size[0]}): {counted(len(self), 'detection')}"

    def __repr__(self) -> str:
        return f"<Result {self.title}>"

    def __str__(self) -> str:
        if not len(self):
            return self.title
        names = [printable(name) for name in self.names]
        width = max(5, *map(len, names))
        lines = [self.title, f"  {'class':<{width}}  score  " + " ".join(f"{c:>8}" for c in ("x1", "y1", "x2", "y2"))]
        for name, score, box in zip(names, self.scores.tolist(), self.boxes.tolist()):
            lines.append(f"  {name:<{width}}  {score:5.2f}  " + " ".join(f"{v:8.1f}" for v in box))
        return "\n".join(lines)

    # -- drawing -------------------------------------------------------------------------------------------------

    def plot(self, threshold: float = 0.0, enlarge: bool = False, font_size: int | None = None) -> Image.Image:
        """Draw the detections on the image, in its own size.

        Args:
            threshold: lowest score of a drawn detection, 0..1; the default draws all that ``predict`` reported.
            enlarge: enlarge an image whose longer side is below 480 pixels by a whole number, so that captions are
                readable.
            font_size: of captions, in pixels; None follows the size of the image.

        Raises:
            UnreadableImage: the image's file is missing.
            ValueError: the result has no image, or the threshold is no number from 0 to 1.
        """
        check_share("threshold", threshold)
        image = self.image
        if image is None and self.path is not None and self.error is None and self.frame is None:
            image = open_image(self.path)  # turned as in predict
        if image is None:
            raise ValueError(
                f"this result has no image: {self.error or 'frames of a list are not kept; use predict_stream'}"
            )
        shown = self[self.scores >= threshold]
        captions = [f"{name} {value:.2f}" for name, value in zip(shown.names, shown.scores.tolist())]
        masks = None
        if shown.mask_probabilities is not None:
            drawn = [
                paste_mask(probabilities, box, self.size)
                for probabilities, box in zip(shown.mask_probabilities, shown.boxes)
            ]
            masks = [(mask.numpy(), rows, columns) for mask, rows, columns in drawn]
        return draw_detections(image, shown.boxes.numpy(), shown.labels.tolist(), captions, masks, enlarge, font_size)

    def _repr_png_(self) -> bytes | None:
        """PNG for viewers without HTML support: the image with its detections."""
        try:
            image = self.plot(enlarge=True)
        except ValueError:  # the result has no image, or its file is missing
            return None
        image.thumbnail((SHOWN, SHOWN))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        """HTML for notebooks: the image, and a table of the best detections."""
        parts = [f"<div>{html.escape(self.title)}</div>"]
        content = self._repr_png_()
        if content is not None:
            link = f"data:image/png;base64,{base64.b64encode(content).decode()}"
            parts.append(f'<img src="{link}" style="max-width:100%" alt="detections">')
        if len(self):
            heads = "".join(f"<th>{head}</th>" for head in ("class", "score", "x1", "y1", "x2", "y2"))
            parts.append(f"<table><tr>{heads}</tr>{''.join(map(self._html_row, range(min(len(self), ROWS))))}</table>")
        if len(self) > ROWS:
            parts.append(f"<div>and {len(self) - ROWS} more</div>")
        return "\n".join(parts)

    def _html_row(self, i: int) -> str:
        red, green, blue = class_color(int(self.labels[i]))
        mark = f'<span style="color:rgb({red},{green},{blue})">&#9632;</span>'
        numbers = "".join(f"<td>{v:.1f}</td>" for v in self.boxes[i].tolist())
        return f"<tr><td>{mark} {html.escape(self.names[i])}</td><td>{float(self.scores[i]):.2f}</td>{numbers}</tr>"

    def save(self, path: str | Path, threshold: float = 0.0, enlarge: bool = False) -> None:
        """Write the annotated image; see :meth:`plot`."""
        self.plot(threshold, enlarge).save(path)

    def show(self, threshold: float = 0.0, enlarge: bool = True) -> None:
        """Open the annotated image in the system's viewer; a notebook shows ``result`` itself. See :meth:`plot`."""
        self.plot(threshold, enlarge).show(title=self.path)

    # -- conversion ----------------------------------------------------------------------------------------------

    def mask_runs(self, index: int) -> dict[str, Any]:
        """The mask of one detection in COCO's form: ``size`` and compressed ``counts``, ready for ``json.dump``.

        Raises:
            ValueError: the detector has no masks.
        """
        if self.mask_probabilities is None:
            raise ValueError("this detector finds boxes but no masks: use a mask_rcnn_* detector")
        lengths = run_lengths(*paste_mask(self.mask_probabilities[index], self.boxes[index], self.size), self.size)
        runs = coco_mask.frPyObjects({"size": list(self.size), "counts": lengths}, *self.size)
        return {"size": list(self.size), "counts": runs["counts"].decode()}

    def to_dict(self) -> dict[str, Tensor]:
        """A dictionary as torchvision's detectors return it: ``boxes``, ``scores``, ``labels`` (and ``masks``)."""
        tensors = {"boxes": self.boxes, "scores": self.scores, "labels": self.labels}
        masks = self.masks
        return tensors if masks is None else {**tensors, "masks": masks}

    def to_supervision(self) -> Any:
        """Convert to ``supervision.Detections``, with class names in ``data``; needs the extra
        ``supervision``.

        Raises:
            ImportError: the package is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise ImportError(f"to_supervision() needs supervision: {install_line('supervision')}") from None
        masks = self.masks
        return supervision.Detections(
            xyxy=self.boxes.numpy().reshape(-1, 4),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy(),
            mask=None if masks is None else masks.numpy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values, ready for ``json.dump``; masks as COCO's compressed run lengths."""
        source: dict[str, Any] = {"path": self.path}
        if self.frame is not None:
            source |= {"frame": self.frame, "time": self.time}
        if self.error:
            return {**source, "error": self.error}
        detections: list[dict[str, Any]] = [
            {"name": name, "label": label, "score": score, "box_xyxy": box}
            for name, label, score, box in zip(
                self.names, self.labels.tolist(), self.scores.tolist(), self.boxes.tolist()
            )
        ]
        for i, row in enumerate(detections if self.mask_probabilities is not None else ()):
            row["mask"] = self.mask_runs(i)
        return {**source, "size": {"height": self.size[0], "width": self.size[1]}, "detections": detections}

    def to_coco(self, image_id: int, category_ids: Mapping[int, int] | None = None) -> list[dict[str, Any]]:
        """Rows of a COCO results file: boxes as x, y, width, height, and ``segmentation`` if the detector has masks.

        Args:
            image_id: id of the image in the annotation file.
            category_ids: the file's category id of each label; None writes the labels themselves.
        """
        rows: list[dict[str, Any]] = []
        for label, score, (x1, y1, x2, y2) in zip(self.labels.tolist(), self.scores.tolist(), self.boxes.tolist()):
            category = label if category_ids is None else category_ids[label]
            rows.append(
                {"image_id": image_id, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            )
        for i, row in enumerate(rows if self.mask_probabilities is not None else ()):
            row["segmentation"] = self.mask_runs(i)
        return rows


def _chosen(index: Any, count: int) -> Tensor:
    """The numbers (K,) from 0 of the detections that an index selects among ``count``; see ``Result.__getitem__``."""
    if isinstance(index, slice):
        return torch.tensor(range(count)[index], dtype=torch.int64)  # torch has no slices that go backward
    try:
        chosen = torch.as_tensor(index, device="cpu")
    except (TypeError, ValueError, RuntimeError):  # what is no number raises any of these
        chosen = torch.empty(0, 0)
    mask = chosen.dtype == torch.bool
    real = chosen.is_floating_point() or chosen.is_complex()
    if chosen.ndim > 1 or (chosen.ndim == 0 and mask) or (real and chosen.shape != (0,)):  # an empty list is real
        raise TypeError(f"detection {index!r}: write a number, a slice, a bool mask or several numbers")
    if mask and len(chosen) != count:
        raise IndexError(f"a mask of {len(chosen)} for {counted(count, 'detection')}: write one value for each")
    if mask:
        return chosen.nonzero().squeeze(1)
    numbers = chosen.reshape(-1).long()
    beyond = numbers[(numbers < -count) | (numbers >= count)]
    if len(beyond):
        raise IndexError(f"detection {int(beyond[0])} of {count}")
    return numbers % max(count, 1)
