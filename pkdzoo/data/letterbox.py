"""Letterboxes: images scaled to fit a canvas of one gray value, as RTMDet was trained and tested with.

The border belongs to the image: it is filled before the pixels are normalized, and the size of the sample is that of
the canvas. That is different from the padding of a batch, which is zero after normalization. The settings are
:class:`pkdzoo.structures.Letterbox`; the resizes are OpenCV's, bilinear or area.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from pkdzoo.data.image_resize import keep_ratio_size
from pkdzoo.data.opencv_resize import resize_bilinear, resize_by_area
from pkdzoo.data.transforms import Sample, resize_sample
from pkdzoo.structures import Letterbox

DIVISOR = 32  # sides of a canvas are multiples of the coarsest stride


class Placement(NamedTuple):
    """Size and position of an image on a canvas.

    Attributes:
        size: (height, width) of the scaled image in pixels.
        canvas: (height, width) of the canvas.
        offset: (left, top) of the image on the canvas.
    """

    size: tuple[int, int]
    canvas: tuple[int, int]
    offset: tuple[int, int]


def placement(size: tuple[int, int], resize: tuple[int, int], letterbox: Letterbox) -> Placement:
    """Compute scaled size, canvas and offset of an image.

    Args:
        size: (height, width) of the image.
        resize: (short, long) side in pixels; the canvas has the long one.
        letterbox: the settings.

    Raises:
        ValueError: for a long side that is no multiple of 32.

    Example:
        >>> from pkdzoo.data.letterbox import placement
        >>> from pkdzoo.structures import Letterbox
        >>> placement((901, 1333), (640, 640), Letterbox(place="center"))
        Placement(size=(433, 640), canvas=(640, 640), offset=(0, 103))
    """
    short, long = resize
    check_side(long)
    ratio = min(long / max(size), short / min(size))
    if letterbox.rounding == "nearest":
        scaled = keep_ratio_size(size, short, long)
    else:
        scaled = max(1, int(size[0] * ratio)), max(1, int(size[1] * ratio))
    canvas = (long, long)
    if letterbox.canvas == "stride":
        height, width = (_with_half_stride(side / max(size) * long) for side in size)
        canvas = (height, width)
    return Placement(scaled, canvas, _offset(scaled, canvas, letterbox))


def _offset(size: tuple[int, int], canvas: tuple[int, int], letterbox: Letterbox) -> tuple[int, int]:
    """(left, top) of an image of ``size``, (height, width), on its canvas."""
    if letterbox.place != "center":
        return 0, 0
    return (canvas[1] - size[1]) // 2, (canvas[0] - size[0]) // 2


def check_side(long: int) -> None:
    """Raise ValueError for a long side that is no multiple of 32."""
    if long % DIVISOR:
        near = max(DIVISOR, round(long / DIVISOR) * DIVISOR)
        raise ValueError(f"the side of a letterbox is a multiple of {DIVISOR}, not {long}: write e.g. {near}")


def scale_image(image: Tensor, size: tuple[int, int], letterbox: Letterbox) -> Tensor:
    """Resize a uint8 image (3, H, W) to (height, width), by area where it shrinks if the settings say so."""
    shrinks = max(size) < max(image.shape[-2:])
    return resize_by_area(image, size) if letterbox.shrink == "area" and shrinks else resize_bilinear(image, size)


@dataclass(frozen=True)
class LetterboxResize:
    """Puts samples on a canvas; objects move along.

    ``meta`` gets ``scale`` (w, h factors from the original to the scaled image), ``offset`` (left, top of the image on
    the canvas) and ``clip``, whether detections are clipped to the image.

    Args:
        resize: (short, long) side in pixels; the canvas has the long one.
        letterbox: the settings.

    Example:
        >>> import torch
        >>> from pkdzoo import Instances
        >>> from pkdzoo.data import Sample
        >>> from pkdzoo.data.letterbox import LetterboxResize
        >>> objects = Instances(torch.tensor([[0.0, 0.0, 15.0, 20.0]]), torch.tensor([1]))
        >>> sample = Sample(torch.zeros(3, 40, 60, dtype=torch.uint8), objects)
        >>> changed = LetterboxResize((96, 96))(sample, torch.Generator())
        >>> changed.size, changed.image[:, -1, 0].tolist(), changed.instances.boxes.tolist()
        ((96, 96), [114, 114, 114], [[0.0, 0.0, 24.0, 32.0]])
    """

    resize: tuple[int, int] = (640, 640)
    letterbox: Letterbox = field(default_factory=Letterbox)

    def __call__(self, sample: Sample, rng: torch.Generator) -> Sample:
        place = placement(sample.size, self.resize, self.letterbox)
        small = resize_sample(replace(sample, image=sample.image[:1]), place.size)  # boxes, masks and meta
        small = replace(small, image=scale_image(sample.image, place.size, self.letterbox))
        meta = {**small.meta, "offset": place.offset, "clip": self.letterbox.clip == "image"}
        return replace(put_on_canvas(small, place.canvas, place.offset, self.letterbox.fill), meta=meta)


@dataclass(frozen=True)
class LetterboxBorder:
    """Puts training samples, already resized or cropped, on the canvas that images of an evaluation have.

    Without it the border of a batch is zero after normalization, a value that the detector never sees in evaluation.

    Args:
        side: largest side of a sample in pixels; a square canvas has it, rounded up to a multiple of 32.
        letterbox: the settings.

    Example:
        >>> import torch
        >>> from pkdzoo import Instances
        >>> from pkdzoo.data import Sample
        >>> from pkdzoo.data.letterbox import LetterboxBorder
        >>> objects = Instances(torch.tensor([[0.0, 0.0, 15.0, 20.0]]), torch.tensor([1]))
        >>> sample = Sample(torch.zeros(3, 40, 60, dtype=torch.uint8), objects)
        >>> changed = LetterboxBorder(64)(sample, torch.Generator())
        >>> changed.size, changed.image[:, -1, 0].tolist()
        ((64, 64), [114, 114, 114])
    """

    side: int
    letterbox: Letterbox = field(default_factory=Letterbox)

    def __call__(self, sample: Sample, rng: torch.Generator) -> Sample:
        height, width = sample.size
        canvas = (square_side(self.side),) * 2
        if self.letterbox.canvas == "stride":
            canvas = (_with_half_stride(height), _with_half_stride(width))
        return put_on_canvas(sample, canvas, _offset(sample.size, canvas, self.letterbox), self.letterbox.fill)


def square_side(side: int) -> int:
    """The side of a square canvas for images of at most so many pixels: the next multiple of 32."""
    return math.ceil(side / DIVISOR) * DIVISOR


def _with_half_stride(side: float) -> int:
    """The smallest multiple of 32 that leaves at least 16 pixels of border."""
    return math.ceil(side / DIVISOR + 0.5) * DIVISOR


def put_on_canvas(sample: Sample, canvas: tuple[int, int], offset: tuple[int, int], fill: int) -> Sample:
    """A sample on a canvas of one gray value; objects move along and ``meta`` stays.

    Args:
        sample: fits on the canvas.
        canvas: (height, width).
        offset: (left, top) of the image.
        fill: gray value, 0..255.
    """
    left, top = offset
    area = (slice(None), slice(top, top + sample.size[0]), slice(left, left + sample.size[1]))
    image = sample.image.new_full((len(sample.image), *canvas), fill)
    image[area] = sample.image
    masks = sample.instances.masks
    if masks is not None:
        whole = masks.new_zeros(len(masks), *canvas)
        whole[area] = masks
        masks = whole
    boxes = sample.instances.boxes + torch.tensor([left, top, left, top])
    return replace(sample, image=image, instances=replace(sample.instances, boxes=boxes, masks=masks))
