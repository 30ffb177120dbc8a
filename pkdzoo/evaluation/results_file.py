"""Evaluation of files of detections: COCO results of any program, and what ``pkdzoo predict --save`` writes.

    [{"image_id": ..., "category_id": ..., "bbox": [x, y, width, height], "score": ...}, ...]     COCO results
    {"images": [...], "annotations": [... with "score"], "categories": [...]}                     --save FILE.json
    {"path": ..., "detections": [{"name": ..., "score": ..., "box_xyxy": [...]}, ...]}            --save FILE.jsonl

COCO results name images and classes by the ids of the annotation file. The other two know the files of the images and
the names of the classes only, so they are matched by these. They have the sizes of the images as well, which must be
those that the boxes of the data set were drawn on: ``predict`` turns every photo as its EXIF tag says, and the boxes of
some data sets lie on the pixels as they are stored. The numbers equal those that ``CocoEvaluator`` computes for the
same detections.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from pkdzoo.data.formats.json_stream import JsonStream
from pkdzoo.evaluation.coco import CocoEvaluator
from pkdzoo.evaluation.ground_truth import AnnotationFile, FileNameIndex
from pkdzoo.structures import Detections
from pkdzoo.utils.suggest import did_you_mean
from pkdzoo.utils.text import counted

SUFFIXES = (".json", ".jsonl")
LOW_SCORE = 0.1  # above the thresholds with which AP is evaluated, usually 0.05
OF_A_DATA_SET = {"id", "area", "iscrowd"}  # fields of annotations, which detections do not have
Row = tuple[int, int, float, list[float]]  # image id, label, score, box xyxy
Size = tuple[int, int]  # height, width


def read_results(
    path: str | Path, label_of: Mapping[int, int], images: FileNameIndex | None = None, names: Mapping[str, int] = {}
) -> dict[int, Detections]:
    """Read the detections of each image.

    Args:
        path: COCO results of any program (``.json``), or a file of ``pkdzoo predict --save`` (``.json``, ``.jsonl``).
        label_of: label of each category id of the data set.
        images: the data set's images by name, for the formats of ``pkdzoo predict --save``.
        names: label of each class name, for these formats.

    Returns:
        Detections by image id, boxes as xyxy; float64, as the numbers of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has none of these formats, or a detection of an unknown image or class; the message has the
            number of the invalid row.

    Example:
        >>> import json, pathlib, tempfile
        >>> from pkdzoo.evaluation import read_results
        >>> results = pathlib.Path(tempfile.mkdtemp()) / "results.json"
        >>> row = {"image_id": 7, "category_id": 18, "bbox": [10, 20, 30, 40], "score": 0.9}
        >>> _ = results.write_text(json.dumps([row]))
        >>> read_results(results, {18: 0})[7].boxes.tolist()
        [[10.0, 20.0, 40.0, 60.0]]
    """
    return _read(_Reader(str(path), label_of, images, names), path)


def _read(reader: _Reader, path: str | Path) -> dict[int, Detections]:
    with Path(path).open("rb") as file:
        stream = JsonStream(file, str(path))
        if Path(path).suffix == ".jsonl":
            rows = reader.lines(stream)
        elif stream.peek() == "[":
            rows = reader.results(stream)
        else:
            rows = reader.data_set(stream)
        grouped: dict[int, list[Row]] = {}
        for row in rows:
            grouped.setdefault(row[0], []).append(row)
    return {
        image: Detections(
            torch.tensor([box for _, _, _, box in rows], dtype=torch.float64),
            torch.tensor([score for _, _, score, _ in rows], dtype=torch.float64),
            torch.tensor([label for _, label, _, _ in rows]),
        )
        for image, rows in grouped.items()
    }


class _Reader:
    """Reads the rows of a file; see :func:`read_results`."""

    def __init__(
        self,
        path: str,
        label_of: Mapping[int, int],
        images: FileNameIndex | None,
        names: Mapping[str, int],
        sizes: Mapping[int, Size] = {},
    ) -> None:
        self.path, self.label_of, self.names = path, label_of, names
        self.sizes = sizes  # of the data set's images by id, where it has them
        self.images = images or FileNameIndex([], [])
        self.sources: dict[int, Any] = {}  # what each image of the data set was called, by its id
        self.listed: set[int] | None = None  # images that the file has, with or without detections; None if unknown

    def error(self, number: int, problem: str) -> ValueError:
        return ValueError(f"{self.path}: row {number} {problem}")

    def detection(self, row: Any, number: int) -> tuple[int, int, float, list[float]]:
        """Image id, category id, score and box (x, y, width, height) of a row."""
        try:
            image, category, score = int(row["image_id"]), int(row["category_id"]), float(row["score"])
            x, y, width, height = (float(value) for value in row["bbox"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise self.error(
                number, "is not a detection: write image_id, category_id, bbox of four numbers, and score"
            ) from None
        if not all(map(math.isfinite, (x, y, width, height, score))) or abs(image) >= 2**63:
            raise self.error(number, "holds a number that is not finite or too large")
        return image, category, score, [x, y, x + width, y + height]

    def results(self, stream: JsonStream) -> Iterator[Row]:
        """Rows of a COCO results list."""
        for number, row in enumerate(stream.elements()):
            image, category, score, box = self.detection(row, number)
            if row.get("file_name") is not None:
                image = self.image_id(row["file_name"], str(row["file_name"]), number)
            elif row.keys() >= OF_A_DATA_SET:
                raise self.error(
                    number,
                    "is an annotation of a data set, whose image ids may be those of another file: evaluate the whole "
                    "file that 'pkdzoo predict --save' wrote, which has the names of the images",
                )
            if category not in self.label_of:
                known = f"{min(self.label_of)} to {max(self.label_of)}" if self.label_of else "none"
                raise self.error(number, f"has category_id {category}, the annotation file's are {known}")
            yield image, self.label_of[category], score, box
        stream.end()

    def data_set(self, stream: JsonStream) -> Iterator[Row]:
        """Rows of a data set with scores."""
        sections: dict[str, list[Any]] = {}
        for key in stream.members():
            if key not in ("images", "annotations", "categories"):
                stream.skip()
            elif stream.peek() != "[":
                raise ValueError(f"{self.path}: {key!r} is not a list")
            elif key == "annotations":
                sections[key] = [self.detection(row, number) for number, row in enumerate(stream.elements())]
            else:
                sections[key] = list(stream.elements())
        stream.end()
        missing = [key for key in ("images", "annotations", "categories") if key not in sections]
        if missing:
            raise ValueError(
                f"{self.path} is no file of detections: it is an object without {', '.join(map(repr, missing))}. "
                "Write a list of detections, or a file of 'pkdzoo predict --save'"
            )
        ids = self.own_ids(sections["images"], "images", "file_name")
        sizes = {int(record["id"]): _size(record) for record in sections["images"]}
        labels = self.own_ids(sections["categories"], "categories", "name")
        for name in ids.values():
            self.note_image(name)
        for number, (image, category, score, box) in enumerate(sections["annotations"]):
            if image not in ids or category not in labels:
                raise self.error(number, "has an image_id or category_id that the file does not list")
            found = self.image_id(ids[image], image, number, sizes[image])
            yield found, self.label(labels[category], number), score, box

    def own_ids(self, records: list[Any], section: str, key: str) -> dict[int, str]:
        """Name of each id in a section of the file."""
        try:
            found = {int(record["id"]): str(record[key]) for record in records}
        except (KeyError, TypeError, ValueError, OverflowError):
            raise ValueError(f"{self.path}: each record of {section!r} has an 'id' and a {key!r}") from None
        if len(found) < len(records):
            raise ValueError(f"{self.path}: two records of {section!r} have the same 'id'")
        return found

    def lines(self, stream: JsonStream) -> Iterator[Row]:
        """Rows of JSON lines, one image each; images that could not be read have no detection."""
        number, self.listed = 0, set()
        while stream.peek():
            record = stream.value()
            try:
                if record.get("error") is not None:
                    continue
                path, detections, size = record["path"], record["detections"], _size(record.get("size"))
                found = [(d["name"], float(d["score"]), [float(v) for v in d["box_xyxy"]]) for d in detections]
            except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
                raise self.error(number, "is no line of 'pkdzoo predict --save FILE.jsonl'") from None
            self.note_image(path)
            for name, score, box in found:
                if len(box) != 4 or not all(map(math.isfinite, (*box, score))):
                    raise self.error(number, "has a box that is not four finite numbers, or such a score")
                yield self.image_id(path, number, number, size), self.label(name, number), score, box
            number += 1

    def note_image(self, name: Any) -> None:
        """Note that the file has an image; what the data set lacks is an error where it has detections."""
        self.listed = set() if self.listed is None else self.listed
        with suppress(ValueError):
            self.listed.add(self.images.find(str(name)))

    def image_id(self, name: Any, source: Any, number: int, size: Size | None = None) -> int:
        """Id in the data set of an image's file.

        Args:
            name: of the file.
            source: tells apart the images of the file of detections.
            number: of the row.
            size: of the image, on which the detections lie; None if unknown.

        Raises:
            ValueError: no image has this name, another image of the file was taken for the same one, or the boxes of
                the data set were drawn on an image of another size.
        """
        try:
            image = self.images.find(str(name))
        except ValueError as error:
            raise self.error(number, f"cannot be matched: {error}") from None
        if self.sources.setdefault(image, source) != source:
            raise self.error(
                number,
                f"is a second image that is taken for image {image} of the data set, by its name {str(name)!r:.200}: "
                "leave out the images of other splits, and those that occur twice",
            )
        drawn = self.sizes.get(image)
        if size is not None and drawn is not None and size != drawn:
            raise self.error(number, f"cannot be compared: {_other_size(str(name), size, drawn)}")
        return image

    def label(self, name: Any, number: int) -> int:
        """Label in the data set of a class name."""
        if name not in self.names:
            raise self.error(number, f"has the class {name!r:.60}. {did_you_mean(str(name), self.names)}")
        return self.names[name]


def _size(record: Any) -> Size | None:
    """Height and width in a record; None where it has none."""
    height, width = (record.get("height"), record.get("width")) if isinstance(record, dict) else (None, None)
    return (height, width) if isinstance(height, int) and isinstance(width, int) and height and width else None


def _other_size(name: str, size: Size, drawn: Size) -> str:
    """What to do about an image whose detections lie on another size than the boxes of the data set."""
    problem = (
        f"its detections lie on {size[0]} x {size[1]} pixels (h x w) of {name!r:.200}, and the boxes of the data set "
        f"were drawn on {drawn[0]} x {drawn[1]}. "
    )
    if size == drawn[::-1]:
        return problem + (
            "'pkdzoo predict' turns a photo as its EXIF tag says, and the boxes were drawn on the pixels as they are "
            "stored: write 'pkdzoo eval DETECTOR --data DIR', which turns each image as its boxes need it"
        )
    return problem + "Predict the images of the data set itself, at their full size"


def evaluate_results(
    path: str | Path, annotations: str | Path | AnnotationFile, backend: str = "auto", thresholds: bool = False
) -> dict[str, Any]:
    """Evaluate a file of detections; an image without a row is an image without detections.

    Warns where the numbers may be too low: no detection has a low score, or the file lacks images of the data set.

    Args:
        path: COCO results of any program (``.json``), or a file of ``pkdzoo predict --save`` (``.json``, ``.jsonl``).
        annotations: the annotation file, as :func:`pkdzoo.data.find_split` returns it.
        backend: see :class:`CocoEvaluator`.
        thresholds: see :meth:`CocoEvaluator.compute`.

    Returns:
        The twelve numbers in percent and ``per_class``.

    Raises:
        ValueError: as for :func:`read_results`, for an image id that the annotation file lacks, and for detections that
            lie on another size of an image than the boxes of the annotation file, where both files have sizes.

    Example:
        >>> import json, pathlib, tempfile
        >>> from pkdzoo.data import make_shapes
        >>> from pkdzoo.evaluation import evaluate_results
        >>> root = make_shapes(tempfile.mkdtemp(), train=1, val=2, size=(64, 96))
        >>> annotations = root / "annotations" / "instances_val2017.json"
        >>> keys = ("image_id", "category_id", "bbox")
        >>> truth = json.loads(annotations.read_text())["annotations"]
        >>> results = pathlib.Path(tempfile.mkdtemp()) / "results.json"
        >>> _ = results.write_text(json.dumps([{**{key: row[key] for key in keys}, "score": 0.1} for row in truth]))
        >>> round(evaluate_results(results, annotations)["AP"], 3)
        100.0
    """
    truth = annotations if isinstance(annotations, AnnotationFile) else AnnotationFile(annotations)
    evaluator = CocoEvaluator(truth, backend)
    label_of = {number: label for label, number in enumerate(truth.label_to_coco_id)}
    images = FileNameIndex(truth.file_names, truth.image_ids.tolist())
    names = {name: label for label, name in enumerate(truth.label_names)}
    known = {int(number): (int(h), int(w)) for number, (h, w) in zip(truth.image_ids, truth.sizes) if h and w}
    reader = _Reader(str(path), label_of, images, names, known)
    detections = _read(reader, path)
    lowest = min((float(found.scores.min()) for found in detections.values()), default=0.0)
    if lowest > LOW_SCORE:
        warnings.warn(
            f"{path}: the lowest score is {lowest:.3g}. AP counts detections of low scores as well, so it is too low "
            "if a threshold was applied: write `pkdzoo predict ... --threshold none --save FILE`",
            stacklevel=2,
        )
    if reader.listed is not None and len(reader.listed) < len(truth.image_ids):
        warnings.warn(
            f"{path} has {len(reader.listed)} of the {counted(len(truth.image_ids), 'image')} of {truth.path}. The "
            "others count as images without detections, which lowers AP: predict all images of the split",
            stacklevel=2,
        )
    evaluator.update(list(detections), list(detections.values()))
    return evaluator.compute(thresholds=thresholds)
