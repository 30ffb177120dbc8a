"""Resizing of images: to a size, or keeping the ratio of the sides.

The resize is the one of the published scores: mmdetection's, which is OpenCV's bilinear resize of uint8
**without** antialiasing. OpenCV's fixed-point arithmetic loses an eighth of a gray level on average; subtracting it
before rounding reduces the mean difference from 0.13 to 0.05 gray levels. Where both sides shrink by a whole number (at
half the size: the mean of four pixels) OpenCV loses nothing, and every pixel is equal. torchvision's own uint8 kernel
differs by 0.29 gray levels and is five times faster; it is used for images that are too large as floats. Sizes are
``int(side * scale + 0.5)``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as F

FLOAT_LIMIT = 32_000_000  # pixels of source or result; above it the resize stays in uint8


def keep_ratio_size(
    size: tuple[int, int], short: int, long: int, canvas: tuple[int, int] | None = None
) -> tuple[int, int]:
    """The largest (height, width) of this ratio with a short side up to ``short`` and a long side up to ``long``.

    With a ``canvas`` (height, width) it is the largest one that fits on it, and the two sides do not count.
    """
    height, width = size
    scale = min(long / max(height, width), short / min(height, width))
    if canvas is not None:
        scale = min(canvas[0] / height, canvas[1] / width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a uint8 image as OpenCV's bilinear resize does, without antialiasing.

    Args:
        image: uint8 (3, H, W).
        size: (height, width) of the result.

    Returns:
        uint8 (3, height, width).
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    if max(image.shape[-2] * image.shape[-1], size[0] * size[1]) > FLOAT_LIMIT:
        small: Tensor = F.resize_image(image, list(size), antialias=False)
        return small
    # PIL images are channels-last, which is seven times faster here than separate planes. With several threads torch
    # uses another kernel for three channels than with one thread, and their last bits differ. With a fourth channel it
    # uses the same kernel, so that a loader's workers (one thread) and the main process get the same images.
    channels = image.shape[0] if torch.get_num_threads() == 1 else max(4, image.shape[0])
    floats = torch.empty((1, channels, *image.shape[-2:]), memory_format=torch.channels_last)
    floats[0, : image.shape[0]] = image
    floats[0, image.shape[0] :] = 0
    # The conversion to uint8 truncates, so 0.5 is added for rounding. Weights sum to one, so it can be added before the
    # resize, where there are fewer pixels.
    exact = image.shape[-2] % size[0] == 0 and image.shape[-1] % size[1] == 0
    floats += 0.5 if exact else 0.5 - 0.125
    resized = interpolate(floats, size=list(size), mode="bilinear", align_corners=False)[:, : image.shape[0]]
    return resized.to(torch.uint8)[0]  # no clamp needed: values are between 0.375 and 255.5


def resize_keep_ratio(
    image: Tensor, short: int = 800, long: int = 1333, canvas: tuple[int, int] | None = None
) -> tuple[Tensor, tuple[float, float]]:
    """Resize as in the evaluation of every published detector.

    Args:
        image: uint8 (3, H, W).
        short: target length of the short side, in pixels.
        long: maximum length of the long side, in pixels.
        canvas: (height, width) that the result fits on, in place of the two sides.

    Returns:
        The uint8 image and its (width, height) factors, which differ by rounding: boxes of the original times
        (w, h, w, h) are boxes of the result.

    Example:
        >>> import torch
        >>> from pkdzoo.data import resize_keep_ratio
        >>> image, scale = resize_keep_ratio(torch.zeros(3, 480, 640, dtype=torch.uint8), short=800, long=1333)
        >>> tuple(image.shape), scale
        ((3, 800, 1067), (1.6671875, 1.6666666666666667))
    """
    height, width = image.shape[-2:]
    new = keep_ratio_size((height, width), short, long, canvas)
    return resize_image(image, new), (new[1] / width, new[0] / height)
