"""From whatever a person holds (paths, links, wildcards, videos, PIL, arrays, tensors) to single decoded pictures.

Everything is an iterator: a folder, a video or a generator of any length holds one picture in memory at a time.
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

from pkdzoo.data.reading import SUFFIXES, UnreadableImage, read_image, to_rgb, to_tensor
from pkdzoo.data.remote import fetch_image, is_link
from pkdzoo.data.video import Frame, is_video, read_video

KINDS = "paths, wildcards, links, videos, PIL pictures, numpy arrays and tensors"


@dataclass
class Picture:
    """One input, decoded: uint8 (3, H, W) RGB and where it came from, or why there is none.

    Attributes:
        pixels: of the picture.
        path: file or link.
        error: why there are no pixels.
        frame: number of the picture in its video.
        time: seconds from the video's beginning.

    Example:
        >>> import torch
        >>> from pkdzoo.data import Picture
        >>> Picture(torch.zeros(3, 48, 64, dtype=torch.uint8), "street.jpg").error is None
        True
        >>> Picture(None, "other.jpg", "there is no such file").pixels is None
        True
    """

    pixels: Tensor | None
    path: str | None = None
    error: str | None = None
    frame: int | None = None
    time: float | None = None

    @property
    def reopens(self) -> bool:
        """Whether ``path`` gives the picture again, so that nobody has to keep it."""
        return self.path is not None and self.frame is None and not is_link(self.path)


def is_wildcard(path: str | Path) -> bool:
    """Whether it stands for several files; a file of that very name goes before."""
    return not is_link(path) and glob.has_magic(str(path)) and not Path(path).exists()


def is_single(images: Any) -> bool:
    """Whether the input is one picture, for which one result is returned, and not several."""
    if isinstance(images, (str, Path)):
        return is_link(images) or not (Path(images).is_dir() or is_wildcard(images) or is_video(images))
    if isinstance(images, (np.ndarray, Tensor)):
        return images.ndim <= 3
    return isinstance(images, (Image.Image, Frame))


def pictures_in(folder: str | Path) -> list[Path]:
    """Picture files of a folder, by name.

    Raises:
        ValueError: when there is none.
    """
    found = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"{folder} has no pictures; looked for {', '.join(SUFFIXES)}")
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
    """The single pictures of an input, one after the other, not decoded yet.

    Raises:
        ValueError: at once, for a folder without pictures or a wildcard that nothing fits.
        TypeError: at once, for what can hold no picture.
        ImportError: for a video without PyAV.
    """
    if is_single(images):
        return iter([images])
    if isinstance(images, (str, Path)):
        if Path(images).is_dir():
            return iter(pictures_in(images))
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
    """Frames of a video; where it breaks off, a last picture says why. Without PyAV, ImportError at once."""
    return _until_broken(str(path), read_video(path, every))


def _until_broken(path: str, video: Iterator[Frame]) -> Iterator[Any]:
    try:
        yield from video
    except UnreadableImage as error:
        yield Picture(None, path, str(error))


def decode(image: Any) -> Picture:
    """Pixels of one input; a file or link that cannot be read gives a picture with an error.

    Raises:
        ValueError: for an array or tensor that is no picture.
        TypeError: for anything else.
    """
    if isinstance(image, Picture):
        return image
    if isinstance(image, Frame):
        return Picture(image.pixels, image.path, None, image.number, image.time)
    if isinstance(image, (str, Path)):
        try:
            return Picture(to_tensor(fetch_image(str(image))) if is_link(image) else read_image(image), str(image))
        except UnreadableImage as error:
            return Picture(None, str(image), str(error))
    if isinstance(image, Image.Image):
        return Picture(to_tensor(to_rgb(ImageOps.exif_transpose(image))))
    if isinstance(image, np.ndarray):
        if image.ndim == 2:
            image = np.repeat(image[:, :, None], 3, axis=2)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ValueError(f"a numpy picture is uint8 RGB (H, W, 3), got {image.dtype} {image.shape}")
        return Picture(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1))
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or image.numel() == 0:
            raise ValueError(
                f"a tensor picture is uint8 RGB (3, H, W), got {image.dtype} {tuple(image.shape)}; "
                "of floats in 0..1 write (image * 255).to(torch.uint8)"
            )
        return Picture(image.cpu())
    raise TypeError(f"predict takes {KINDS}, not {type(image).__name__}")
