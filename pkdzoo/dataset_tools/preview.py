"""A contact sheet: some images of a data set with their annotated boxes, correct or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pkdzoo.data.formats.coco import CROWD
from pkdzoo.data.formats.read import read_annotations
from pkdzoo.data.image_files import UnreadableImage, open_image
from pkdzoo.data.image_names import match_columns
from pkdzoo.data.locate import find_split
from pkdzoo.inference.draw import draw_detections

BACKGROUND, TEXT = (40, 40, 40), (235, 235, 235)
MARGIN, LINE = 6, 18  # pixels: space around a tile, height of the text line below it


def preview(
    folder: str | Path, split: str = "train", count: int = 12, columns: int = 4, tile: int = 400, seed: int = 0
) -> Image.Image:
    """Draw images of a split with their boxes, class names and file names.

    Args:
        folder: a data set in any format that is read.
        split: the split to show.
        count: number of images, chosen at random; all of them if there are fewer.
        columns: images per row of the sheet.
        tile: length of an image's longer side on the sheet, in pixels.
        seed: seed of the random choice.

    Returns:
        An RGB image. Where an image cannot be read, its tile shows the reason.

    Raises:
        ValueError: no such split, invalid annotations, ``count`` or ``columns`` below 1, or ``tile`` below 32.

    Example:
        >>> import tempfile
        >>> from pkdzoo.data import make_shapes
        >>> from pkdzoo.dataset_tools.preview import preview
        >>> preview(make_shapes(tempfile.mkdtemp(), train=3, val=2, size=(64, 96)), "train", columns=2, tile=96).width
        210
    """
    if min(count, columns) < 1 or tile < 32:
        raise ValueError(
            f"preview(count={count}, columns={columns}, tile={tile}): count and columns from 1 up, tile from 32 up"
        )
    annotations, images = find_split(folder, split)
    table, _ = match_columns(read_annotations(annotations), images)
    if len(table.image_ids) == 0:
        raise ValueError(f"{annotations} lists no image: choose another split")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(table.image_ids))[:count])
    names = dict(table.categories)
    label_of = {number: label for label, number in enumerate(names)}
    tiles = []
    for k in chosen.tolist():
        name = table.file_name(k)
        rows = np.flatnonzero(table.owners == table.image_ids[k])
        categories = table.labels[rows].tolist()
        captions = [
            f"{names.get(n, n)}{' (crowd)' if flag & CROWD else ''}"
            for n, flag in zip(categories, table.flags[rows].tolist())
        ]
        labels = [label_of.get(n, len(label_of)) for n in categories]
        size = (int(table.sizes[k, 0]), int(table.sizes[k, 1]))
        tiles.append(_tile(images / name, name, size, table.boxes[rows], labels, captions, tile))
    return _sheet(tiles, columns, tile)


def _tile(
    path: Path,
    name: str,
    size: tuple[int, int],
    boxes: NDArray[np.float64],
    labels: list[int],
    captions: list[str],
    tile: int,
) -> Image.Image:
    """One image with its boxes, its longer side ``tile`` pixels long, with its name below."""
    font = ImageFont.load_default(size=12)
    try:
        image = open_image(path, size=size)
    except UnreadableImage as error:
        drawn = Image.new("RGB", (tile, tile // 2), BACKGROUND)
        reason = _wrapped(error.reason, font, tile)
        ImageDraw.Draw(drawn).multiline_text((MARGIN, MARGIN), reason, fill=(255, 120, 120), font=font)
    else:
        scale = tile / max(image.size)
        small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        xyxy = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1) * scale
        kept = np.flatnonzero(np.isfinite(xyxy).all(1)).tolist()
        kept.sort(key=lambda k: float(boxes[k, 2:].prod()))  # the first is drawn on top: small boxes
        drawn = draw_detections(
            small, xyxy[kept].astype(np.float32), [labels[k] for k in kept], [captions[k] for k in kept]
        )
    sheet = Image.new("RGB", (tile, drawn.height + LINE), BACKGROUND)
    sheet.paste(drawn, ((tile - drawn.width) // 2, 0))
    while font.getlength(name) > tile and len(name) > 1:
        name = name[1:]  # the end of the path differs between images
    ImageDraw.Draw(sheet).text((2, drawn.height + 2), name, fill=TEXT, font=font)
    return sheet


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width - 2 * MARGIN and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def _sheet(tiles: list[Image.Image], columns: int, tile: int) -> Image.Image:
    rows = [tiles[k : k + columns] for k in range(0, len(tiles), columns)]
    heights = [max(image.height for image in row) + MARGIN for row in rows]
    sheet = Image.new("RGB", (len(rows[0]) * (tile + MARGIN) + MARGIN, sum(heights) + MARGIN), BACKGROUND)
    for k, row in enumerate(rows):
        for j, image in enumerate(row):
            sheet.paste(image, (MARGIN + j * (tile + MARGIN), MARGIN + sum(heights[:k])))
    return sheet
