"""A data set looked over before it costs a training run: counts, suspicious boxes, broken and shared images."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pkdzoo.data.filter import CROWD, positions
from pkdzoo.data.formats.coco import Columns
from pkdzoo.data.formats.common import UNKNOWN_SIZE, images_below
from pkdzoo.data.formats.read import find_format, read_annotations, splits_of
from pkdzoo.data.image_io import UnreadableImage, read_image, read_size
from pkdzoo.data.locate import find_split
from pkdzoo.dataset_tools.check_report import CheckReport, SplitReport, finding

TINY = 3.0  # pixels; a side shorter than this is mostly a slip of the mouse
WHOLE = 0.98  # share of the image that a box covers to count as the whole of it
SAME = 0.9  # IoU from which two boxes are one
OVERLAPS = (0.5, 0.7, 0.9)
ROWS = 1024  # boxes compared with all others of their image at a time
QUEUE = 1024  # images handed to the threads at a time


def check(
    folder: str | Path, splits: Sequence[str] | None = None, decode: bool = True, progress: bool = False
) -> CheckReport:
    """Look over a COCO, VOC or YOLO data set.

    Args:
        folder: the data set, or its ``data.yaml``.
        splits: only these; None takes all there are.
        decode: read every pixel; otherwise only headers, which lets truncated files pass.
        progress: show a bar, on a terminal.

    Returns:
        Counts and findings; ``report.errors`` is 0 for a data set that can be used as it is. Broken annotations
        are a finding too.

    Raises:
        ValueError: no data set is recognised, or it lacks a split.

    Example:
        >>> import tempfile
        >>> from pkdzoo.data import make_shapes
        >>> from pkdzoo.dataset_tools.check import check
        >>> report = check(make_shapes(tempfile.mkdtemp(), train=3, val=2, size=(64, 96)))
        >>> report.errors, [part.images for part in report.splits]
        (0, [3, 2])
    """
    kind = find_format(folder)
    wanted = list(splits) if splits else splits_of(folder)
    if not wanted:
        find_split(folder, "train")  # says what was looked for
    report = CheckReport(str(folder), kind or "coco")
    seen: dict[str, list[tuple[str, str]]] = {}
    listed: dict[Path, set[str]] = {}
    for split in wanted:
        annotations, images = find_split(folder, split)
        part = SplitReport(split, str(annotations), str(images))
        report.splits.append(part)
        try:
            columns = read_annotations(annotations)
        except ValueError as error:
            part.add(finding("broken annotations", [str(error)], error=True))
            continue
        table = _Table.of(columns)
        _count(part, table)
        _judge_records(part, table)
        _judge_boxes(part, table)
        for name, digest in _judge_images(part, table, images, decode, progress):
            seen.setdefault(digest, []).append((split, name))
        listed.setdefault(images, set()).update(table.names)
    _compare_splits(report, seen)
    if not splits:
        _unlisted(report, listed)
    return report


@dataclass(frozen=True)
class _Table:
    """A split's columns; ``owner`` is the place of each annotation's image, -1 where there is none."""

    columns: Columns
    names: list[str]
    owner: NDArray[np.int64]

    @classmethod
    def of(cls, columns: Columns) -> _Table:
        ends, ids = columns.name_ends.tolist(), columns.image_ids
        owner = np.full(len(columns.owners), -1, np.int64)
        if len(ids):
            owner = positions(columns.owners, ids, np.argsort(ids, kind="stable"))
        return cls(columns, [columns.names[a:b].decode() for a, b in pairwise(ends)], owner)

    def describe(self, wanted: NDArray[np.bool_]) -> list[str]:
        """Each wanted annotation in words."""
        classes, words = dict(self.columns.categories), []
        for row in np.flatnonzero(wanted).tolist():
            owner, label = int(self.owner[row]), int(self.columns.labels[row])
            where = self.names[owner] if owner >= 0 else f"image_id {self.columns.owners[row]}"
            box = ", ".join(f"{v:.6g}" for v in self.columns.boxes[row].tolist())
            words.append(f"{where}: {classes.get(label, f'category {label}')} [{box}]")
        return words


def _count(part: SplitReport, table: _Table) -> None:
    """Numbers that are neither good nor bad."""
    columns, owner, known = table.columns, table.owner, table.owner >= 0
    part.images, part.boxes = len(columns.image_ids), len(columns.labels)
    for number, name in columns.categories:
        mine = (columns.labels == number) & known
        part.classes[name] = {"boxes": int(mine.sum()), "images": len(np.unique(owner[mine]))}
    per_image = np.bincount(owner[known], minlength=part.images)
    part.empty = int((per_image == 0).sum())
    if not part.boxes or not part.images:
        return
    order = columns.sizes.prod(1, dtype=np.int64).argsort(kind="stable")
    smallest, largest = ((int(columns.sizes[k, 1]), int(columns.sizes[k, 0])) for k in (order[0], order[-1]))
    part.image_sides = {"smallest": smallest, "largest": largest}
    part.boxes_per_image = {"mean": float(per_image.mean()), "largest": float(per_image.max())}
    fine = np.isfinite(columns.boxes).all(1) & (columns.boxes[:, 2:] > 0).all(1) & known
    side = np.sqrt(columns.boxes[fine, 2:].prod(1)) if fine.any() else np.zeros(1)
    part.box_sides = {f"{q}%": float(np.percentile(side, q)) for q in (1, 50, 99)}
    small, large = int((side[: fine.sum()] < 32).sum()), int((side >= 96).sum())
    part.areas = {"small": small, "medium": int(fine.sum()) - small - large, "large": large}


def _judge_records(part: SplitReport, table: _Table) -> None:
    """Records that contradict one another."""
    columns = table.columns
    declared = np.array([number for number, _ in columns.categories], np.int64)
    ids, repeats = np.unique(columns.image_ids, return_counts=True)
    twice = [name for name, count in Counter(table.names).items() if count > 1]
    part.add(
        finding("images listed more than once", twice, error=True),
        finding("image ids given more than once", map(str, ids[repeats > 1].tolist()), error=True),
        finding("annotations of images that are not listed", table.describe(table.owner < 0), error=True),
        finding(
            "annotations of classes that are not listed",
            table.describe(~np.isin(columns.labels, declared)),
            error=True,
        ),
        finding("classes without a box", [n for n, c in part.classes.items() if not c["boxes"]], error=False),
    )


def _judge_boxes(part: SplitReport, table: _Table) -> None:
    """Boxes that no annotator meant."""
    columns, owner = table.columns, table.owner
    if not len(columns.labels) or not table.names:
        return
    sizes = columns.sizes[owner]
    limits = sizes[:, ::-1].astype(np.float64)  # (N, 2) width, height
    judged = (owner >= 0) & ~(sizes == UNKNOWN_SIZE).all(1)
    crowd = (columns.flags & CROWD) > 0
    low, sides = columns.boxes[:, :2], columns.boxes[:, 2:]
    empty = judged & ~(np.isfinite(columns.boxes).all(1) & (sides > 0).all(1))
    with np.errstate(invalid="ignore"):
        high = low + sides
        inside = (np.minimum(high, limits) - np.maximum(low, 0)).clip(min=0)
        outside = judged & ~empty & ~(inside > 0).all(1)
        good = judged & ~empty & ~outside
        over = good & (np.maximum(-low, high - limits) > 0.5).any(1)
        whole = good & ~crowd & (inside.prod(1) >= WHOLE * limits.prod(1))
        tiny = good & ~crowd & (sides.min(1) < TINY)
    twice, two_classes, worst = _overlaps(columns, owner, good & ~crowd)
    part.overlaps = {str(at): int((worst > at).sum()) for at in OVERLAPS}
    for what, mask, error in (
        ("boxes without area, or not of numbers", empty, True),
        ("boxes outside their image", outside, True),
        ("boxes that reach over the edge of their image", over, False),
        (f"boxes that repeat another of their class (IoU over {SAME})", twice, False),
        (f"boxes that repeat one of another class (IoU over {SAME})", two_classes, False),
        ("boxes of the whole image", whole, False),
        (f"boxes thinner than {TINY:.0f} pixels", tiny, False),
    ):
        part.add(finding(what, table.describe(mask), error))


def _overlaps(
    columns: Columns, owner: NDArray[np.int64], judged: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float64]]:
    """Boxes that repeat an earlier one of their class, of another class, and the largest IoU within the class."""
    twice, two_classes = np.zeros(len(owner), bool), np.zeros(len(owner), bool)
    worst = np.zeros(len(owner))
    rows = np.flatnonzero(judged)
    rows = rows[np.argsort(owner[rows], kind="stable")]
    ends = np.flatnonzero(np.diff(owner[rows], prepend=-1, append=-1))
    for start, end in pairwise(ends):
        mine = rows[start:end]
        xyxy = np.concatenate((columns.boxes[mine, :2], columns.boxes[mine, :2] + columns.boxes[mine, 2:]), 1)
        labels = columns.labels[mine]
        for first in range(0, len(mine), ROWS):
            part = slice(first, first + ROWS)
            iou = _iou(xyxy[part], xyxy)
            index = np.arange(len(mine))
            iou[index[part, None] == index] = 0
            same = labels[part, None] == labels
            earlier = index < index[part, None]
            worst[mine[part]] = (iou * same).max(1)
            twice[mine[part]] = (same & earlier & (iou > SAME)).any(1)
            two_classes[mine[part]] = (~same & earlier & (iou > SAME)).any(1)
    return twice, two_classes, worst


def _iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, M) of boxes in float64: ``torchvision.ops`` computes in the boxes' own precision as well."""
    sides = (np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])).clip(min=0)
    common = sides.prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b)]
    result: NDArray[np.float64] = common / (areas[0][:, None] + areas[1] - common)
    return result


