"""Checks a data set before a training run: counts, suspicious boxes, unreadable images, images shared by splits.

Runs without importing torch, so that it starts at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pkdzoo.data.formats.common import list_images
from pkdzoo.data.formats.read import find_format, read_annotations, splits_of
from pkdzoo.data.locate import find_split
from pkdzoo.dataset_tools.check_annotations import Annotations, check_boxes, check_records, count
from pkdzoo.dataset_tools.check_images import check_images
from pkdzoo.dataset_tools.check_report import CheckReport, SplitReport, make_finding


def check(
    folder: str | Path, splits: Sequence[str] | None = None, decode: bool = True, progress: bool = False
) -> CheckReport:
    """Check a COCO, VOC or YOLO data set.

    Args:
        folder: the data set, or its ``data.yaml``.
        splits: check only these; None means all.
        decode: decode every image; otherwise only headers are read, and truncated files are not noticed.
        progress: show a progress bar on a terminal.

    Returns:
        Counts and findings. ``report.errors`` is 0 for a data set that can be used as it is. Invalid annotations are a
        finding as well.

    Raises:
        ValueError: no data set is recognized, or a split is missing.

    Example:
        >>> import tempfile
        >>> from pkdzoo.data import make_shapes
        >>> from pkdzoo.dataset_tools.check import check
        >>> report = check(make_shapes(tempfile.mkdtemp(), train=3, val=2, size=(64, 96)))
        >>> report.errors, [part.images for part in report.splits]
        (0, [3, 2])
    """
    kind = find_format(folder)
    names = list(splits) if splits else splits_of(folder)
    if not names:
        find_split(folder, "train")  # raises, and lists what was looked for
    report = CheckReport(str(folder), kind or "coco")
    by_digest: dict[str, list[tuple[str, str]]] = {}  # (split, file name) of the files with these bytes
    listed: dict[Path, set[str]] = {}  # file names that the annotations list, by image folder
    for split in names:
        annotation_path, images = find_split(folder, split)
        part = SplitReport(split, str(annotation_path), str(images))
        report.splits.append(part)
        try:
            annotations = Annotations.of(read_annotations(annotation_path))
        except ValueError as error:
            part.add(make_finding("invalid annotations", [str(error)], error=True))
            continue
        count(part, annotations)
        check_records(part, annotations)
        check_boxes(part, annotations)
        for name, digest in check_images(part, annotations, images, decode, progress):
            by_digest.setdefault(digest, []).append((split, name))
        listed.setdefault(images, set()).update(annotations.names)
    _compare_splits(report, by_digest)
    if not splits:
        _find_unlisted(report, listed)
    return report


def _compare_splits(report: CheckReport, by_digest: dict[str, list[tuple[str, str]]]) -> None:
    """Find images with equal bytes, and splits with different classes."""
    shared: list[str] = []
    repeated: list[str] = []
    for files in by_digest.values():
        if len(files) > 1:
            text = " = ".join(f"{split}/{name}" for split, name in sorted(set(files)))
            (shared if len({split for split, _ in files}) > 1 else repeated).append(text)
    report.add(
        make_finding("images in more than one split, byte for byte", shared, error=True),
        make_finding("images more than once in a split, byte for byte", repeated, error=False),
    )
    if len({tuple(part.classes) for part in report.splits if part.classes}) > 1:
        classes = [f"{part.split}: {', '.join(part.classes)}" for part in report.splits]
        report.add(make_finding("splits with different classes", classes, error=True))


def _find_unlisted(report: CheckReport, listed: dict[Path, set[str]]) -> None:
    """Find image files that no split lists."""
    for folder, names in listed.items():
        unlisted = [f"{folder / name}" for name in list_images(folder) if name not in names]
        report.add(make_finding("image files that no annotation mentions", unlisted, error=False))
