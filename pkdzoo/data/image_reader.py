"""How the images of a data set are read: decoded exactly or fast, and kept in memory within a budget.

Exact is what published numbers need: every pixel is decoded, then the transform resizes. Fast lets the JPEG decoder
skip the detail that the transform would remove anyway: a photograph of 4,000 pixels is decoded at a quarter of its
size, in a fraction of the time. Its pixels are then a good antialiased reduction and not those of the published
resize.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pkdzoo.data.augment import MixTransform
from pkdzoo.data.image_cache import ImageCache
from pkdzoo.data.image_io import read_image
from pkdzoo.data.image_resize import keep_ratio_size, resize_image
from pkdzoo.data.transforms import Compose, Resize

Decode = Literal["exact", "fast"]
DECODE: tuple[Decode, ...] = ("exact", "fast")


class ImageReader:
    """Reads images of a data set for a transform.

    Args:
        sizes: (n, 2) height and width of the images in pixels, as annotated.
        transform: what follows. Its resize decides how small an image may be decoded (``fast``) and at which size it
            is kept: after a resize to one fixed size, which is then done once.
        decode: ``"exact"`` or ``"fast"``. Fast reads an image in full where the transform does not begin with a resize.
        cache: bytes of shared memory for images that were read; 0 keeps none. With ``"exact"``, pixels do not depend
            on it. With ``"fast"`` and several scales, images that are kept are resized twice: first to the largest
            scale.

    Attributes:
        cache: of the images that were read.

    Raises:
        ValueError: another ``decode``, or no shared memory for the cache.
    """

    def __init__(self, sizes: NDArray[np.integer], transform: Any, decode: Decode = "exact", cache: int = 0) -> None:
        if decode not in DECODE:
            raise ValueError(f"decode={decode!r}: write 'exact' or 'fast' (JPEG files decoded small)")
        self.decode, self.resize = decode, _first_resize(transform)
        self.mix = transform if isinstance(transform, MixTransform) else None
        kept = np.array([self.kept_size((int(h), int(w))) for h, w in sizes]) if cache else sizes
        self.cache = ImageCache(kept, cache)

    def read(self, index: int, path: Path, size: tuple[int, int]) -> Tensor:
        """The image ``index`` of the data set, at its size or already resized.

        Args:
            index: its position in ``sizes``.
            path: its file.
            size: (height, width) that its boxes were drawn on.

        Returns:
            uint8 (3, H, W), RGB.
        """
        kept = self.cache.get(index)
        if kept is not None:
            return kept
        image = read_image(path, size, self.needed_size(size) if self.decode == "fast" else None)
        if index < self.cache.count:
            image = resize_image(image, self.kept_size(size))
            self.cache.put(index, image)
        return image

    def needed_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The largest (height, width) that the transform makes of an image, or ``size`` where that is smaller."""
        if self.resize is not None:
            needed = keep_ratio_size(size, max(self.resize.short), self.resize.long, self.resize.canvas)
        elif self.mix is not None:
            side = int(self.mix.size * self.mix.scale[1])
            needed = keep_ratio_size(size, side, side)
        else:
            return size
        return needed if needed[0] < size[0] and needed[1] < size[1] else size

    def kept_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) at which an image of this size is kept."""
        if self.resize is not None and (len(self.resize.short) == 1 or self.resize.canvas):
            return keep_ratio_size(size, self.resize.short[0], self.resize.long, self.resize.canvas)
        return self.needed_size(size) if self.decode == "fast" else size


def _first_resize(transform: Any) -> Resize | None:
    first = transform.transforms[0] if isinstance(transform, Compose) and transform.transforms else transform
    return first if isinstance(first, Resize) else None
