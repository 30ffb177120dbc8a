"""Ground truth of a COCO evaluation: what the evaluator reads, from a data set or straight from its annotations."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from pkdzoo.data.dataset import objects_of
from pkdzoo.data.filter import odd_areas
from pkdzoo.data.formats.read import read_annotations
from pkdzoo.data.labels import match_labels
from pkdzoo.utils.text import counted, quote_some


class GroundTruth(Protocol):
    """The part of a data set that the evaluator uses; ``CocoDataset`` is one."""

    image_ids: Any
    sizes: Any
    label_names: list[str]
    label_to_coco_id: list[int]

    def ground_truth(self, segmentations: bool = False) -> dict[str, Any]:
        """Columns ``image_id``, ``category_id``, ``bbox``, ``area``, ``iscrowd``, ``ignore`` and ``segmentation``."""
        ...


class AnnotationFile:
    """The annotations of a data set as ground truth, for evaluation without images.

    Args:
        path: an annotation file, as :func:`pkdzoo.data.find_split` returns it.

    Attributes:
        file_names: of the images, relative to the image folder.

    Raises:
        ValueError: it is no annotation file, or a record is invalid.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        columns = read_annotations(self.path, need_sizes=False)
        if len(columns.image_ids) == 0:
            raise ValueError(f"{path}: 'images' is an empty list")
        columns.check_image_ids(path)
        self.label_names, label_of = match_labels(columns.categories, None, False, self.path)
        self.label_to_coco_id = list(label_of)
        self.image_ids, self.sizes, self.columns = columns.image_ids, columns.sizes, columns
        self.file_names = [columns.file_name(k) for k in range(len(columns.image_ids))]

    def ground_truth(self, segmentations: bool = False) -> dict[str, Any]:
        """The objects of all images; see :meth:`GroundTruth.ground_truth`."""
        columns = read_annotations(self.path, segmentations=True) if segmentations else self.columns
        return objects_of(columns, self.image_ids, self.sizes, self.label_to_coco_id, self.path)

    def remarks(self) -> list[str]:
        """What in the annotations changes the numbers of an evaluation, one sentence each."""
        truth, remarks = self.ground_truth(), []
        not_finite = int((~np.isfinite(self.columns.boxes).all(1)).sum())
        if not_finite:
            remarks.append(
                f"{self.path}: {counted(not_finite, 'box holds', 'boxes hold')} NaN or infinity and "
                f"{'is' if not_finite == 1 else 'are'} left out: they count neither as found nor as missed"
            )
        odd = int(odd_areas(truth["area"], truth["bbox"]).sum())
        if odd > 0.01 * len(truth["area"]):
            remarks.append(
                f"{self.path}: {odd} of {len(truth['area'])} areas do not fit their boxes. As in pycocotools, they "
                "decide what is small, medium and large for APs, APm and APl; remove the areas to use those of the "
                "boxes"
            )
        return remarks


class FileNameIndex:
    """Finds images of a data set by file names that may be absolute, or relative to another folder.

    Args:
        names: file names of the images, relative to the image folder.
        ids: id of each image.

    Example:
        >>> from pkdzoo.evaluation.ground_truth import FileNameIndex
        >>> index = FileNameIndex(["a/1.jpg", "b/1.jpg", "2.jpg"], [7, 8, 9])
        >>> index.find("/data/val/b/1.jpg"), index.find("../2.jpg")
        (8, 9)
    """

    def __init__(self, names: Iterable[str], ids: Iterable[int]) -> None:
        self.ids = {_parts(name): int(number) for name, number in zip(names, ids)}
        self.by_last: dict[str, list[tuple[str, ...]]] = {}
        for parts in self.ids:
            self.by_last.setdefault(parts[-1], []).append(parts)

    def find(self, name: str) -> int:
        """The id of an image.

        It is the image with the longest name that ``name`` ends with, or the only one whose name ends with ``name``.

        Raises:
            ValueError: no image or several images have this name.
        """
        parts = _parts(name)
        for start in range(len(parts)):
            if parts[start:] in self.ids:
                return self.ids[parts[start:]]
        longer = [other for other in self.by_last.get(parts[-1], []) if other[-len(parts) :] == parts]
        if len(longer) == 1:
            return self.ids[longer[0]]
        if longer:
            raise ValueError(f"the image {name!r} may be {quote_some('/'.join(other) for other in longer)}")
        raise ValueError(f"the data set has no image of the name {name!r}")


def _parts(name: str) -> tuple[str, ...]:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return tuple(part for part in parts if part not in ("..", "/")) or (name,)
