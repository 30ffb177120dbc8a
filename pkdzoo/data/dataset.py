"""A detection data set in COCO's format: images in a folder, boxes in flat arrays that worker processes share.

Labels are ``0 .. C-1`` in the order of the file's category ids (COCO's 80 ids, 1 to 90 with gaps, become 0 to 79), or
in the order of ``label_names`` where a model has its own.

Boxes without area, outside the image or thinner than a pixel are left out and counted (``.report``); boxes partly
outside are clipped. The rules are in ``filter.py``.

Evaluation reads the file again and uses all of its objects (``ground_truth``), as pycocotools does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pkdzoo.data.augment import MixTransform
from pkdzoo.data.filter import positions, select
from pkdzoo.data.formats.coco import CROWD, IGNORE, Columns, decode_name
from pkdzoo.data.formats.read import read_annotations
from pkdzoo.data.image_dataset import MAX_UNREADABLE, ImageDataset
from pkdzoo.data.image_names import match_columns
from pkdzoo.data.image_reader import Decode
from pkdzoo.data.labels import match_labels
from pkdzoo.data.load_report import LoadReport
from pkdzoo.data.locate import find_split
from pkdzoo.data.segmentations import INVALID
from pkdzoo.data.transforms import Transform
from pkdzoo.structures import Instances
from pkdzoo.utils.text import counted


class CocoDataset(ImageDataset):
    """Images and boxes of a COCO annotation file, or of VOC or YOLO annotations read as one.

    An unreadable image raises ``UnreadableImage`` with ``on_error="raise"`` (evaluation, where skipping would change
    the score), or is replaced by the next readable image with ``on_error="skip"`` (training). The replacement depends
    on the files alone, so a resumed run repeats it. Skipped images are marked in memory that all workers share. Loading
    and ``check_skipped`` raise TooManyUnreadable as soon as they are more than ``max_unreadable`` of the data set.

    Args:
        json_path: the annotation file (for VOC the list of images, for YOLO ``data.yaml/SPLIT``: see
            ``formats/read.py``).
        image_dir: folder of the images; file names in the JSON are relative to it. Names that are written from another
            folder are found by their last parts, see ``image_names.py``.
        transform: applied to each sample with a generator seeded by (seed, epoch, image id); a :class:`MixTransform` to
            each batch, with a generator of its first image.
        label_names: the model's classes; None means the file's. Every class of the file must be among them; classes
            that the file lacks have no boxes.
        skip_other_classes: leave out boxes of classes that are not in ``label_names`` instead of raising an error.
        with_masks: keep segmentations, and load masks with the boxes.
        drop_empty: leave out images without a box, as in mmdetection's training (``filter_empty_gt``).
        min_image_size: leave out images whose short side is smaller (mmdetection trains with 32).
        seed: see ``transform``.
        on_error: ``"raise"`` or ``"skip"``.
        max_unreadable: share of images, 0..1, that may be skipped.
        decode: ``"exact"``, or ``"fast"``: JPEG files much larger than the transform needs are decoded smaller. Pixels
            then differ from those of published training.
        cache: bytes of shared memory in which images are kept once they were read. It changes no pixel, except with
            ``"fast"`` and a transform of several scales, see :class:`pkdzoo.data.image_reader.ImageReader`.

    Attributes:
        label_names: name of each label.
        label_to_coco_id: category id of each label, -1 where the file has no such class.
        image_ids: (n,) int64.
        sizes: (n, 2) int32, (height, width) from the file.
        report: what was loaded and left out; ``print(dataset.report)``.

    Raises:
        ValueError: not a COCO file, unknown categories, no box of these classes, or no image left.

    Example:
        >>> import tempfile
        >>> from pkdzoo.data import CocoDataset, find_split, make_shapes, train_transform
        >>> root = make_shapes(tempfile.mkdtemp(), train=4, val=1, size=(64, 96))
        >>> dataset = CocoDataset(*find_split(root, "train"), transform=train_transform(short=128, long=192))
        >>> len(dataset), dataset.label_names[:3], dataset[0].size
        (4, ['circle', 'square', 'triangle'], (128, 192))
    """

    def __init__(
        self,
        json_path: str | Path,
        image_dir: str | Path,
        *,
        transform: Transform | MixTransform | None = None,
        label_names: Sequence[str] | None = None,
        skip_other_classes: bool = False,
        with_masks: bool = False,
        drop_empty: bool = False,
        min_image_size: int = 0,
        seed: int = 0,
        on_error: str = "raise",
        max_unreadable: float = MAX_UNREADABLE,
        decode: Decode = "exact",
        cache: int = 0,
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error={on_error!r}: write 'raise' (evaluation) or 'skip' (training)")
        self.json_path = Path(json_path)
        columns, found_names = match_columns(
            read_annotations(self.json_path, segmentations=with_masks), Path(image_dir)
        )
        self.segments = columns.segments
        self.label_names, self._label_of = match_labels(
            columns.categories, label_names, skip_other_classes, self.json_path
        )
        ids = {label: number for number, label in self._label_of.items()}
        self.label_to_coco_id = [ids.get(label, -1) for label in range(len(self.label_names))]
        self.report = LoadReport(str(self.json_path), found_names=found_names)
        self.table = select(columns, self._label_of, self.label_names, self.report, drop_empty, min_image_size)
        super().__init__(
            image_dir,
            self.table.image_ids,
            self.table.sizes,
            transform=transform,
            seed=seed,
            on_error=on_error,
            max_unreadable=max_unreadable,
            decode=decode,
            cache=cache,
        )

    def file_name(self, index: int) -> str:
        """Path of an image inside ``image_dir``."""
        return decode_name(self.table.names[self.table.name_ends[index] : self.table.name_ends[index + 1]])

    def load_instances(self, index: int) -> Instances:
        """Objects of one image, in pixels of the original image."""
        table = self.table
        part = slice(int(table.box_ends[index]), int(table.box_ends[index + 1]))
        masks = None
        if self.segments is not None:
            height, width = (int(side) for side in self.sizes[index])
            masks = torch.from_numpy(self.segments.decode(table.rows[part], height, width))
        return Instances(
            torch.from_numpy(table.boxes[part].copy()),
            torch.from_numpy(table.labels[part].astype(np.int64)),
            torch.from_numpy(table.crowd[part].copy()),
            masks,
        )

    def check_files(self) -> list[str]:
        """File names that are not on disk; lists each folder once, so that 100,000 files take a second.

        Raises:
            ValueError: ``image_dir`` is no folder, or is empty.
        """
        if not self.image_dir.is_dir():
            raise ValueError(f"{self.image_dir} is not a folder: it should hold the images of {self.json_path}")
        if next(self.image_dir.iterdir(), None) is None:
            raise ValueError(
                f"{self.image_dir} is empty: it should hold the {counted(len(self), 'image')} of {self.json_path}"
            )
        listed: dict[Path, set[str]] = {}
        missing = []
        for index in range(len(self)):
            name = self.file_name(index)
            path = self.image_dir / name
            if path.parent not in listed:
                folder = path.parent
                listed[folder] = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
            if path.name not in listed[path.parent]:
                missing.append(name)
        return missing

    def ground_truth(self, segmentations: bool = False) -> dict[str, Any]:
        """All objects of these images and classes for the evaluator, those included that training leaves out.

        Args:
            segmentations: return ``segmentation`` as well.

        Returns:
            ``image_id``, ``category_id``, ``bbox`` (x, y, width, height), ``area``, ``iscrowd`` and ``ignore`` as
            arrays, and with ``segmentations`` a list of run lengths, None for an object without a mask.

        Raises:
            ValueError: with ``segmentations``, one of them cannot be used.
        """
        columns = read_annotations(self.json_path, segmentations=segmentations)
        return objects_of(columns, self.image_ids, self.sizes, list(self._label_of), self.json_path)


def objects_of(
    columns: Columns,
    image_ids: NDArray[np.int64],
    sizes: NDArray[np.int32],
    category_ids: Sequence[int],
    source: str | Path,
) -> dict[str, Any]:
    """Ground truth of some images and classes; see :meth:`CocoDataset.ground_truth`.

    Args:
        columns: the annotation file.
        image_ids: (n,) of the images, at least one.
        sizes: (n, 2) height and width of the images.
        category_ids: of the classes.
        source: name of the file in messages.

    Raises:
        ValueError: ``columns`` has segmentations, and one of them cannot be used.
    """
    position = positions(columns.owners, image_ids, np.argsort(image_ids, kind="stable"))
    finite = np.isfinite(columns.boxes).all(1)  # pandas writes NaN; no detection can be compared with such a box
    rows = np.flatnonzero((position >= 0) & np.isin(columns.labels, list(category_ids)) & finite)
    objects: dict[str, Any] = {
        "image_id": columns.owners[rows],
        "category_id": columns.labels[rows],
        "bbox": columns.boxes[rows],
        "area": columns.areas[rows],
        "iscrowd": (columns.flags[rows] & CROWD).astype(bool),
        "ignore": (columns.flags[rows] & IGNORE).astype(bool),
    }
    if columns.segments is not None:
        own_sizes = sizes[position[rows]]
        other_size = columns.segments.mark_other_sizes(rows, own_sizes)
        invalid = int((np.asarray(columns.segments.kinds)[rows] == INVALID).sum())
        if invalid:  # a missing mask would count as an object that was not found
            raise ValueError(
                f"{source}: masks cannot be evaluated, since {invalid} of {len(rows)} segmentations cannot be used "
                f"({other_size} are of another size than their image, the others are damaged): correct them in the file"
            )
        objects["segmentation"] = [
            columns.segments.rle(row, *size) for row, size in zip(rows.tolist(), own_sizes.tolist())
        ]
    return objects


def open_dataset(
    data_dir: str | Path | None,
    split: str,
    json: str | Path | None = None,
    images: str | Path | None = None,
    **options: Any,
) -> CocoDataset:
    """Open a split of a data set in any of the known layouts, see :func:`find_split`.

    Args:
        data_dir: the data set's folder, or its ``data.yaml``.
        split: ``"train"``, ``"val"``, ``"test"``.
        json: the annotations, if they are elsewhere.
        images: the image folder, if it is elsewhere; COCO only.
        options: further arguments of :class:`CocoDataset`.

    Raises:
        ValueError: something is missing, or the annotations are invalid.

    Example:
        >>> import tempfile
        >>> from pkdzoo.data import make_shapes, open_dataset
        >>> dataset = open_dataset(make_shapes(tempfile.mkdtemp(), train=2, val=1, size=(64, 96)), "train")
        >>> len(dataset), len(dataset.label_names)
        (2, 6)
    """
    return CocoDataset(*find_split(data_dir, split, json, images), **options)
