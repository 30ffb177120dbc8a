"""Where a data set's annotation file and images are, given only its folder and the name of a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pkdzoo.data.dataset import CocoDataset
from pkdzoo.data.formats import voc, yolo
from pkdzoo.data.formats.read import find_format, format_of


def _listing(folder: Path) -> str:
    if not folder.exists():
        return f"{folder} does not exist"
    if not folder.is_dir():
        return f"{folder} is not a folder"
    names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir())
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"{folder} holds {', '.join(names[:12])}{more}" if names else f"{folder} is empty"


def _other_format(data_dir: str | Path | None, split: str, json: str | Path | None) -> Path | None:
    """Annotations that are not in COCO's format; None where they are, or where nothing was recognised."""
    if json is not None:
        return Path(json) if format_of(json) != "coco" else None
    kind = find_format(data_dir) if data_dir is not None else None
    if kind == "voc":
        assert data_dir is not None
        found = voc.split_file(data_dir, split)
        if not found.is_file():
            raise ValueError(f"no annotations for the {split} split: no {found}; {_listing(found.parent)}")
        return found
    file = yolo.find_yaml(data_dir) if kind == "yolo" and data_dir is not None else None
    return None if file is None else file / split


def find_split(
    data_dir: str | Path | None,
    split: str,
    json: str | Path | None = None,
    images: str | Path | None = None,
) -> tuple[Path, Path]:
    """Where a split's annotations and images are.

    Known are COCO's own layout (``annotations/instances_SPLIT2017.json`` with ``SPLIT2017/``),
    ``annotations/instances_SPLIT.json`` with ``images/`` (or ``images/SPLIT/``, or ``SPLIT/``), Pascal VOC's
    (``ImageSets/Main/SPLIT.txt``, ``Annotations/``, ``JPEGImages/`` or ``images/``) and YOLO's (``data.yaml``).

    Args:
        data_dir: the data set's folder, or its ``data.yaml``; may be None where ``json`` and ``images`` are given.
        split: ``"train"``, ``"val"``, ``"test"``.
        json: the annotations, if they are elsewhere.
        images: the image folder, if it is elsewhere; COCO only.

    Returns:
        The annotations, as ``CocoDataset`` takes them (COCO's file, VOC's list, YOLO's ``data.yaml/SPLIT``), and
        the folder of the images.

    Raises:
        ValueError: something is not there; the message says what was looked for and what there is.

    Example:
        >>> import tempfile
        >>> from pkdzoo.data import find_split, make_shapes
        >>> root = make_shapes(tempfile.mkdtemp(), train=2, val=1, size=(64, 96))
        >>> [path.name for path in find_split(root, "val")]
        ['instances_val2017.json', 'val2017']
    """
    other = _other_format(data_dir, split, json)
    if other is not None:
        if images is not None:
            raise ValueError(f"{other} tells by itself where its images are: leave out the image folder ({images})")
        return other, voc.image_dir(voc.root_of(other)) if format_of(other) == "voc" else yolo.image_dir(other)
    if data_dir is None and (json is None or images is None):
        raise ValueError(f"where is the {split} set? Give the data set's folder, or both the JSON file and the images")
    root = Path(data_dir) if data_dir is not None else Path()
    files = [root / "annotations" / f"instances_{split}{year}.json" for year in ("2017", "")]
    found = next((file for file in files if file.is_file()), None) if json is None else Path(json)
    if found is None:
        looked = " or ".join(str(file.relative_to(root)) for file in files)
        inside = f"; {_listing(root / 'annotations')}" if (root / "annotations").is_dir() else ""
        labels = (root / "labels").is_dir() or next(root.glob("*.txt"), None) is not None
        hint = (
            ". YOLO's labels need a data.yaml beside them, e.g. 'train: images' and 'names: [cat, dog]'"
            if labels
            else ""
        )
        raise ValueError(
            f"no annotations for the {split} split: looked for {looked} (or VOC's ImageSets/Main/, or YOLO's "
            f"data.yaml), but {_listing(root)}{inside}{hint}"
        )
    if not found.is_file():
        raise ValueError(f"no annotation file {found}: {_listing(found.parent)}")
    folders = [root / f"{split}2017", root / "images" / split, root / "images", root / split]
    if json is None and not found.stem.endswith("2017"):
        folders = folders[1:] + folders[:1]  # the images of the layout that the annotations were found in
    folder = next((f for f in folders if f.is_dir()), None) if images is None else Path(images)
    if folder is None:
        looked = ", ".join(f"{f.relative_to(root)}/" for f in folders)
        raise ValueError(f"no images for the {split} split: looked for {looked}, but {_listing(root)}")
    if not folder.is_dir():
        raise ValueError(f"no image folder {folder}: {_listing(folder.parent)}")
    return found, folder


def open_dataset(
    data_dir: str | Path | None,
    split: str,
    json: str | Path | None = None,
    images: str | Path | None = None,
    **options: Any,
) -> CocoDataset:
    """A split of a COCO, Pascal VOC or YOLO folder.

    Args:
        data_dir: the data set's folder, or its ``data.yaml``.
        split: ``"train"``, ``"val"``, ``"test"``.
        json: the annotations, if they are elsewhere.
        images: the image folder, if it is elsewhere; COCO only.
        options: of :class:`CocoDataset`.

    Raises:
        ValueError: something is missing, or the annotations are broken.

    Example:
        >>> import tempfile
        >>> from pkdzoo.data import make_shapes, open_dataset
        >>> dataset = open_dataset(make_shapes(tempfile.mkdtemp(), train=2, val=1, size=(64, 96)), "train")
        >>> len(dataset), len(dataset.label_names)
        (2, 6)
    """
    return CocoDataset(*find_split(data_dir, split, json, images), **options)
