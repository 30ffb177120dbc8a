"""From whatever a person holds (paths, links, wildcards, videos, PIL, arrays, tensors) to single decoded images.

Everything is an iterator: a folder, a video or a generator of any length holds one image in memory at a time.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pkdzoo.data.image_files import SUFFIXES, UnreadableImage, to_rgb
from pkdzoo.data.image_io import read_image, to_tensor
from pkdzoo.inference.video import Frame, is_video, read_video
from pkdzoo.inference.web import fetch_image, is_link

KINDS = "paths, wildcards, links, videos, PIL images, numpy arrays and tensors"


@dataclass
class DecodedImage:
    """One input, decoded: uint8 (3, H, W) RGB and where it came from, or why there is none.

    Attributes:
        pixels: of the image.
        path: file or link.
        error: why there are no pixels.
        frame: number of the image in its video.
        time: seconds from the video's beginning.

    Example:
        >>> import torch
        >>> from pkdzoo.data import DecodedImage
        >>> DecodedImage(torch.zeros(3, 48, 64, dtype=torch.uint8), "street.jpg").error is None
        True
        >>> DecodedImage(None, "other.jpg", "there is no such file").pixels is None
        True
    """

    pixels: Tensor | None
    path: str | None = None
    error: str | None = None
    frame: int | None = None
    time: float | None = None

    @property
    def reopens(self) -> bool:
        """Whether ``path`` gives the image again, so that nobody has to keep it."""
        return self.path is not None and self.frame is None and not is_link(self.path)


def is_wildcard(path: str | Path) -> bool:
    """Whether it stands for several files; a file of that very name goes before."""
    return not is_link(path) and glob.has_magic(str(path)) and not Path(path).exists()


def is_single(images: Any) -> bool:
    """Whether the input is one image, for which one result is returned, and not several."""
    if isinstance(images, (str, Path)):
        return is_link(images) or not (Path(images).is_dir() or is_wildcard(images) or is_video(images))
    if isinstance(images, (np.ndarray, Tensor)):
        return images.ndim <= 3
    return isinstance(images, (Image.Image, Frame))


def images_in(folder: str | Path) -> list[Path]:
    """Image files of a folder, by name.

    Raises:
        ValueError: when there is none.
    """
    found = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"{folder} has no images; looked for {', '.join(SUFFIXES)}")
    return found


def files_like(pattern: str | Path) -> list[Path]:
    """Files that fit a wildcard, by name; ``**`` goes into folders.

    Raises:
        ValueError: when there is none.
    """
    found = sorted(Path(match) for match in glob.glob(str(pattern), recursive=True) if Path(match).is_file())
    if not found:
        raise ValueError(f"no file fits {str(pattern)!r}")
    return found


def each(images: Any) -> Iterator[Any]:
    """The single images of an input, one after the other, not decoded yet.

    Raises:
        ValueError: at once, for a folder without images or a wildcard that nothing fits.
        TypeError: at once, for what can hold no image.
        ImportError: for a video without PyAV.
    """
    if is_single(images):
        return iter([images])
    if isinstance(images, (str, Path)):
        if Path(images).is_dir():
            return iter(images_in(images))
        return frames(images) if is_video(images) and not is_wildcard(images) else _flat(files_like(images))
    if isinstance(images, Iterable):
        return _flat(images)
    raise TypeError(f"predict takes {KINDS}, not {type(images).__name__}")


def _flat(images: Iterable[Any]) -> Iterator[Any]:
    for image in images:
        if is_video(image) and not is_link(image):
            yield from frames(image)
        else:
            yield image


def frames(path: str | Path, every: int = 1) -> Iterator[Any]:
    """Frames of a video; where it breaks off, a last image says why. Without PyAV, ImportError at once."""
    return _until_broken(str(path), read_video(path, every))


def _until_broken(path: str, video: Iterator[Frame]) -> Iterator[Any]:
    try:
        yield from video
    except UnreadableImage as error:
        yield DecodedImage(None, path, str(error))


def decode(image: Any) -> DecodedImage:
    """Pixels of one input; a file or link that cannot be read gives an image with an error.

    Raises:
        ValueError: for an array or tensor that is no image.
        TypeError: for anything else.
    """
    if isinstance(image, DecodedImage):
        return image
    if isinstance(image, Frame):
        return DecodedImage(image.pixels, image.path, None, image.number, image.time)
    if isinstance(image, (str, Path)):
        try:
            return DecodedImage(to_tensor(fetch_image(str(image))) if is_link(image) else read_image(image), str(image))
        except UnreadableImage as error:
            return DecodedImage(None, str(image), str(error))
    if isinstance(image, Image.Image):
        return DecodedImage(to_tensor(to_rgb(ImageOps.exif_transpose(image))))
    if isinstance(image, np.ndarray):
        if image.ndim == 2:
            image = np.repeat(image[:, :, None], 3, axis=2)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ValueError(f"a numpy image is uint8 RGB (H, W, 3), got {image.dtype} {image.shape}")
        return DecodedImage(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1))
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or image.numel() == 0:
            raise ValueError(
                f"a tensor image is uint8 RGB (3, H, W), got {image.dtype} {tuple(image.shape)}; "
                "of floats in 0..1 write (image * 255).to(torch.uint8)"
            )
        return DecodedImage(image.cpu())
    raise TypeError(f"predict takes {KINDS}, not {type(image).__name__}")
