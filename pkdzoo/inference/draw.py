"""Draws detections on an image: boxes, masks and captions that stay readable on small, large and crowded images.

torchvision's ``draw_bounding_boxes`` uses one line width and font size for all images, and its labels overlap each
other and the edge of the image. Here line width and font size follow the image's size, and a small image can be
enlarged. Captions are placed where they are readable, those of the best detections first. A caption without a free
position is left out, since overlapping captions would hide the boxes.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Region = tuple[NDArray[np.bool_], slice, slice]  # a mask, and the rows and columns of the image it covers

SMALL = 480  # pixels; an image with a shorter long side may be enlarged
MIN_FONT = 12  # pixels; smaller letters are hard to read
SHORTEN, LEAVE_OUT = 0.5, 0.8  # share of an object: a caption that hides more is shortened, or left out


def class_color(label: int) -> Color:
    """The color of a class, the same on every image; consecutive labels differ strongly in hue."""
    hue = (label * 0.61803398875) % 1.0  # golden ratio: each hue falls into the largest gap between the previous ones
    red, green, blue = colorsys.hls_to_rgb(hue, 0.45 if label % 2 else 0.55, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def text_color_on(color: Color) -> Color:
    """Black or white, whichever is more readable on the color."""
    red, green, blue = color
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def draw_detections(
    image: Image.Image,
    boxes: NDArray[np.float32],
    labels: Sequence[int],
    captions: Sequence[str],
    masks: Sequence[Region] | None = None,
    enlarge: bool = False,
    font_size: int | None = None,
) -> Image.Image:
    """Draw detections on a copy of the image, the first one on top.

    Args:
        image: RGB.
        boxes: (N, 4) xyxy in pixels of the image.
        labels: class of each box, which determines its color.
        captions: text of each box, e.g. ``dog 0.93``; where there is no room for it, the last word is left out.
        masks: mask of each box, on its part of the image.
        enlarge: enlarge an image whose longer side is below 480 pixels by a whole number, so that captions have room.
        font_size: of captions, in pixels; None means a 40th of the shorter side, at least 12.

    Returns:
        A new RGB image, of the same size unless it was enlarged.
    """
    canvas = image.convert("RGB")
    canvas = canvas.copy() if canvas is image else canvas
    for label, region in list(zip(labels, masks or ()))[::-1]:
        _draw_mask(canvas, class_color(int(label)), region)
    factor = -(-SMALL // max(canvas.size)) if enlarge else 1
    if factor > 1:
        canvas = canvas.resize((canvas.width * factor, canvas.height * factor), Image.Resampling.BICUBIC)
        boxes = boxes * factor
    draw = ImageDraw.Draw(canvas)
    side = min(canvas.size)
    line = max(2, round(side / 300))
    for i in range(len(boxes) - 1, -1, -1):
        _draw_box(draw, boxes[i], class_color(int(labels[i])), line)
    _draw_captions(draw, boxes, labels, captions, _font(font_size or max(MIN_FONT, round(side / 40))), canvas.size)
    return canvas


def _draw_box(draw: ImageDraw.ImageDraw, box: NDArray[np.float32], color: Color, line: int) -> None:
    x1, y1, x2, y2 = (float(v) for v in box)
    corners = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
    edge = max(1, line // 2)  # an outline, so that the box is visible on a background of its color
    draw.rectangle(
        (corners[0] - edge, corners[1] - edge, corners[2] + edge, corners[3] + edge),
        outline=text_color_on(color),
        width=edge,
    )
    draw.rectangle(corners, outline=color, width=line)


@lru_cache(8)
def _font(size: int) -> Font:
    return ImageFont.load_default(size=size)


def _draw_captions(
    draw: ImageDraw.ImageDraw,
    boxes: NDArray[np.float32],
    labels: Sequence[int],
    captions: Sequence[str],
    font: Font,
    limits: tuple[int, int],
) -> None:
    texts = [list(dict.fromkeys((caption, caption.rpartition(" ")[0] or caption))) for caption in captions]
    bounds = [[draw.textbbox((0, 0), text, font=font) for text in variants] for variants in texts]
    sizes = [[(right - left + 4, bottom - top + 4) for left, top, right, bottom in variants] for variants in bounds]
    for i, placement in enumerate(place_captions(boxes, sizes, limits)):
        if placement is None:
            continue
        k, area = placement
        color = class_color(int(labels[i]))
        draw.rectangle((area[0], area[1], area[2] - 1, area[3] - 1), fill=color)
        corner = (area[0] + 2 - bounds[i][k][0], area[1] + 2 - bounds[i][k][1])
        draw.text(corner, texts[i][k], fill=text_color_on(color), font=font)


def place_captions(
    boxes: NDArray[np.float32], sizes: Sequence[Sequence[tuple[float, float]]], limits: tuple[int, int]
) -> list[tuple[int, NDArray[np.float64]] | None]:
    """Place captions inside the image so that they do not overlap each other and hide as little of the objects as
    possible.

    Args:
        boxes: (N, 4) xyxy; captions are placed in this order.
        sizes: (width, height) of the texts of each box, the preferred text first.
        limits: (width, height) of the image.

    Returns:
        For each box the index of its text and the area (4,) xyxy; None where there is no room.
    """
    placed = np.zeros((0, 4))
    placements: list[tuple[int, NDArray[np.float64]] | None] = []
    for box, texts in zip(boxes, sizes):
        choices: list[tuple[float, int, NDArray[np.float64]]] = []
        for k, size in enumerate(texts):
            free = [area for area in _candidates(box, size, limits) if not _overlap(area, placed).any()]
            costs = [_hidden_share(area, boxes) + 0.02 * rank for rank, area in enumerate(free)]
            choices += [(cost, k, area) for cost, area in zip(costs, free)]
            if costs and min(costs) < SHORTEN:
                break
        cost, k, area = min(choices, key=lambda choice: choice[0], default=(1.0, -1, placed))
        if k < 0 or (cost > LEAVE_OUT and len(placed)):  # the best detection always has a caption
            placements.append(None)
            continue
        placed = np.vstack((placed, area))
        placements.append((k, area))
    return placements


def _candidates(
    box: NDArray[np.float32], size: tuple[float, float], limits: tuple[int, int]
) -> Iterator[NDArray[np.float64]]:
    """Areas for a caption at its box, all inside the image, the best first: above the box, inside it, below it."""
    (x1, y1, x2, y2), (width, height) = (float(v) for v in box), size
    for y in (y1 - height, y1, y2, y2 - height):
        for x in (x1, x2 - width):
            x = max(0.0, min(x, limits[0] - width))
            if 0 <= y <= limits[1] - height:
                yield np.array([x, y, x + width, y + height])
    if height > limits[1] / 2:  # on a very low image no other area may fit
        yield np.array([x, 0.0, x + width, height])


def _overlap(area: NDArray[np.float64], boxes: NDArray[np.floating]) -> NDArray[np.floating]:
    """(N,) pixels that an area (4,) shares with each of the boxes (N, 4)."""
    sides = np.minimum(area[2:], boxes[:, 2:]) - np.maximum(area[:2], boxes[:, :2])
    shared: NDArray[np.floating] = sides.clip(min=0).prod(axis=1)
    return shared


def _hidden_share(area: NDArray[np.float64], boxes: NDArray[np.float32]) -> float:
    """The largest share of an object that a caption hides."""
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(min=1).prod(axis=1)
    return float((_overlap(area, boxes) / areas).max())


def _draw_mask(canvas: Image.Image, color: Color, region: Region) -> None:
    """Color the pixels of a mask and draw its edge; only the mask's part of the image is changed."""
    mask, rows, columns = region
    if not mask.any():
        return
    corner = (columns.start, rows.start)
    part = np.array(canvas.crop((*corner, columns.stop, rows.stop))).astype(np.float32)
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    part[mask] = part[mask] * 0.55 + np.array(color, np.float32) * 0.45
    part[mask & ~inside] = color  # the edge separates touching objects of one class
    canvas.paste(Image.fromarray(part.round().astype(np.uint8)), corner)
