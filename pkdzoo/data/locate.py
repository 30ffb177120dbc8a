"""Finds a data set's annotation file and image folder, given only its folder and the name of a split."""

from __future__ import annotations

from pathlib import Path

from pkdzoo.data.formats import voc, yolo
from pkdzoo.data.formats.read import find_format, format_of


def find_split(
    data_dir: str | Path | None,
    split: str,
    json: str | Path | None = None,
    images: str | Path | None = None,
) -> tuple[Path, Path]:
    """Find the annotations and the images of a split.

    Known layouts are COCO's own (``annotations/instances_SPLIT2017.json`` with ``SPLIT2017/``),
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
        ValueError: a file or folder is missing; the message lists what was looked for and what exists.

    Example:
        >>> import tempfile
        >>> from pkdzoo.data import find_split, make_shapes
        >>> root = make_shapes(tempfile.mkdtemp(), train=2, val=1, size=(64, 96))
        >>> [path.name for path in find_split(root, "val")]
        ['instances_val2017.json', 'val2017']
    """
    other = _find_other_format(data_dir, split, json)
    if other is not None:
        if images is not None:
            raise ValueError(f"{other} determines where its images are: leave out the image folder ({images})")
        return other, voc.image_dir(voc.root_of(other)) if format_of(other) == "voc" else yolo.image_dir(other)
    if data_dir is None and (json is None or images is None):
        raise ValueError(f"where is the {split} set? Give the data set's folder, or both the JSON file and the images")
    root = Path(data_dir) if data_dir is not None else Path()
    annotations = _find_coco_file(root, split) if json is None else Path(json)
    if not annotations.is_file():
        raise ValueError(f"no annotation file {annotations}: {_list_folder(annotations.parent)}")
    if images is not None:
        folder = Path(images)
    else:
        original_layout = json is not None or annotations.stem.endswith("2017")
        folder = _find_image_folder(root, split, original_layout)
    if not folder.is_dir():
        raise ValueError(f"no image folder {folder}: {_list_folder(folder.parent)}")
    return annotations, folder


def _find_other_format(data_dir: str | Path | None, split: str, json: str | Path | None) -> Path | None:
    """Annotations in VOC's or YOLO's format; None for COCO's format and where no format was recognized."""
    if json is not None:
        return Path(json) if format_of(json) != "coco" else None
    if data_dir is None:
        return None
    kind = find_format(data_dir)
    if kind == "voc":
        path = voc.split_file(data_dir, split)
        if not path.is_file():
            raise ValueError(f"no annotations for the {split} split: no {path}; {_list_folder(path.parent)}")
        return path
    file = yolo.find_yaml(data_dir) if kind == "yolo" else None
    return None if file is None else file / split


def _find_coco_file(root: Path, split: str) -> Path:
    candidates = [root / "annotations" / f"instances_{split}{year}.json" for year in ("2017", "")]
    for file in candidates:
        if file.is_file():
            return file
    names = " or ".join(str(file.relative_to(root)) for file in candidates)
    inside = f"; {_list_folder(root / 'annotations')}" if (root / "annotations").is_dir() else ""
    hint = ""
    if (root / "labels").is_dir() or next(root.glob("*.txt"), None) is not None:
        hint = ". YOLO's labels need a data.yaml beside them, e.g. 'train: images' and 'names: [cat, dog]'"
    raise ValueError(
        f"no annotations for the {split} split: looked for {names} (or VOC's ImageSets/Main/, or YOLO's "
        f"data.yaml), but {_list_folder(root)}{inside}{hint}"
    )


def _find_image_folder(root: Path, split: str, original_layout: bool) -> Path:
    """The image folder; ``original_layout`` prefers COCO's ``SPLIT2017/`` where several folders exist."""
    original = root / f"{split}2017"
    others = [root / "images" / split, root / "images", root / split]
    candidates = [original, *others] if original_layout else [*others, original]
    for folder in candidates:
        if folder.is_dir():
            return folder
    names = ", ".join(f"{folder.relative_to(root)}/" for folder in candidates)
    raise ValueError(f"no images for the {split} split: looked for {names}, but {_list_folder(root)}")


def _list_folder(folder: Path) -> str:
    """The first names in a folder, as a clause of an error message."""
    if not folder.exists():
        return f"{folder} does not exist"
    if not folder.is_dir():
        return f"{folder} is not a folder"
    names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir())
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"{folder} holds {', '.join(names[:12])}{more}" if names else f"{folder} is empty"
