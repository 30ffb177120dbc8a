"""Image files opened and decoded to 8-bit RGB by PIL; this file does not import torch.

Gray, palette, alpha, CMYK, 1-bit and 16-bit files become 8-bit RGB. Alpha is dropped and 16-bit samples keep their high
byte, both as OpenCV's ``IMREAD_COLOR`` does. Of an animation the first frame is used. On 8-bit JPEG files PIL and
OpenCV give the same pixels, so published scores hold here as well.

Orientation: cameras store the pixels as the sensor saw them, with an EXIF tag that tells how to turn them for display.
mmdetection loads with mmcv's ``color`` flag (``IMREAD_COLOR``), which applies the tag whatever the annotations were
drawn on; only ``color_ignore_orientation`` does not. Prediction here always applies the tag. A data set applies it too,
with one exception: a quarter turn is left out where only the image as stored has the size that the annotation file
states. Those boxes were drawn on the stored pixels, and the turn would move them off their objects (see
``open_image``'s ``size``). In TIFF files the tag is a field of the file itself, which PIL applies while it decodes.

The orientation in XMP metadata alone is not applied: OpenCV does not read it, so boxes were not drawn on it.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

# Of the image files in a folder, for data sets and for prediction alike.
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif",
)  # fmt: skip
# Images that are not decoded: a folder's report counts them instead of leaving them out in silence.
OTHER_SUFFIXES = (
    ".heic", ".heif", ".svg", ".psd", ".tga", ".exr", ".hdr", ".ico", ".pcx", ".pfm", ".raw", ".dng", ".cr2", ".cr3",
    ".nef", ".arw", ".orf", ".rw2", ".dcm", ".nii", ".jxl", ".jxr", ".eps", ".pdf", ".npy", ".mat", ".fits", ".ras",
)  # fmt: skip
# Formats that are decoded, whatever the suffix. PIL has more, and runs other programs for some of them.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
ORIENTATION = 0x0112  # the EXIF tag
TRANSPOSES = {  # by the value of the tag
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
INVERSE = {Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270, Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90}
QUARTER_TURNS = tuple(TRANSPOSES[k] for k in (5, 6, 7, 8))
_PNG_EXIF = ("exif", "Raw profile type exif")  # where PIL finds the tag in a PNG
_XMP = ("xmp", "XML:com.adobe.xmp")  # where PIL would find an orientation that OpenCV does not read
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257  # fields of a TIFF file
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


class UnreadableImage(ValueError):
    """Raised for an image file that is missing, damaged, or not convertible to 8-bit RGB.

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
        return type(self), (self.path, self.reason)  # both fields survive pickling in a worker process


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB without alpha.

    Raises:
        ValueError: for floating-point and 32-bit pixels.
    """
    # Neither PNG nor PGM has 32-bit samples; PIL scales those of a PGM to 0..65535, whatever its highest value.
    if image.mode in _SIXTEEN_BIT or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "32-bit integer" if image.mode == "I" else "floating-point"
        raise ValueError(f"{kind} pixels have no fixed range: save the image with 8 or 16 bits per channel")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # PIL warns when it converts straight to RGB
    return image if image.mode == "RGB" else image.convert("RGB")


def upright(
    image: Image.Image, size: tuple[int, int] | None = None, stored: tuple[int, int] | None = None
) -> Image.Image:
    """Convert an image to 8-bit RGB and turn it as its EXIF tag says.

    Args:
        image: any PIL image.
        size: (height, width) that boxes were drawn on. A quarter turn is left out if only the image as stored has it.
        stored: (height, width) of the file, if the image was decoded at a smaller size.
    """
    with _without_xmp(image):
        image.load()  # PIL turns the pixels of a TIFF file here, and removes its tag
        transpose = exif_transpose_of(image)  # read first: the conversion may lose the tag
    stored = stored or (image.height, image.width)
    rgb = to_rgb(image)
    if transpose in QUARTER_TURNS and size == stored and size != stored[::-1]:
        return rgb
    return rgb if transpose is None else rgb.transpose(transpose)


def exif_transpose_of(image: Image.Image) -> Image.Transpose | None:
    """How to turn an image as its EXIF tag says; None for an upright image, and for a tag that cannot be read."""
    with _without_xmp(image):
        try:
            return TRANSPOSES.get(image.getexif().get(ORIENTATION, 1))
        except (SyntaxError, ValueError, KeyError, TypeError, OSError, AttributeError):
            return None  # OpenCV shows the pixels as stored


@contextmanager
def _without_xmp(image: Image.Image) -> Iterator[None]:
    """Hide the XMP metadata of an image, whose orientation PIL would apply."""
    hidden = {key: image.info.pop(key) for key in _XMP if key in image.info}
    try:
        yield
    finally:
        image.info.update(hidden)


def is_image_name(name: str | Path) -> bool:
    """Whether a file of this name is taken for an image: by its suffix, and not hidden.

    macOS writes a hidden ``._a.jpg`` beside ``a.jpg`` on other systems' disks; it holds no image.
    """
    path = Path(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def is_other_image(name: str | Path) -> bool:
    """Whether a file of this name is an image of a format that is not decoded."""
    path = Path(name)
    return path.suffix.lower() in OTHER_SUFFIXES and not path.name.startswith(".")


@cache
def known_formats() -> tuple[str, ...]:
    """The part of FORMATS that the installed PIL can decode."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def _opened(path: str | Path, content: BinaryIO | None = None) -> Iterator[Image.Image]:
    """The opened file, not decoded yet; every error inside the block becomes an UnreadableImage with the path."""
    try:
        if content is None and not (os.path.isdir(path) or stat.S_ISREG(os.stat(path).st_mode)):
            raise UnreadableImage(path, "it is no file")  # reading a device or a pipe may never end
        with warnings.catch_warnings():
            # 12,000 x 9,000 pixels are large, but no attack
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path if content is None else content, formats=known_formats()) as file:
                for key in _XMP:
                    file.info.pop(key, None)  # PIL applies it to a TIFF file while it decodes
                yield file
    except UnreadableImage:
        raise
    except FileNotFoundError:
        raise UnreadableImage(path, "there is no such file") from None
    except UnidentifiedImageError:
        raise UnreadableImage(path, f"it is no image of a known format ({', '.join(known_formats())})") from None
    except Exception as error:  # PIL's decoders raise nearly anything on damaged files
        raise UnreadableImage(path, f"{type(error).__name__}: {error}") from error


