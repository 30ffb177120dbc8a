"""Checks a data set before a training run: counts, suspicious boxes, unreadable images, images shared by splits.

Runs without importing torch, so that it starts at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pkdzoo.data.filter import select
from pkdzoo.data.formats.base import split_of, walk_files
from pkdzoo.data.formats.read import find_format, findings_of, read_annotations, splits_of
from pkdzoo.data.image_files import is_image_name, is_other_image
from pkdzoo.data.image_names import match_columns
from pkdzoo.data.labels import match_labels
from pkdzoo.data.load_report import LoadReport
from pkdzoo.data.locate import find_split
from pkdzoo.dataset_tools.check_annotations import Annotations, check_boxes, check_records, count
from pkdzoo.dataset_tools.check_images import check_images
from pkdzoo.dataset_tools.check_report import CheckReport, SplitReport, make_finding
from pkdzoo.dataset_tools.hold_out import source_of


def check(
    folder: str | Path, splits: Sequence[str] | None = None, decode: bool = True, progress: bool = False
) -> CheckReport:
    """Check a data set.

    Args:
        folder: the data set, or its ``data.yaml``.
        splits: check only these; None means all.
        decode: decode every image; otherwise only headers are read, and truncated files are not noticed.
        progress: show a progress bar on a terminal.

    Returns:
        Counts and findings. ``report.errors`` is 0 for a data set that can be used as it is. Invalid annotations are a
        finding as well.

    Raises:
        ValueError: no data set is recognized, no split of it can be found, or one of ``splits`` is missing.

    Example:
        >>> import tempfile
        >>> from pkdzoo.data import make_shapes
        >>> from pkdzoo.dataset_tools.check import check
        >>> report = check(make_shapes(tempfile.mkdtemp(), train=3, val=2, size=(64, 96)))
        >>> report.errors, [part.images for part in report.splits]
        (0, [3, 2])
    """
    kind = find_format(folder)
    names = [split_of(name) for name in splits] if splits else splits_of(folder)
    if not names:
        find_split(folder, "train")  # raises, and lists what was looked for
    report = CheckReport(str(folder), kind or "coco")
    files: list[tuple[str, str, str]] = []  # split, file name and digest of each image that could be read
    listed: dict[Path, set[str]] = {}  # paths that the annotations list, by image folder
    places, missing = _locate(folder, names)
    if missing and (splits or not places):
        raise next(iter(missing.values()))
    for split, error in missing.items():  # often the test set, which was not downloaded
        report.add(make_finding(f"the {split} set is missing", [str(error)], error=split != "test"))
    for split, (path, directory) in places.items():
        part, annotations = _read_split(split, path, directory)
        report.splits.append(part)
        if annotations is None:
            continue
        images = Path(part.image_dir)
        check_use(part, annotations, list(report.splits[0].classes) if len(report.splits) > 1 else None)
        found = check_images(part, annotations, images, decode, progress)
        files += [(split, name, digest) for name, digest in found]
        listed.setdefault(images, set()).update(os.path.abspath(images / name) for name in annotations.names)
    _compare_splits(report, files)
    if not splits:
        _find_unlisted(report, listed, deep=kind != "yolo")
    return report


def _locate(folder: str | Path, names: Sequence[str]) -> tuple[dict[str, tuple[Path, Path]], dict[str, ValueError]]:
    """Annotations and images of each split, and the errors of the splits that have none."""
    places: dict[str, tuple[Path, Path]] = {}
    missing: dict[str, ValueError] = {}
    for split in names:
        try:
            places[split] = find_split(folder, split)
        except ValueError as error:
            missing[split] = error
    return places, missing


def _read_split(split: str, path: Path, images: Path) -> tuple[SplitReport, Annotations | None]:
    """Counts and findings of a split's annotations; None in place of annotations that cannot be read."""
    part = SplitReport(split, str(path), str(images))
    try:
        columns, found_names = match_columns(read_annotations(path), images)
        annotations = Annotations.of(columns)
        part.add(*(make_finding(*finding) for finding in findings_of(path)))
        names = [f"{name} -> {inside}" for name, inside in found_names.items()]
        part.add(make_finding(f"image names that are found by their last parts inside {images}", names, error=False))
    except ValueError as error:
        part.add(make_finding("invalid annotations", [str(error)], error=True))
        return part, None
    count(part, annotations)
    check_records(part, annotations)
    check_boxes(part, annotations)
    return part, annotations


