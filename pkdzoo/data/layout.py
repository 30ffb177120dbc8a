"""Where a data set's annotation file and pictures are, given only its folder and the name of a split."""

from __future__ import annotations

from pathlib import Path


def _listing(folder: Path) -> str:
    if not folder.exists():
        return f"{folder} does not exist"
    if not folder.is_dir():
        return f"{folder} is not a folder"
    names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir())
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"{folder} holds {', '.join(names[:12])}{more}" if names else f"{folder} is empty"


def find_split(
    data_dir: str | Path | None,
    split: str,
    json: str | Path | None = None,
    images: str | Path | None = None,
) -> tuple[Path, Path]:
    """The annotation file and the picture folder of a split.

    Two layouts are known: COCO's own (``annotations/instances_SPLIT2017.json`` with ``SPLIT2017/``) and
    ``annotations/instances_SPLIT.json`` with ``images/`` (or ``images/SPLIT/``, or ``SPLIT/``).

    Args:
        data_dir: the data set's folder; may be None where ``json`` and ``images`` are given.
        split: ``"train"``, ``"val"``, ``"test"``.
        json: the annotation file, if it is elsewhere.
        images: the picture folder, if it is elsewhere.

    Raises:
        ValueError: something is not there; the message says what was looked for and what there is.
    """
    if data_dir is None and (json is None or images is None):
        raise ValueError(
            f"where is the {split} set? Give the data set's folder, or both the JSON file and the pictures"
        )
    root = Path(data_dir) if data_dir is not None else Path()
    files = [root / "annotations" / f"instances_{split}{year}.json" for year in ("2017", "")]
    found = next((file for file in files if file.is_file()), None) if json is None else Path(json)
    if found is None:
        looked = " or ".join(str(file.relative_to(root)) for file in files)
        inside = f"; {_listing(root / 'annotations')}" if (root / "annotations").is_dir() else ""
        raise ValueError(f"no annotations for the {split} split: looked for {looked}, but {_listing(root)}{inside}")
    if not found.is_file():
        raise ValueError(f"no annotation file {found}: {_listing(found.parent)}")
    folders = [root / f"{split}2017", root / "images" / split, root / "images", root / split]
    if json is None and not found.stem.endswith("2017"):
        folders = folders[1:] + folders[:1]  # the pictures of the layout that the annotations were found in
    folder = next((f for f in folders if f.is_dir()), None) if images is None else Path(images)
    if folder is None:
        looked = ", ".join(f"{f.relative_to(root)}/" for f in folders)
        raise ValueError(f"no pictures for the {split} split: looked for {looked}, but {_listing(root)}")
    if not folder.is_dir():
        raise ValueError(f"no picture folder {folder}: {_listing(folder.parent)}")
    return found, folder
