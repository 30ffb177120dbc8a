"""A quick check of all images of a data set before a run, so that a damaged one does not end the run hours later."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pkdzoo.data.formats.common import UNKNOWN_SIZE
from pkdzoo.data.image_files import UnreadableImage, check_whole, open_image

if TYPE_CHECKING:
    from pkdzoo.data.dataset import CocoDataset


DECODED = 500  # images of a data set that are decoded in a few seconds


def check_headers(dataset: CocoDataset, threads: int = 8) -> list[str]:
    """Open all images of a data set; those of more than 500 images mostly without decoding them.

    Finds files that are missing, no images, cut off, or of another size than annotated. ``pkdzoo data check`` decodes
    all images of any data set, and finds pixels that are damaged in the middle of a file.

    Args:
        dataset: its transform is not used.
        threads: files read at a time; reading mostly waits for the disk.

    Returns:
        Path and reason of each image that cannot be used, in the order of the data set.

    Example:
        >>> import tempfile
        >>> from pkdzoo.data import check_headers, make_shapes, open_dataset
        >>> root = make_shapes(tempfile.mkdtemp(), train=2, val=1, size=(64, 96))
        >>> dataset = open_dataset(root, "train")
        >>> check_headers(dataset)
        []
        >>> _ = (dataset.image_dir / dataset.file_name(1)).write_bytes(b"no image")
        >>> len(check_headers(dataset))
        1
    """
    check = check_whole if len(dataset) > DECODED else open_image

    def problem(index: int) -> str:
        size = (int(dataset.sizes[index, 0]), int(dataset.sizes[index, 1]))
        try:
            check(dataset.image_dir / dataset.file_name(index), size=None if size == UNKNOWN_SIZE else size)
        except UnreadableImage as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(threads) as pool:
        return [text for text in pool.map(problem, range(len(dataset))) if text]