def check_use(part: SplitReport, annotations: Annotations, classes: list[str] | None) -> None:
    """Read annotations without other errors as training and evaluation do; what is refused there becomes an error.

    Args:
        part: report of the split.
        annotations: of the split.
        classes: of the first split, whose names decide the labels of the others; None for the first split.
    """
    if any(finding.error for finding in part.findings):
        return
    names = classes if set(part.classes) <= set(classes or ()) else None  # other classes are a finding of their own
    path, columns = Path(part.annotations), annotations.columns
    try:
        found, label_of = match_labels(columns.categories, names or None, False, path)
        select(columns, label_of, found, LoadReport(str(path)))
    except ValueError as error:
        part.add(make_finding("annotations that training or evaluation refuses", [str(error)], error=True))


def _compare_splits(report: CheckReport, files: list[tuple[str, str, str]]) -> None:
    """Find images of one source in several splits, and splits with different classes."""
    shared, repeated = _common(files, lambda split, name, digest: digest)
    sources, _ = _common(files, lambda split, name, digest: source_of(name) if source_of(name) != name else "")
    report.add(
        make_finding("images in more than one split, byte for byte", shared, error=True),
        make_finding("images more than once in a split, byte for byte", repeated, error=False),
        make_finding("copies (.rf.) of one image in more than one split", sources, error=False),
    )
    with_classes = [part for part in report.splits if part.classes]
    if not with_classes:
        return
    first, described = set(with_classes[0].classes), [f"{p.split}: {', '.join(p.classes)}" for p in with_classes]
    more = any(set(part.classes) - first for part in with_classes)
    fewer = any(first - set(part.classes) for part in with_classes)
    if more or fewer:  # the names decide, not their order or ids; the model has the classes of the first split
        report.add(make_finding("splits with different classes", described, error=more))


def _common(files: list[tuple[str, str, str]], key: Callable[[str, str, str], str]) -> tuple[list[str], list[str]]:
    """Files with a common key in several splits, and in one split, as text."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for split, name, digest in files:
        if key(split, name, digest):
            groups.setdefault(key(split, name, digest), []).append((split, name))
    shared: list[str] = []
    repeated: list[str] = []
    for group in groups.values():
        if len(group) > 1:
            text = " = ".join(f"{split}/{name}" for split, name in sorted(set(group)))
            (shared if len({split for split, _ in group}) > 1 else repeated).append(text)
    return shared, repeated


def _find_unlisted(report: CheckReport, listed: dict[Path, set[str]], deep: bool) -> None:
    """Find image files that no split lists, and images of formats that are not read.

    Args:
        report: is filled in.
        listed: paths of the listed images, by image folder.
        deep: look into all subfolders of the image folders; otherwise only into folders with listed images.
    """
    all_listed = set().union(*listed.values())
    folders = list(listed) if deep else sorted({Path(path).parent for path in all_listed})
    paths = {folder / name for folder in folders for name in (walk_files(folder) if deep else os.listdir(folder))}
    unlisted = [str(p) for p in sorted(paths) if is_image_name(p) and os.path.abspath(p) not in all_listed]
    others = [str(p) for p in sorted(paths) if is_other_image(p) and os.path.abspath(p) not in all_listed]
    report.add(
        make_finding("image files that no annotation mentions", unlisted, error=False),
        make_finding("images of formats that are not read, left out: save them as JPEG or PNG", others, error=False),
    )
