"""Detections on a picture: boxes, masks and labels that stay readable on small and on huge pictures.

torchvision's ``draw_bounding_boxes`` draws one line width and font size for all pictures and lets labels run out of
them; here both follow the picture's size, labels stay inside and keep their contrast.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]


def class_colour(label: int) -> Colour:
    """A colour for a class, the same on every picture; neighbours in the label map are far apart in hue."""
    hue = (label * 0.61803398875) % 1.0  # golden ratio: the next hue always falls into the largest gap
    red, green, blue = colorsys.hls_to_rgb(hue, 0.45 if label % 2 else 0.55, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever reads better on the colour."""
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def draw_detections(
    picture: Image.Image,
    boxes: NDArray[np.float32],
    labels: Sequence[int],
    captions: Sequence[str],
    masks: NDArray[np.bool_] | None = None,
) -> Image.Image:
    """A copy of the picture with detections on it, the first on top.

    Args:
        picture: RGB.
        boxes: (N, 4) xyxy in its pixels.
        labels: class of each box; it chooses the colour.
        captions: text of each box, e.g. ``dog 0.93``.
        masks: (N, h, w) of the picture's size.

    Returns:
        A new RGB picture of the same size.
    """
    canvas = picture.convert("RGB")
    canvas = canvas.copy() if canvas is picture else canvas
    if masks is not None and len(masks):
        canvas = _with_masks(canvas, labels, masks)
    draw = ImageDraw.Draw(canvas)
    side = min(canvas.size)
    line = max(1, round(side / 300))
    font = ImageFont.load_default(size=max(9, round(side / 40)))
    for i in range(len(boxes) - 1, -1, -1):
        colour = class_colour(int(labels[i]))
        x1, y1, x2, y2 = (float(v) for v in boxes[i])
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=line)
        _caption(draw, captions[i], (x1, y1), colour, font, canvas.size)
    return canvas


def _caption(
    draw: ImageDraw.ImageDraw,
    text: str,
    corner: tuple[float, float],
    colour: Colour,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    limits: tuple[int, int],
) -> None:
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = min(max(0.0, corner[0]), max(0.0, limits[0] - width))
    y = corner[1] - height if corner[1] >= height else corner[1]  # above the box, inside it at the upper edge
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + 2 - left, y + 2 - top), text, fill=ink_on(colour), font=font)


def _with_masks(canvas: Image.Image, labels: Sequence[int], masks: NDArray[np.bool_]) -> Image.Image:
    pixels = np.asarray(canvas).astype(np.float32)
    for label, mask in zip(labels, masks):
        pixels[mask] = pixels[mask] * 0.55 + np.array(class_colour(int(label)), np.float32) * 0.45
    return Image.fromarray(pixels.round().astype(np.uint8))
