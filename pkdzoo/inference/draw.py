"""Detections on an image: boxes, masks and labels that stay readable on small, huge and crowded images.

torchvision's ``draw_bounding_boxes`` draws one line width and font size for all images, lets labels run out of them
and over each other. Here lines and letters follow the image's size, a small image is enlarged where that is asked
for, and captions look for a free place: the best detections choose first, and one that finds none is left out, for
its box says more than two captions on top of each other.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Region = tuple[NDArray[np.bool_], slice, slice]  # a mask, and the rows and columns of the image that it covers

SMALL = 480  # pixels of a longer side below which an image may be enlarged
LETTERS = 12  # pixels, the smallest that read well
COVERED, HIDDEN = 0.5, 0.8  # of an object: a caption that hides more is shortened, and left out


def class_colour(label: int) -> Colour:
    """A colour for a class, the same on every image; neighbours in the label map are far apart in hue."""
    hue = (label * 0.61803398875) % 1.0  # golden ratio: the next hue always falls into the largest gap
    red, green, blue = colorsys.hls_to_rgb(hue, 0.45 if label % 2 else 0.55, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever reads better on the colour."""
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def draw_detections(
    image: Image.Image,
    boxes: NDArray[np.float32],
    labels: Sequence[int],
    captions: Sequence[str],
    masks: Sequence[Region] | None = None,
    enlarge: bool = False,
) -> Image.Image:
    """A copy of the image with detections on it, the first on top.

    Args:
        image: RGB.
        boxes: (N, 4) xyxy in its pixels.
        labels: class of each box; it chooses the colour.
        captions: text of each box, e.g. ``dog 0.93``; where there is no room for two words, the first alone stands.
        masks: of each box, on its part of the image.
        enlarge: draw on an image whose longer side is below 480 pixels enlarged by a whole number, so that captions
            have room.

    Returns:
        A new RGB image, of the same size unless it was enlarged.
    """
    canvas = image.convert("RGB")
    canvas = canvas.copy() if canvas is image else canvas
    for label, region in list(zip(labels, masks or ()))[::-1]:
        _tint(canvas, class_colour(int(label)), region)
    factor = -(-SMALL // max(canvas.size)) if enlarge else 1
    if factor > 1:
        canvas = canvas.resize((canvas.width * factor, canvas.height * factor), Image.Resampling.BICUBIC)
        boxes = boxes * factor
    draw = ImageDraw.Draw(canvas)
    side = min(canvas.size)
    line = max(2, round(side / 300))
    for i in range(len(boxes) - 1, -1, -1):
        _box(draw, boxes[i], class_colour(int(labels[i])), line)
    _captions(draw, boxes, labels, captions, _font(max(LETTERS, round(side / 40))), canvas.size)
    return canvas


def _box(draw: ImageDraw.ImageDraw, box: NDArray[np.float32], colour: Colour, line: int) -> None:
    x1, y1, x2, y2 = (float(v) for v in box)
    corners = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
    edge = max(1, line // 2)  # around the line, so that it is seen on ground of its own colour too
    draw.rectangle(
        (corners[0] - edge, corners[1] - edge, corners[2] + edge, corners[3] + edge), outline=ink_on(colour), width=edge
    )
    draw.rectangle(corners, outline=colour, width=line)


@lru_cache(8)
def _font(size: int) -> Font:
    return ImageFont.load_default(size=size)


def _captions(
    draw: ImageDraw.ImageDraw,
    boxes: NDArray[np.float32],
    labels: Sequence[int],
    captions: Sequence[str],
    font: Font,
    limits: tuple[int, int],
) -> None:
    texts = [list(dict.fromkeys((caption, caption.rpartition(" ")[0] or caption))) for caption in captions]
    edges = [[draw.textbbox((0, 0), text, font=font) for text in few] for few in texts]
    sizes = [[(right - left + 4, bottom - top + 4) for left, top, right, bottom in few] for few in edges]
    for i, place in enumerate(place_captions(boxes, sizes, limits)):
        if place is None:
            continue
        k, spot = place
        colour = class_colour(int(labels[i]))
        draw.rectangle((spot[0], spot[1], spot[2] - 1, spot[3] - 1), fill=colour)
        corner = (spot[0] + 2 - edges[i][k][0], spot[1] + 2 - edges[i][k][1])
        draw.text(corner, texts[i][k], fill=ink_on(colour), font=font)


def place_captions(
    boxes: NDArray[np.float32], sizes: Sequence[Sequence[tuple[float, float]]], limits: tuple[int, int]
) -> list[tuple[int, NDArray[np.float64]] | None]:
    """Where captions stand: inside the image, none on another, and hiding as little of the objects as they can.

    Args:
        boxes: (N, 4) xyxy, the first chooses first.
        sizes: of each box, (width, height) of its texts, the preferred one first.
        limits: (width, height) of the image.

    Returns:
        For each box, which of its texts and (4,) xyxy; None where there is no room.
    """
    placed = np.zeros((0, 4))
    places: list[tuple[int, NDArray[np.float64]] | None] = []
    for box, texts in zip(boxes, sizes):
        choices: list[tuple[float, int, NDArray[np.float64]]] = []
        for k, size in enumerate(texts):
            free = [spot for spot in _spots(box, size, limits) if not _overlap(spot, placed).any()]
            costs = [_hidden(spot, boxes) + 0.02 * rank for rank, spot in enumerate(free)]
            choices += [(cost, k, spot) for cost, spot in zip(costs, free)]
            if costs and min(costs) < COVERED:
                break
        cost, k, spot = min(choices, key=lambda choice: choice[0], default=(1.0, -1, placed))
        if k < 0 or (cost > HIDDEN and len(placed)):  # the best detection has its caption in any case
            places.append(None)
            continue
        placed = np.vstack((placed, spot))
        places.append((k, spot))
    return places


def _spots(
    box: NDArray[np.float32], size: tuple[float, float], limits: tuple[int, int]
) -> Iterator[NDArray[np.float64]]:
    """Places of a caption at its box, all inside the image, the best first: above it, in it, below it."""
    (x1, y1, x2, y2), (width, height) = (float(v) for v in box), size
    for y in (y1 - height, y1, y2, y2 - height):
        for x in (x1, x2 - width):
            x = max(0.0, min(x, limits[0] - width))
            if 0 <= y <= limits[1] - height:
                yield np.array([x, y, x + width, y + height])
    if height > limits[1] / 2:  # on an image this low nothing else may fit
        yield np.array([x, 0.0, x + width, height])


def _overlap(spot: NDArray[np.float64], others: NDArray[np.floating]) -> NDArray[np.floating]:
    """Pixels that a caption shares with each of some boxes (N, 4)."""
    sides = np.minimum(spot[2:], others[:, 2:]) - np.maximum(spot[:2], others[:, :2])
    shared: NDArray[np.floating] = sides.clip(min=0).prod(axis=1)
    return shared


def _hidden(spot: NDArray[np.float64], boxes: NDArray[np.float32]) -> float:
    """The share of an object that a caption hides, of the one it hides most."""
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(min=1).prod(axis=1)
    return float((_overlap(spot, boxes) / areas).max())


def _tint(canvas: Image.Image, colour: Colour, region: Region) -> None:
    """Colour the pixels of a mask and draw its edge; only its part of the image is touched."""
    mask, rows, columns = region
    if not mask.any():
        return
    corner = (columns.start, rows.start)
    part = np.array(canvas.crop((*corner, columns.stop, rows.stop))).astype(np.float32)
    around = np.pad(mask, 1)
    inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    part[mask] = part[mask] * 0.55 + np.array(colour, np.float32) * 0.45
    part[mask & ~inside] = colour  # objects of one class that touch stay apart
    canvas.paste(Image.fromarray(part.round().astype(np.uint8)), corner)
