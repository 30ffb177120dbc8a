"""Inputs of prediction (paths, links, wildcards, videos, PIL images, arrays, tensors) as single decoded images.

Everything is an iterator, so a folder, a video or a generator of any length needs memory for one image at a time.
"""

from __future__ import annotations

import glob
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pkdzoo.data.image_files import SUFFIXES, UnreadableImage, is_image_name, is_other_image, upright
from pkdzoo.data.image_io import read_image, to_tensor
from pkdzoo.inference.video import Frame, is_video, read_video
from pkdzoo.inference.web import fetch_image, is_link
from pkdzoo.utils.text import counted, quote_some

KINDS = "paths, wildcards, links, videos, PIL images, numpy arrays and tensors"


@dataclass
class DecodedImage:
    """One decoded input image, or the error in its place.

    Attributes:
        pixels: uint8 (3, H, W) RGB; None after an error.
        path: file or link; None for images that were in memory.
        error: why the image could not be read, else None.
        frame: number of the image in its video, from 0.
        time: seconds from the start of the video.

    Example:
        >>> import torch
        >>> from pkdzoo.inference import DecodedImage
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
        """Whether the image can be read from ``path`` again, so that it need not be kept."""
        return self.path is not None and self.frame is None and not is_link(self.path)


def is_wildcard(path: str | Path) -> bool:
    """Whether a path is a pattern for several files; an existing file of exactly that name is no pattern."""
    return not is_link(path) and glob.has_magic(str(path)) and not Path(path).exists()


def is_single(images: Any) -> bool:
    """Whether the input is one image, for which ``predict`` returns one result instead of a list."""
    if isinstance(images, (str, Path)):
        if not str(images).strip():
            raise ValueError("the path of the images is empty: write that of an image, a folder or a video")
        return is_link(images) or not (Path(images).is_dir() or is_wildcard(images) or is_video(images))
    if isinstance(images, (np.ndarray, Tensor)):
        return images.ndim <= 3
    return isinstance(images, (Image.Image, Frame))


def is_several_files(images: Any) -> bool:
    """Whether the input is a folder or a wildcard, whose images are files that nothing else waits for."""
    return isinstance(images, (str, Path)) and not is_link(images) and (Path(images).is_dir() or is_wildcard(images))


def images_in(folder: str | Path) -> list[Path]:
    """Image files of a folder, sorted by name.

    Raises:
        ValueError: the folder has no image file.
    """
    files = sorted(Path(folder).iterdir())
    paths = [path for path in files if is_image_name(path)]
    others = [path.name for path in files if is_other_image(path)]
    if others and paths:
        warnings.warn(
            f"{folder}: {counted(len(others), 'image')} of other formats left out: {quote_some(others)}", stacklevel=3
        )
    videos = [path.name for path in files if is_video(path)]
    left_out = f"{counted(len(videos), 'video')} left out: {quote_some(videos)}; '{folder}/*' takes them, too"
    if not paths:
        looked = f"{folder} has no images; looked for {', '.join(SUFFIXES)}"
        raise ValueError(f"{looked}; {left_out}" if videos else looked)
    if videos:
        warnings.warn(f"{folder}: {left_out}", stacklevel=3)
    return paths


def files_like(pattern: str | Path) -> list[Path]:
    """Files that match a wildcard, sorted by name; ``**`` includes subfolders.

    Raises:
        ValueError: no file matches.
    """
    paths = sorted(Path(match) for match in glob.glob(str(pattern), recursive=True) if Path(match).is_file())
    if not paths:
        raise ValueError(f"no file matches {str(pattern)!r}: check the folder and the pattern")
    return paths


def iterate_images(images: Any) -> Iterator[Any]:
    """Iterate over the single images of an input, which are not decoded yet.

    Raises:
        ValueError: at once, for a folder without images or a wildcard that matches no file.
        TypeError: at once, for an unsupported type.
        ImportError: for a video without PyAV.
    """
    if is_single(images):
        return iter([images])
    if isinstance(images, (str, Path)):
        if Path(images).is_dir():
            return iter(images_in(images))
        if is_video(images) and not is_wildcard(images):
            return iterate_frames(images)
        return _with_frames(files_like(images))
    if isinstance(images, Mapping):
        raise TypeError(f"predict takes {KINDS}, not a dictionary: write list(images.values())")
    if isinstance(images, Iterable):
        return _with_frames(images)
    raise TypeError(f"predict takes {KINDS}, not {type(images).__name__}")


def _with_frames(images: Iterable[Any]) -> Iterator[Any]:
    """The images, with the frames of each video in its place."""
    for image in images:
        if is_video(image) and not is_link(image):
            yield from iterate_frames(image)
        else:
            yield image


def iterate_frames(path: str | Path, every: int = 1) -> Iterator[Frame | DecodedImage]:
    """Iterate over every ``every``-th frame of a video; where it is damaged, the last item holds the error.

    Raises:
        ImportError: at once, without PyAV.
    """
    return _frames_or_error(str(path), read_video(path, every))


def _frames_or_error(path: str, video: Iterator[Frame]) -> Iterator[Frame | DecodedImage]:
    try:
        yield from video
    except UnreadableImage as error:
        yield DecodedImage(None, path, str(error))


def _decode_pil(image: Image.Image) -> DecodedImage:
    """Decode a PIL image, whose pixels may still be in its file; the file may be damaged or closed, the image empty."""
    path = getattr(image, "filename", None) or None
    if 0 in image.size:
        size = f"{image.width} x {image.height}"
        return DecodedImage(None, path and str(path), f"{path or 'a PIL image'}: it has no pixels ({size})")
    try:
        return DecodedImage(to_tensor(upright(image)))
    except Exception as error:  # PIL's decoders raise nearly anything on damaged files
        return DecodedImage(None, path and str(path), f"{path or 'a PIL image'}: {error}")


def decode(image: Any) -> DecodedImage:
    """Decode one input; a file or link that cannot be read gives a DecodedImage with an error.

    Pixels in memory are copied: a camera or a video reader writes the next frame into the same array.

    Raises:
        ValueError: an array or tensor of another shape or dtype than an image.
        TypeError: an unsupported type.
    """
    if isinstance(image, _SourceError):
        raise image.error
    if isinstance(image, DecodedImage):
        return replace(image, pixels=None if image.pixels is None else image.pixels.to("cpu", copy=True))
    if isinstance(image, Frame):
        return DecodedImage(image.pixels.to("cpu", copy=True), image.path, None, image.number, image.time)
    if isinstance(image, (str, Path)):
        try:
            return DecodedImage(to_tensor(fetch_image(str(image))) if is_link(image) else read_image(image), str(image))
        except UnreadableImage as error:
            return DecodedImage(None, str(image), str(error))
    if isinstance(image, Image.Image):
        return _decode_pil(image)
    if isinstance(image, np.ndarray):
        if image.ndim == 2:
            image = np.repeat(image[:, :, None], 3, axis=2)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ValueError(f"a numpy image is uint8 RGB (H, W, 3), got {image.dtype} {image.shape}")
        return DecodedImage(torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1))
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or image.numel() == 0:
            raise ValueError(
                f"a tensor image is uint8 RGB (3, H, W), got {image.dtype} {tuple(image.shape)}; "
                "convert floats in 0..1 by (image * 255).to(torch.uint8)"
            )
        return DecodedImage(image.to("cpu", copy=True))
    raise TypeError(f"predict takes {KINDS}, not {type(image).__name__}")


@dataclass
class _SourceError:
    """An error of the source of the images, in the place of its next image."""

    error: Exception


def _with_error(images: Iterator[Any]) -> Iterator[Any]:
    """The images; an error of their source comes last, so that those before it are not lost."""
    try:
        yield from images
    except Exception as error:
        yield _SourceError(error)


def decode_ahead(images: Iterator[Any], workers: int, ahead: int = 1) -> Iterator[DecodedImage]:
    """Decode images in their order.

    Args:
        images: of :func:`iterate_images`.
        workers: threads that decode the files after the current image; 0 decodes each one when it is asked for. Images
            in memory are decoded when they are taken, since their source may change them afterward.
        ahead: number of images that are taken from ``images`` in advance, at least one per thread.

    Raises:
        Exception: what ``images`` raises, after the images before it; and as :func:`decode`.
    """
    if workers == 0:
        yield from map(decode, images)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque[Future[DecodedImage]] = deque()
        try:
            for image in _with_error(images):
                waiting.append(pool.submit(decode, image) if isinstance(image, (str, Path)) else _decode_now(image))
                if len(waiting) > max(workers, ahead):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # also where the caller takes no further results
            pool.shutdown(wait=True, cancel_futures=True)


def _decode_now(image: Any) -> Future[DecodedImage]:
    """The decoded image, or the error of :func:`decode`, as a future that is done."""
    done: Future[DecodedImage] = Future()
    try:
        done.set_result(decode(image))
    except Exception as error:
        done.set_exception(error)
    return done
