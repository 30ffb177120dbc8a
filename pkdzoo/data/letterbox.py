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

from pkdzoo.data.opencv_resize import resize_bilinear, resize_by_area
from pkdzoo.data.transforms import Sample, keep_ratio_size, resize_sample
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
        height, width = (math.ceil(side / max(size) * long / DIVISOR + 0.5) * DIVISOR for side in size)
        canvas = (height, width)
    offset = (0, 0)
    if letterbox.place == "center":
        offset = ((canvas[1] - scaled[1]) // 2, (canvas[0] - scaled[0]) // 2)
    return Placement(scaled, canvas, offset)


def check_side(long: int) -> None:
    """Raise ValueError for a long side that is no multiple of 32."""
    if long % DIVISOR:
        near = max(DIVISOR, round(long / DIVISOR) * DIVISOR)
        raise ValueError(f"the side of a letterbox is a multiple of {DIVISOR}, not {long}: write e.g. {near}")


def place_image(image: Tensor, place: Placement, letterbox: Letterbox) -> Tensor:
    """Scale an image and put it on its canvas.

    Args:
        image: uint8 (3, H, W).
        place: of the image, from :func:`placement`.
        letterbox: the settings.

    Returns:
        uint8 (3, height, width) of the canvas.
    """
    scaled = scale_image(image, place.size, letterbox)
    canvas = image.new_full((image.shape[0], *place.canvas), letterbox.fill)
    left, top = place.offset
    canvas[:, top : top + place.size[0], left : left + place.size[1]] = scaled
    return canvas


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
        image = place_image(sample.image, place, self.letterbox)
        small = resize_sample(replace(sample, image=sample.image[:1]), place.size)  # boxes, masks and meta
        left, top = place.offset
        boxes = small.instances.boxes + torch.tensor([left, top, left, top])
        masks = small.instances.masks
        if masks is not None:
            whole = masks.new_zeros(len(masks), *place.canvas)
            whole[:, top : top + place.size[0], left : left + place.size[1]] = masks
            masks = whole
        meta = {**small.meta, "offset": place.offset, "clip": self.letterbox.clip == "image"}
        return Sample(image, replace(small.instances, boxes=boxes, masks=masks), meta)
