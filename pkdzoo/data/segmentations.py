"""COCO segmentations (polygons, run lengths) in one flat block of bytes, decoded when an image is loaded.

Coordinates stay float64. COCO rasterizes ``int(5 x + 0.5)``, and coordinates with one decimal lie exactly on that
boundary: in float32 mask edges would move by a pixel.

pycocotools checks nothing: a coordinate of 5e8 or NaN ends the process, run lengths that are shorter than their image
give memory of other objects, and those of another size give another mask. So every segmentation is checked when it is
read, and one that cannot be used has the kind ``INVALID``.
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

NONE, POLYGON, RUNS, INVALID = 0, 1, 2, 3
MAX_COORDINATE = 1e8  # pixels; pycocotools multiplies coordinates by 5 in 32-bit integers
MAX_OUTLINE = 5e6  # pixels of the outline of one object's polygons, of which pycocotools makes 5 points each
MAX_SIDE = 1_000_000  # pixels of run lengths, as of an image


class _Invalid(ValueError):
    """Raised for a segmentation that pycocotools must not see."""


def _polygons(segmentation: list[Any]) -> bytes:
    # pycocotools reads a list of four numbers as a box, and fewer than three corners enclose no area.
    parts = [part for part in segmentation if isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0]
    polygons = [_polygon(part) for part in parts]
    if sum(outline for _, outline in polygons) > MAX_OUTLINE:
        raise _Invalid("the outline of the polygons is longer than that of any object")
    return b"".join(np.array([len(numbers), *numbers], np.float64).tobytes() for numbers, _ in polygons)


def _polygon(part: list[Any]) -> tuple[NDArray[np.float64], float]:
    """The checked coordinates of a polygon, and the length of its outline."""
    try:
        numbers = np.array(part)
    except ValueError:  # lists of different lengths in it
        raise _Invalid("a polygon is a list of numbers") from None
    if numbers.dtype.kind not in "iuf" or numbers.ndim != 1:  # strings, null and larger integers have other kinds
        raise _Invalid("a polygon is a list of numbers")
    numbers = numbers.astype(np.float64)
    if not (np.abs(numbers) <= MAX_COORDINATE).all():  # False for NaN as well
        raise _Invalid("a polygon has a coordinate that is not finite or far outside any image")
    corners = numbers.reshape(-1, 2)
    return numbers, float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())


def _runs(segmentation: dict[str, Any]) -> bytes:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(_is_side(side) for side in size):
        raise _Invalid("run lengths have a 'size' of [height, width]")
    height, width = (int(side) for side in size)
    if isinstance(counts, list):
        if not all(type(run) is int and 0 <= run <= height * width for run in counts):
            raise _Invalid("run lengths are whole numbers from 0 up")
        lengths = counts
    elif isinstance(counts, str):
        lengths = decode_counts(counts.encode("utf-8", "replace"))
    else:
        raise _Invalid("'counts' of run lengths is a list or a text")
    if sum(lengths) != height * width or height * width >= 2**31:
        raise _Invalid(f"the run lengths cover {sum(lengths)} pixels of {height} x {width}")
    if isinstance(counts, list):
        text = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
    else:
        text = counts.encode()
    return np.array([height, width], np.int32).tobytes() + bytes(text)


def _is_side(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 1 <= value <= MAX_SIDE and value == int(value)


def decode_counts(text: bytes) -> list[int]:
    """Run lengths of COCO's compressed form: 5 bits a character, from the third run on as differences.

    Raises:
        ValueError: the text is not of this form, or a run is negative.

    Example:
        >>> from pkdzoo.data.segmentations import decode_counts
        >>> decode_counts(b"052")
        [0, 5, 2]
    """
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(codes):
        return []
    last = codes & 32 == 0  # the last character of each number
    if (codes < 0).any() or (codes > 63).any() or not last[-1]:
        raise _Invalid("'counts' is not a text of compressed run lengths")
    starts = np.concatenate(([0], np.flatnonzero(last)[:-1] + 1))
    lengths = np.diff(np.append(starts, len(codes)))
    if lengths.max() > 7:  # 35 bits; an image has less than 2**31 pixels
        raise _Invalid("'counts' has a run that is longer than any image")
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & 31) << (5 * place), starts)
    negative = codes[last] & 16 != 0
    values = np.where(negative, values - (1 << (5 * lengths)), values)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    if (values < 0).any() or (values >= 2**31).any():
        raise _Invalid("'counts' has a run that is negative, or longer than any image")
    runs: list[int] = values.tolist()
    return runs


class Segments:
    """Segmentations of N annotations: filled by ``append``, read by ``rle`` and ``decode``.

    Attributes:
        kinds: (N,) uint8: ``NONE``, ``POLYGON``, ``RUNS``, or ``INVALID`` for one that cannot be used.
    """

    def __init__(self) -> None:
        self.blob: bytearray | NDArray[np.uint8] = bytearray()
        self.ends: array[int] | NDArray[np.int64] = array("q")
        self.kinds: bytearray | NDArray[np.uint8] = bytearray()

    def append(self, segmentation: Any) -> None:
        """Add a segmentation in the form of a COCO file; True, a mark without content, is no segmentation."""
        assert isinstance(self.blob, bytearray) and isinstance(self.ends, array) and isinstance(self.kinds, bytearray)
        data, kind = b"", NONE
        try:
            if isinstance(segmentation, list):
                data, kind = _polygons(segmentation), POLYGON
            elif isinstance(segmentation, dict):
                data, kind = _runs(segmentation), RUNS
            elif segmentation is not None and segmentation is not True:
                kind = INVALID
        except _Invalid:
            kind = INVALID
        self.blob += data
        self.ends.append(len(self.blob))
        self.kinds.append(kind if data or kind == INVALID else NONE)

    def freeze(self) -> Segments:
        """Turn the columns into arrays, which worker processes can share."""
        self.blob = np.frombuffer(self.blob, np.uint8)
        self.ends = np.frombuffer(self.ends, np.int64)
        self.kinds = np.frombuffer(self.kinds, np.uint8)
        return self

    def __len__(self) -> int:
        return len(self.ends)

    def mark_other_sizes(self, rows: NDArray[np.int64], sizes: NDArray[np.int32]) -> int:
        """Mark run lengths that are of another size than their image as invalid.

        Args:
            rows: (n,) annotations.
            sizes: (n, 2) height and width of their images.

        Returns:
            The number of annotations that were marked.
        """
        kinds = np.asarray(self.kinds)
        runs = kinds[rows] == RUNS
        rows, sizes = rows[runs], sizes[runs]
        starts = np.concatenate(([0], np.asarray(self.ends)))[rows]
        own = np.asarray(self.blob)[starts[:, None] + np.arange(8)].view(np.int32)  # blobs of runs begin with the size
        other = rows[(own != sizes).any(axis=1)]
        self.kinds = kinds.copy()  # the array may be a view of memory that cannot be written
        self.kinds[other] = INVALID
        return len(other)

    def rle(self, index: int, height: int, width: int) -> dict[str, Any] | None:
        """Compressed run lengths of one annotation on an image of this size; None where it has no usable mask."""
        kind = self.kinds[index]
        data = bytes(self.blob[self.ends[index - 1] if index else 0 : self.ends[index]])
        if kind in (NONE, INVALID):
            return None
        if kind == RUNS:
            size = np.frombuffer(data[:8], np.int32).tolist()
            return {"size": size, "counts": data[8:]} if size == [height, width] else None
        numbers, polygons, start = np.frombuffer(data, np.float64), [], 0
        while start < len(numbers):
            count = int(numbers[start])
            polygons.append(numbers[start + 1 : start + 1 + count].tolist())
            start += 1 + count
        merged: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        return merged

    def decode(self, indices: NDArray[np.int64], height: int, width: int) -> NDArray[np.bool_]:
        """Masks (N, height, width); all False where an annotation has no usable mask of this size."""
        masks = np.zeros((len(indices), height, width), bool)
        for mask, index in zip(masks, indices.tolist()):
            runs = self.rle(index, height, width)
            if runs is not None:
                mask[:] = coco_mask.decode(runs)
        return masks
