"""Checks of image files: missing and unreadable files, sizes, and a hash that finds copies."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from pkdzoo.data.formats.common import UNKNOWN_SIZE
from pkdzoo.data.image_files import UnreadableImage, open_image, read_size
from pkdzoo.dataset_tools.check_annotations import Annotations
from pkdzoo.dataset_tools.check_report import SplitReport, make_finding

QUEUE = 1024  # images handed to the threads at a time


@dataclass(frozen=True)
class ImageCheck:
    """Result for one image file: a hash of its bytes, and at most one problem.

    Attributes:
        digest: hexadecimal BLAKE2 hash; empty where the file could not be read.
        missing: path of a file that does not exist.
        unreadable: path, and why the image cannot be decoded.
        other_size: path, and how the image's size differs from the annotated one.
    """

    digest: str = ""
    missing: str = ""
    unreadable: str = ""
    other_size: str = ""


def check_image(path: Path, annotated: tuple[int, int], decode: bool) -> ImageCheck:
    """Check one image file.

    Args:
        path: the file.
        annotated: (height, width) from the annotations.
        decode: decode the pixels as well; otherwise only the header is read.
    """
    if path.exists() and not path.is_file():  # reading a device may never end
        return ImageCheck(unreadable=f"{path}: it is no file")
    try:
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except FileNotFoundError:
        return ImageCheck(missing=str(path))
    except OSError as error:
        return ImageCheck(unreadable=f"{path}: {error.strerror}")
    try:
        size = read_size(path)
        if decode:
            image = open_image(path)
            size = (image.height, image.width)
    except UnreadableImage as error:
        return ImageCheck(digest, unreadable=str(error))
    if annotated not in (size, UNKNOWN_SIZE):
        try:
            open_image(path, size=annotated)  # the sizes may agree without the EXIF quarter turn
        except UnreadableImage as error:
            return ImageCheck(digest, other_size=str(error))
    return ImageCheck(digest)


def check_images(
    part: SplitReport, annotations: Annotations, images: Path, decode: bool, progress: bool
) -> Iterator[tuple[str, str]]:
    """Check all images of a split and add the problems to its report.

    Returns:
        Name and hash of each image that could be read.
    """
    sizes = [(h, w) for h, w in annotations.columns.sizes.tolist()]
    jobs = iter(zip(annotations.names, sizes))
    checks: list[tuple[str, ImageCheck]] = []
    bar = tqdm(total=len(annotations.names), desc=part.split, unit="image", disable=None if progress else True)
    with bar, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding lets other threads run
        while group := list(islice(jobs, QUEUE)):
            done = pool.map(lambda job: check_image(images / job[0], job[1], decode), group)
            for (name, _), result in zip(group, done):
                checks.append((name, result))
                bar.update()
    part.add(
        make_finding("missing images", (_missing(name, c, images) for name, c in checks if c.missing), error=True),
        make_finding("unreadable images", (c.unreadable for _, c in checks if c.unreadable), error=True),
        make_finding("images of another size", (c.other_size for _, c in checks if c.other_size), error=True),
    )
    return ((name, result.digest) for name, result in checks if result.digest)


def _missing(name: str, check: ImageCheck, images: Path) -> str:
    hint = f" (names are paths inside {images}; this one is {name!r:.80})" if "/" in name else ""
    return check.missing + hint
