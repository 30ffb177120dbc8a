"""Image files to uint8 RGB tensors, with every oddity of real folders either handled or refused by name.

PIL decodes. Grey, palette, alpha, CMYK, 1-bit and 16-bit files become 8-bit RGB: alpha is dropped, and
16-bit samples keep their high byte, both as OpenCV's ``IMREAD_COLOR`` does. Of an animation the first
frame counts. On 8-bit JPEG files PIL and OpenCV give the same pixels, so published scores carry over.

Orientation: cameras write pixels as the sensor lay and an EXIF tag that says how to turn them.
mmdetection loads with mmcv's ``color`` flag, i.e. ``IMREAD_COLOR``, which turns (only
``color_ignore_orientation`` does not), whatever the annotations were drawn on. Prediction here always
turns. A data set turns too, unless the turn exchanges height and width and only the image as stored
has the size that the annotation file states: those boxes were drawn on the stored pixels, and turning
would move every one of them off its object (see ``read_image``'s ``size``).
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")  # of image files in folders
# What is decoded, whatever the file is called: PIL knows more, some of it by running other programs.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS = tuple(TURNS[k] for k in (5, 6, 7, 8))
_PNG_EXIF = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")  # where PIL looks for the tag in a PNG
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


class UnreadableImage(ValueError):
    """An image file that is missing, broken or of a kind that has no 8-bit RGB meaning.

    Attributes:
        path: the file.
        reason: what is wrong with it.

    Example:
        >>> from pkdzoo.data import UnreadableImage, read_image
        >>> try:
        ...     read_image("nowhere.jpg")
        ... except UnreadableImage as error:
        ...     print(error)
        nowhere.jpg: there is no such file
    """

    def __init__(self, path: str | Path, reason: str = "") -> None:
        self.path, self.reason = str(path), reason
        super().__init__(f"{path}: {reason}" if reason else str(path))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.reason)  # keeps both fields on the way out of a worker process


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in 8-bit RGB, without alpha; ValueError for float and 32-bit pixels."""
    if image.mode in _SIXTEEN_BIT or (image.mode == "I" and image.format == "PNG"):  # a PNG has no 32-bit samples
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "32-bit integer" if image.mode == "I" else "floating-point"
        raise ValueError(f"{kind} pixels have no fixed white: save the image with 8 or 16 bits a channel")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, PIL warns
    return image if image.mode == "RGB" else image.convert("RGB")


def upright(image: Image.Image, size: tuple[int, int] | None = None) -> Image.Image:
    """The image in 8-bit RGB, turned as its EXIF tag says.

    Args:
        image: any image that PIL holds.
        size: (height, width) that boxes were drawn on: a quarter turn is left out if only the image as
            stored has it.
    """
    turn = TURNS.get(image.getexif().get(ORIENTATION, 1))  # asked first: converting may lose the tag
    stored = (image.height, image.width)
    rgb = to_rgb(image)
    if turn in QUARTER_TURNS and size == stored and size != stored[::-1]:
        return rgb
    return rgb if turn is None else rgb.transpose(turn)


def to_tensor(image: Image.Image) -> Tensor:
    """uint8 (3, H, W) of an RGB image, in channels-last memory, which the resize is fastest on."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@cache
def known_formats() -> tuple[str, ...]:
    """Those of FORMATS that this PIL can decode."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def open_image(path: str | Path, content: BinaryIO | None = None, size: tuple[int, int] | None = None) -> Image.Image:
    """An image file in 8-bit RGB, turned as its EXIF tag says; the one place that opens images.

    Args:
        path: the file, or the name of what ``content`` holds.
        content: bytes to decode instead.
        size: see :func:`upright`.

    Raises:
        UnreadableImage: missing, truncated, not an image, or too large to be one.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # 12,000 x 9,000 is large, not an attack
            with Image.open(path if content is None else content, formats=known_formats()) as file:
                file.load()
                return upright(file, size)
    except FileNotFoundError:
        raise UnreadableImage(path, "there is no such file") from None
    except UnidentifiedImageError:
        raise UnreadableImage(path, f"it is no image of a known kind ({', '.join(known_formats())})") from None
    except Exception as error:  # PIL's decoders raise nearly anything on broken bytes
        raise UnreadableImage(path, f"{type(error).__name__}: {error}") from error


def read_image(path: str | Path, size: tuple[int, int] | None = None) -> Tensor:
    """Decode an image file.

    Args:
        path: the file.
        size: (height, width) that the annotations were drawn on, where it is known. It settles whether
            an EXIF quarter turn is applied; an image that has this size neither turned nor as stored
            is refused, for its boxes would lie beside their objects.

    Returns:
        uint8 (3, H, W), RGB.

    Raises:
        UnreadableImage: missing, truncated, not an image, too large to be one, or of another size.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from pkdzoo.data import read_image
        >>> path = f"{tempfile.mkdtemp()}/gray.png"
        >>> Image.new("L", (60, 40), 128).save(path)
        >>> read_image(path).shape, read_image(path).unique().tolist()
        (torch.Size([3, 40, 60]), [128])
    """
    image = open_image(path, size=size)
    if size is not None and (image.height, image.width) != tuple(size):
        found, told = f"{image.height} x {image.width}", f"{size[0]} x {size[1]}"
        raise UnreadableImage(path, f"it has {found} pixels (h x w), but its boxes were drawn on {told}")
    return to_tensor(image)


def read_size(path: str | Path) -> tuple[int, int]:
    """(height, width) that ``read_image`` would give the image, from its header alone.

    Raises:
        UnreadableImage: missing, or not an image. PixelNorm are not looked at: a truncated file passes.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=known_formats()) as file:
                height, width = file.height, file.width
                # Asked for its EXIF, PIL decodes a whole PNG in case the tag stands behind the pixels.
                bare = file.format == "PNG" and not any(key in file.info for key in _PNG_EXIF)
                turn = None if bare else TURNS.get(file.getexif().get(ORIENTATION, 1))
    except FileNotFoundError:
        raise UnreadableImage(path, "there is no such file") from None
    except Exception as error:  # PIL's decoders raise nearly anything on broken bytes
        raise UnreadableImage(path, f"{type(error).__name__}: {error}") from error
    return (width, height) if turn in QUARTER_TURNS else (height, width)
