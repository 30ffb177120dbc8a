"""COCO segmentations (polygons, run lengths) in one flat block of bytes, decoded when an image is loaded.

Coordinates stay float64. COCO rasterizes ``int(5 x + 0.5)``, and coordinates with one decimal lie exactly on that
boundary: in float32 mask edges would move by a pixel.
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

NONE, POLYGON, RUNS = 0, 1, 2


def _polygons(segmentation: list[Any]) -> bytes:
    # pycocotools reads a list of four numbers as a box, and fewer than three corners enclose no area.
    parts = [part for part in segmentation if isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0]
    return b"".join(np.array([len(part), *part], np.float64).tobytes() for part in parts)


def _runs(segmentation: dict[str, Any]) -> bytes:
    height, width = segmentation["size"]
    counts = segmentation["counts"]
    if isinstance(counts, list):
        counts = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
    counts = counts.encode() if isinstance(counts, str) else counts
    return np.array([height, width], np.int32).tobytes() + bytes(counts)


class Segments:
    """Segmentations of N annotations: filled by ``append``, read by ``rle`` and ``decode``."""

    def __init__(self) -> None:
        self.blob: bytearray | NDArray[np.uint8] = bytearray()
        self.ends: array[int] | NDArray[np.int64] = array("q")
        self.kinds: bytearray | NDArray[np.uint8] = bytearray()

    def append(self, segmentation: Any) -> None:
        """Add a segmentation in the form of a COCO file.

        Raises:
            ValueError: it is neither polygons nor run lengths.
        """
        assert isinstance(self.blob, bytearray) and isinstance(self.ends, array) and isinstance(self.kinds, bytearray)
        data, kind = b"", NONE
        try:
            if isinstance(segmentation, list):
                data, kind = _polygons(segmentation), POLYGON
            elif isinstance(segmentation, dict):
                data, kind = _runs(segmentation), RUNS
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"has a segmentation that is neither polygons nor run lengths ({error!r})") from None
        self.blob += data
        self.ends.append(len(self.blob))
        self.kinds.append(kind if data else NONE)

    def freeze(self) -> Segments:
        """Turn the columns into arrays, which worker processes can share."""
        self.blob = np.frombuffer(self.blob, np.uint8)
        self.ends = np.frombuffer(self.ends, np.int64)
        self.kinds = np.frombuffer(self.kinds, np.uint8)
        return self

    def __len__(self) -> int:
        return len(self.ends)

    def rle(self, index: int, height: int, width: int) -> dict[str, Any] | None:
        """Compressed run lengths of one annotation on an image of this size; None where it has no mask."""
        kind = self.kinds[index]
        data = bytes(self.blob[self.ends[index - 1] if index else 0 : self.ends[index]])
        if kind == NONE:
            return None
        if kind == RUNS:
            size = np.frombuffer(data[:8], np.int32).tolist()
            return {"size": size, "counts": data[8:]}
        numbers, polygons, start = np.frombuffer(data, np.float64), [], 0
        while start < len(numbers):
            count = int(numbers[start])
            polygons.append(numbers[start + 1 : start + 1 + count].tolist())
            start += 1 + count
        merged: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        return merged

    def decode(self, indices: NDArray[np.int64], height: int, width: int) -> NDArray[np.bool_]:
        """Masks (N, height, width); all False where an annotation has no mask, or one of another size."""
        masks = np.zeros((len(indices), height, width), bool)
        for mask, index in zip(masks, indices.tolist()):
            runs = self.rle(index, height, width)
            if runs is not None and list(runs["size"]) == [height, width]:
                mask[:] = coco_mask.decode(runs)
        return masks
