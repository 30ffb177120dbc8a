"""Decoded images in memory that all loader processes of a training process share, within a budget.

An epoch reads every image again. Where the images of a data set fit into memory, decoding and resizing them once is
enough. Each image has its place from the start, and every process writes the same pixels there, so no lock is needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GIGABYTE = 1 << 30


class ImageCache:
    """Images by their index; those that do not fit the budget are never kept.

    Args:
        sizes: (n, 2) height and width of the images as they are kept, in pixels.
        budget: bytes. Memory is taken from the start for the images that fit, the first ones of the data set.

    Attributes:
        count: number of images that have a place.
        nbytes: bytes of all places.

    Raises:
        ValueError: this much shared memory is not available.

    Example:
        >>> import numpy as np, torch
        >>> from pkdzoo.data.image_cache import ImageCache
        >>> cache = ImageCache(np.array([[40, 60], [30, 20]]), budget=8000)
        >>> cache.put(0, torch.full((3, 40, 60), 7, dtype=torch.uint8))
        >>> cache.count, cache.get(0).shape, cache.get(1)
        (1, torch.Size([3, 40, 60]), None)
    """

    def __init__(self, sizes: NDArray[np.integer], budget: int) -> None:
        self.sizes = np.asarray(sizes, dtype=np.int64).reshape(-1, 2)
        self._ends = 3 * self.sizes.prod(axis=1).cumsum()
        self.count = int(np.searchsorted(self._ends, budget, side="right"))
        self.nbytes = int(self._ends[self.count - 1]) if self.count else 0
        try:
            self._pixels = _shared_bytes(self.nbytes)
            self._filled = _shared_bytes(self.count)
        except (RuntimeError, OSError) as error:
            raise ValueError(
                f"no shared memory for a cache of {self.nbytes / GIGABYTE:.2f} GB: write a smaller budget, or give "
                f"/dev/shm more room (docker run --shm-size) [{error}]"
            ) from error

    def get(self, index: int) -> Tensor | None:
        """A copy of an image, uint8 (3, H, W) in channels-last memory; None where it is not kept (yet)."""
        if index >= self.count or not self._filled[index]:
            return None
        return self._place(index).clone()

    def put(self, index: int, image: Tensor) -> None:
        """Keep an image, uint8 (3, H, W), if it has a place.

        Raises:
            ValueError: it is not of the size that was announced.
        """
        if index >= self.count:
            return
        place = self._place(index)
        if place.shape != image.shape:
            raise ValueError(f"image {index} is {tuple(image.shape)}, and its place {tuple(place.shape)}")
        place.copy_(image)
        self._filled[index] = 1

    def _place(self, index: int) -> Tensor:
        height, width = (int(side) for side in self.sizes[index])
        end = int(self._ends[index])
        return self._pixels[end - 3 * height * width : end].view(height, width, 3).permute(2, 0, 1)


def _shared_bytes(count: int) -> Tensor:
    """``count`` zeros of type uint8 in shared memory."""
    if not count:
        return torch.empty(0, dtype=torch.uint8)
    storage: Any = torch.UntypedStorage._new_shared(count)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage)
