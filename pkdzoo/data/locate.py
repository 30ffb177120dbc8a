"""Finds a data set's annotations and image folder, given only its folder and the name of a split."""

from __future__ import annotations

from pathlib import Path

from pkdzoo.data.formats import voc
from pkdzoo.data.formats.base import split_of
from pkdzoo.data.formats.coco_folders import find_images, list_folder
from pkdzoo.data.formats.read import TABLE, accepted_trees, annotations_of, find_format, format_of

ONE_FOLDER = ("coco", "roboflow")  # formats whose image folder may be given separately


def find_split(
    data_dir: str | Path | None,
    split: str,
    json: str | Path | None = None,
    images: str | Path | None = None,
) -> tuple[Path, Path]:
    """Find the annotations and the images of a split.

    ``docs/own_data.md`` lists the known layouts: COCO's (``annotations/instances_SPLIT.json``), Pascal VOC's
    (``ImageSets/Main/SPLIT.txt``), YOLO's (``data.yaml``), those of labelImg, labelme and Roboflow, and a csv.

    Args:
        data_dir: the data set's folder, or its ``data.yaml``; may be None where ``json`` and ``images`` are given.
        split: ``"train"``, ``"val"``, ``"test"``; ``valid``, ``validation`` and ``dev`` are ``val``.
        json: the annotations, if they are elsewhere.
        images: the image folder, if it is elsewhere; COCO only.

    Returns:
        The annotations, as ``CocoDataset`` takes them (COCO's file, VOC's list, YOLO's ``data.yaml/SPLIT``; see
        ``formats/read.py``), and the folder of the images.

    Raises:
        ValueError: a file or folder is missing; the message lists what was looked for and what exists.

    Example:
        >>> import tempfile
        >>> from pkdzoo.data import find_split, make_shapes
        >>> root = make_shapes(tempfile.mkdtemp(), train=2, val=1, size=(64, 96))
        >>> [path.name for path in find_split(root, "val")]
        ['instances_val2017.json', 'val2017']
    """
    if data_dir is None and (json is None or (images is None and format_of(json) == "coco")):
        raise ValueError(f"where is the {split} set? Give the data set's folder, or both the JSON file and the images")
    annotations, kind = _annotations(Path(data_dir or ""), split) if json is None else (Path(json), format_of(json))
    if kind not in ONE_FOLDER:
        if images is not None:
            raise ValueError(f"{annotations} determines where its images are: leave out the image folder ({images})")
        return annotations, TABLE[kind].image_dir(annotations)
    if not annotations.is_file():
        raise ValueError(f"no annotation file {annotations}: {list_folder(annotations.parent)}")
    if images is not None:
        folder = Path(images)
    elif json is None or kind == "roboflow":
        folder = TABLE[kind].image_dir(annotations)
    else:
        folder = find_images(Path(str(data_dir)), split, prefer_original=True)
    if not folder.is_dir():
        raise ValueError(f"no image folder {folder}: {list_folder(folder.parent)}")
    return annotations, folder


def _annotations(root: Path, split: str) -> tuple[Path, str]:
    """The annotations of a split of a folder, and their format."""
    kind = find_format(root)
    found = annotations_of(root)
    path = found.get(split) or found.get(split_of(split))
    if path is not None and kind is not None:
        return path, kind
    if kind == "voc":
        file = voc.split_file(root, split)
        raise ValueError(f"no annotations for the {split} split: no {file}; {list_folder(file.parent)}")
    if kind == "yolo":
        TABLE["yolo"].image_dir(next(iter(found.values()), root / "data.yaml/train").parent / split)  # raises an error
    raise ValueError(_nothing_found(root, split, kind, list(found)))


def _nothing_found(root: Path, split: str, kind: str | None, splits: list[str]) -> str:
    if not root.exists():
        return f"no annotations for the {split} split: {root} does not exist; give the folder of the data set"
    if kind not in (None, "coco"):
        names = ", ".join(splits)
        hint = ". 'pkdzoo data convert ... --hold-out 0.2' makes one from train" if split == "val" else ""
        return f"no annotations for the {split} split: {root} ({TABLE[str(kind)].title}) has {names}{hint}"
    names = f"annotations/instances_{split}2017.json or annotations/instances_{split}.json"
    inside = f"; {list_folder(root / 'annotations')}" if (root / "annotations").is_dir() else ""
    hint = ""
    if root.is_dir() and ((root / "labels").is_dir() or next(root.glob("*.txt"), None) is not None):
        hint = ". YOLO's labels need a data.yaml beside them, e.g. 'train: images' and 'names: [cat, dog]'"
    return (
        f"no annotations for the {split} split: looked for {names} (or VOC's ImageSets/Main/, or YOLO's "
        f"data.yaml), but {list_folder(root)}{inside}{hint}; {accepted_trees()}"
    )