def open_image(
    path: str | Path,
    content: BinaryIO | None = None,
    size: tuple[int, int] | None = None,
    at_least: tuple[int, int] | None = None,
) -> Image.Image:
    """Decode an image file to 8-bit RGB and turn it as its EXIF tag says. Every image file is opened here.

    Args:
        path: the file, or the name of ``content`` in error messages.
        content: bytes to decode instead of the file.
        size: (height, width) that boxes were drawn on, where it is known; see :func:`upright`.
        at_least: (height, width) that is enough: a JPEG file may be decoded at a half, a quarter or an eighth of its
            size, which is much faster, as long as the result is not smaller. None: decode at full size.

    Raises:
        UnreadableImage: the file is missing, truncated, no image, too large, or not of ``size``.
    """
    with _opened(path, content) as file:
        tiff_turn = _tiff_transpose(file)
        stored = (file.height, file.width)
        _reduce(file, at_least)
        reduced = (file.height, file.width)
        file.load()
        image = upright(file, size, stored)
    if tiff_turn in QUARTER_TURNS and size == (image.width, image.height) and size != (image.height, image.width):
        image = image.transpose(INVERSE.get(tiff_turn, tiff_turn))  # its boxes were drawn on the stored pixels
    whole = (image.height, image.width)
    if reduced != stored:
        whole = stored if whole == reduced else stored[::-1]
    if size is not None and whole != tuple(size):
        actual, annotated = f"{whole[0]} x {whole[1]}", f"{size[0]} x {size[1]}"
        raise UnreadableImage(path, f"it has {actual} pixels (h x w), but its boxes were drawn on {annotated}")
    return image


def _reduce(file: Image.Image, at_least: tuple[int, int] | None) -> None:
    """Let a JPEG file that is not decoded yet be decoded smaller, both sides still ``at_least`` so long."""
    if at_least is None or not isinstance(file, JpegImageFile):
        return
    small, large = (stored // wanted for stored, wanted in zip(sorted(file.size), sorted(at_least)))
    factor = min(small, large)  # the sides are sorted because the image may have to be turned
    if factor > 1:
        file.draft(None, (file.width // factor, file.height // factor))


def _tiff_transpose(file: Image.Image) -> Image.Transpose | None:
    """How PIL turns the pixels of a TIFF file while it decodes them; None for other files."""
    tags = getattr(file, "tag_v2", None)
    return None if tags is None else TRANSPOSES.get(tags.get(ORIENTATION, 1))


def read_size(path: str | Path) -> tuple[int, int]:
    """Read (height, width) of an image from its header alone, as ``open_image`` would give the image.

    Raises:
        UnreadableImage: the file is missing or no image. Pixels are not decoded, so a truncated file passes.
    """
    with _opened(path) as file:
        height, width = file.height, file.width
        if hasattr(file, "tag_v2"):  # some versions of PIL swap the sides of a turned TIFF file here, others do not
            width, height = int(file.tag_v2[_TIFF_WIDTH]), int(file.tag_v2[_TIFF_HEIGHT])
            transpose = _tiff_transpose(file)
        else:
            # PIL decodes a whole PNG to get its EXIF, in case the tag stands behind the pixels.
            untagged = file.format == "PNG" and not any(key in file.info for key in _PNG_EXIF)
            transpose = None if untagged else exif_transpose_of(file)
    return (width, height) if transpose in QUARTER_TURNS else (height, width)


def check_whole(path: str | Path, size: tuple[int, int] | None = None) -> None:
    """Check that an image file can be read, mostly from its first and last bytes.

    Nearly all whole JPEG and PNG files end with their end mark. Only a file without it, or of another size than
    annotated, is decoded; a damaged file with its mark passes.

    Args:
        path: the file.
        size: (height, width) that boxes were drawn on, where it is known.

    Raises:
        UnreadableImage: the file is missing, truncated, no image, or not of ``size``.
    """
    actual = read_size(path)
    if actual != (size or actual) or not _has_end_mark(path):
        open_image(path, size=size)


def _has_end_mark(path: str | Path) -> bool:
    with open(path, "rb") as file:
        start, length = file.read(12), os.fstat(file.fileno()).st_size
        file.seek(max(0, length - 4096))
        end = file.read(4096)
    if start.startswith(b"\x89PNG"):
        return b"IEND" in end[-64:]
    if start[:4] == b"RIFF":  # WebP tells its length
        return int.from_bytes(start[4:8], "little") + 8 <= length
    return start.startswith(b"\xff\xd8") and b"\xff\xd9" in end
