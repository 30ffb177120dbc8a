"""Large images in tiles: the grid, and the detections of all tiles as those of one image.

A detector scales an image to its own size, in which small objects of an aerial or a microscope's image vanish. Tiles
keep their pixels. Where two tiles overlap, an object is found twice: whole in both, which suppression by class merges,
or whole in one and cut by the border of the other. The IoU of a part and its whole may be small, so a box that ends at
a border inside the image is dropped where a box of another tile contains it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pkdzoo.ops.nms import concatenate, suppress
from pkdzoo.structures import Detections

CUT = 0.01  # of a tile's side: boxes that come as near as this to a border are taken to be cut by it
CONTAINED = 0.8  # share of a cut box's area inside another box, from which on it is a part of that one's object
WEAKER = 0.5  # a whole box with a lower share of the part's score does not replace it
ROWS = 1024  # cut boxes that are compared with all boxes at once


@dataclass(frozen=True)
class Tile:
    """A rectangle of an image in pixels; ``right`` and ``bottom`` are the first pixels beyond it."""

    left: int
    top: int
    right: int
    bottom: int


def make_tiles(size: tuple[int, int], side: int, overlap: float) -> list[Tile]:
    """Tiles that cover an image, row by row.

    All tiles have the same size and are spread evenly, so that they overlap by at least the share that is asked for.

    Args:
        size: (height, width) of the image.
        side: of a tile in pixels; where the image is smaller, the image's.
        overlap: of two neighbors, as a share of ``side``, from 0 to below 1.

    Example:
        >>> from pkdzoo.inference.tiles import make_tiles
        >>> [(tile.left, tile.right) for tile in make_tiles((480, 1000), 640, 0.2)]
        [(0, 640), (360, 1000)]
        >>> len(make_tiles((9000, 12000), 640, 0.2))
        432
    """
    height, width = (min(side, length) for length in size)
    return [
        Tile(left, top, left + width, top + height)
        for top in _starts(size[0], side, overlap)
        for left in _starts(size[1], side, overlap)
    ]


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """First pixels of the tiles along one side of an image."""
    if length <= side:
        return [0]
    step = max(1, int(side * (1 - overlap)))
    gaps = -(-(length - side) // step)  # rounded up
    return [round(number * (length - side) / gaps) for number in range(gaps + 1)]


def merge_tiles(
    parts: Sequence[Detections],
    tiles: Sequence[Tile],
    size: tuple[int, int],
    nms_threshold: float,
    max_detections: int | None = None,
) -> Detections:
    """The detections of an image from those of its tiles; a single tile's stay as they are.

    Args:
        parts: detections of each tile, in pixels of the tile.
        tiles: of one image.
        size: (height, width) of the image.
        nms_threshold: IoU above which the lower-scoring of two boxes of one class is dropped, 0..1.
        max_detections: maximum number of detections of the image; None means all.

    Returns:
        Detections in pixels of the image, highest score first.
    """
    if len(parts) == 1:
        return parts[0][:max_detections]
    shifted = [_shift(part, tile) for part, tile in zip(parts, tiles)]
    cut = torch.cat([_is_cut(part.boxes, tile, size) for part, tile in zip(shifted, tiles)])
    number = torch.cat([torch.full_like(part.labels, i) for i, part in enumerate(shifted)])
    merged = concatenate(shifted)
    merged = merged[~_is_part(merged, cut, number)]
    return suppress(merged, nms_threshold, len(merged) if max_detections is None else max_detections)


def _shift(part: Detections, tile: Tile) -> Detections:
    """Convert detections from pixels of a tile to pixels of the image."""
    offset = part.boxes.new_tensor([tile.left, tile.top, tile.left, tile.top])
    return replace(part, boxes=part.boxes + offset, masks=None)


def _is_cut(boxes: Tensor, tile: Tile, size: tuple[int, int]) -> Tensor:
    """Whether each box (N, 4) ends at a border of its tile that lies inside the image: (N,) bool."""
    near_x, near_y = CUT * (tile.right - tile.left), CUT * (tile.bottom - tile.top)
    left, top, right, bottom = boxes.unbind(1)
    cut = torch.zeros_like(left, dtype=torch.bool)
    if tile.left > 0:
        cut |= left <= tile.left + near_x
    if tile.top > 0:
        cut |= top <= tile.top + near_y
    if tile.right < size[1]:
        cut |= right >= tile.right - near_x
    if tile.bottom < size[0]:
        cut |= bottom >= tile.bottom - near_y
    return cut


def _is_part(detections: Detections, cut: Tensor, tile: Tensor) -> Tensor:
    """Whether each cut box is contained in a larger box of its class from another tile: (N,) bool.

    Args:
        detections: of all tiles, in pixels of the image.
        cut: (N,) bool, whether a box ends at a border inside the image.
        tile: (N,) number of its tile.
    """
    boxes, scores, labels = detections.boxes, detections.scores, detections.labels
    areas = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)
    dropped = torch.zeros_like(cut)
    for rows in torch.split(cut.nonzero().squeeze(1), ROWS):
        # No two matrices over all boxes: a large image may have tens of thousands
        sides = torch.minimum(boxes[rows, None, 2:], boxes[:, 2:]) - torch.maximum(boxes[rows, None, :2], boxes[:, :2])
        inside = sides.clamp(min=0).prod(dim=2) >= CONTAINED * areas[rows, None]
        larger = (areas > areas[rows, None]) & (scores >= WEAKER * scores[rows, None])
        same = (labels == labels[rows, None]) & (tile != tile[rows, None])
        dropped[rows] = (inside & larger & same).any(dim=1)
    return dropped
