"""Finds unreadable validation images before training begins: an evaluation must not skip any."""

from __future__ import annotations

import os
from pathlib import Path

from pkdzoo.data import CocoDataset
from pkdzoo.data.image_files import UnreadableImage, open_image, read_size

DECODED = 500  # of a data set with so many images all are decoded; of a larger one only those that look cut off
TAIL = 1 << 16  # bytes at a file's end in which the end of its image is looked for
ENDS = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND"}  # first bytes of JPEG and PNG, and what stands at their end


def find_unreadable(dataset: CocoDataset) -> list[str]:
    """The images that an evaluation could not read, each with the reason.

    The header of every image is read and compared with the annotated size. Images are decoded if there are few, if
    the end of the file is missing, or if header and annotation differ.

    Args:
        dataset: validation images, whose files exist.
    """
    found = []
    few = len(dataset) <= DECODED
    for index in range(len(dataset)):
        path = dataset.image_dir / dataset.file_name(index)
        size = (int(dataset.sizes[index, 0]), int(dataset.sizes[index, 1]))
        try:
            if few or read_size(path) != size or _is_cut(path):
                open_image(path, size=size)
        except UnreadableImage as error:
            found.append(str(error))
    return found


def _is_cut(path: Path) -> bool:
    """Whether the file of a JPEG or PNG image does not end as such an image should; False for other formats."""
    with open(path, "rb") as file:
        end = ENDS.get(file.read(2))
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
        return end is not None and end not in file.read(TAIL)