# -- images ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Seen:
    """One image file: hash of its bytes, and what is wrong with it."""

    digest: str = ""
    missing: str = ""
    broken: str = ""
    other_size: str = ""


def _look_at(path: Path, told: tuple[int, int], decode: bool) -> _Seen:
    if path.exists() and not path.is_file():  # a device may have no end
        return _Seen(broken=f"{path}: it is no file")
    try:
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except FileNotFoundError:
        return _Seen(missing=str(path))
    except OSError as error:
        return _Seen(broken=f"{path}: {error.strerror}")
    try:
        found = read_size(path)
        if decode:
            shape = read_image(path).shape
            found = (shape[-2], shape[-1])
    except UnreadableImage as error:
        return _Seen(digest, broken=str(error))
    if told not in (found, UNKNOWN_SIZE):
        try:
            read_image(path, told)  # a quarter turn may settle it
        except UnreadableImage as error:
            return _Seen(digest, other_size=str(error))
    return _Seen(digest)


def _judge_images(
    part: SplitReport, table: _Table, images: Path, decode: bool, progress: bool
) -> Iterator[tuple[str, str]]:
    """Name and hash of each image that is there; what is wrong goes to the report."""
    sizes = [(h, w) for h, w in table.columns.sizes.tolist()]
    jobs = iter(zip(table.names, sizes))
    seen: list[tuple[str, _Seen]] = []
    bar = tqdm(total=len(table.names), desc=part.split, unit="image", disable=None if progress else True)
    with bar, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding lets other threads run
        while group := list(islice(jobs, QUEUE)):
            for (name, _), found in zip(group, pool.map(lambda job: _look_at(images / job[0], job[1], decode), group)):
                seen.append((name, found))
                bar.update()
    part.add(
        finding("missing images", (found.missing for _, found in seen if found.missing), error=True),
        finding("unreadable images", (found.broken for _, found in seen if found.broken), error=True),
        finding("images of another size", (found.other_size for _, found in seen if found.other_size), error=True),
    )
    return ((name, found.digest) for name, found in seen if found.digest)


# -- between splits ----------------------------------------------------------------------------------------------


def _compare_splits(report: CheckReport, seen: dict[str, list[tuple[str, str]]]) -> None:
    """Images whose bytes stand twice, and classes that differ."""
    shared: list[str] = []
    repeated: list[str] = []
    for places in seen.values():
        if len(places) > 1:
            words = " = ".join(f"{split}/{name}" for split, name in sorted(set(places)))
            (shared if len({split for split, _ in places}) > 1 else repeated).append(words)
    classes = {tuple(part.classes) for part in report.splits if part.classes}
    for found in (
        finding("images in more than one split, byte for byte", shared, error=True),
        finding("images more than once in a split, byte for byte", repeated, error=False),
    ):
        report.findings += [found] if found.count else []
    if len(classes) > 1:
        told = [f"{part.split}: {', '.join(part.classes)}" for part in report.splits]
        report.findings.append(finding("splits with different classes", told, error=True))


def _unlisted(report: CheckReport, listed: dict[Path, set[str]]) -> None:
    """Image files that no split mentions."""
    for folder, names in listed.items():
        extra = [f"{folder / name}" for name in images_below(folder) if name not in names]
        if extra:
            report.findings.append(finding("image files that no annotation mentions", extra, error=False))
