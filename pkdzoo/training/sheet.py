"""A sheet of images: ground truth and the detections of several models side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image, ImageDraw, ImageFont
from torchvision.ops import box_iou

from pkdzoo.data import CocoDataset, read_image
from pkdzoo.inference.draw import draw_detections
from pkdzoo.inference.result import Result
from pkdzoo.models.detector import Detector
from pkdzoo.structures import Instances
from pkdzoo.utils.text import printable

TILE = 480  # pixels of the longer side of an image on the sheet
CANDIDATES = 60  # images among which those to show are chosen
MIN_OBJECTS, MAX_OBJECTS = 2, 6  # a small tile with more objects is hard to read
THRESHOLD = 0.2  # of all models alike: students give lower scores than their teachers, and 0.3 hides most of them
TITLE_FONT, CAPTION_FONT, SMALLEST_FONT = 26, 18, 14  # pixels


def prediction_sheet(
    models: Sequence[tuple[str, Detector]], dataset: CocoDataset, count: int = 3, threshold: float = THRESHOLD
) -> Image.Image:
    """Draw one row per image: first the ground truth, then the detections of each model.

    Args:
        models: with the titles of their columns. The first one chooses the images, see :func:`choose_images`.
        dataset: that the images are chosen from.
        count: rows; fewer if the data set has fewer images.
        threshold: detections with a lower score are not drawn, 0..1; the sheet names it below the images.

    Returns:
        An RGB image in which every tile has ``TILE`` pixels on its longer side.
    """
    rows = []
    for index in choose_images(models[0][1], dataset, count, threshold):
        image, truth = _open_image(dataset, index), dataset.load_instances(index)
        names = [dataset.label_names[label] for label in truth.labels.tolist()]
        scale = TILE / max(image.size)
        tile = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
        boxes, labels = (truth.boxes * scale).numpy(), truth.labels.tolist()
        tiles = [draw_detections(tile, boxes, labels, names, font_size=CAPTION_FONT)]
        for _, model in models:
            result = _predict(model, image, threshold)
            # Boxes are scaled, and masks follow their boxes: lines and captions are drawn at the tile's size.
            scaled = replace(result, boxes=result.boxes * scale, size=(tile.height, tile.width), image=tile)
            tiles.append(scaled.plot(threshold, enlarge=False, font_size=CAPTION_FONT))
        rows.append(tiles)
    return sheet(
        ["ground truth", *(title for title, _ in models)], rows, f"detections with a score of at least {threshold:g}"
    )


def choose_images(model: Detector, dataset: CocoDataset, count: int, threshold: float) -> list[int]:
    """Choose images on which a model is often right and which show different classes.

    In a comparison that model is the teacher, so that the choice favors none of the students. Candidates are
    ``CANDIDATES`` images, spread evenly over the data set, with ``MIN_OBJECTS`` to ``MAX_OBJECTS`` objects, or any
    images where too few have as many. An image counts the F1 score of the model's detections: twice the number of
    objects with a detection of their class and an IoU of at least 0.5, divided by the number of objects plus
    detections. The image with the highest score is chosen first; then the scores of the others are multiplied by 1
    plus the number of their classes that are not shown yet, and so on.

    Returns:
        Indices into the data set, in its order.
    """
    step = max(1, len(dataset) // CANDIDATES)
    indices = range(0, len(dataset), step)[:CANDIDATES]
    truths = {i: dataset.load_instances(i) for i in indices}
    clear = [i for i in indices if MIN_OBJECTS <= len(truths[i]) <= MAX_OBJECTS]
    candidates = clear if len(clear) >= count else list(indices)
    scores = {i: _f1(_predict(model, _open_image(dataset, i), threshold), truths[i]) for i in candidates}
    classes = {i: set(truths[i].labels.tolist()) for i in candidates}
    chosen: list[int] = []
    shown: set[int] = set()
    while candidates and len(chosen) < count:
        best = max(candidates, key=lambda i: scores[i] * (1 + len(classes[i] - shown) * bool(chosen)))
        candidates.remove(best)
        chosen.append(best)
        shown |= classes[best]
    return sorted(chosen)


def sheet(titles: Sequence[str], rows: Sequence[Sequence[Image.Image]], note: str = "", margin: int = 8) -> Image.Image:
    """Lay out images in rows and columns on white, with a title above each column and a note below all.

    A title that is wider than its column is broken into lines, after spaces and underscores.
    """
    widths = [max(row[k].width for row in rows) for k in range(len(titles))]
    heights = [max(tile.height for tile in row) for row in rows]
    font = ImageFont.load_default(size=TITLE_FONT)
    lines = [_title_lines(title, width, TITLE_FONT) for title, width in zip(titles, widths)]
    head = max(len(column) for column, _ in lines) * _line_height(font) + margin
    foot = _line_height(font) + margin if note else 0
    size = (sum(widths) + margin * (len(widths) + 1), head + sum(heights) + margin * len(rows) + foot)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    x = margin
    for k, (text, title_font) in enumerate(lines):
        for number, line in enumerate(text):
            draw.text((x, margin // 2 + number * _line_height(font)), line, fill="black", font=title_font)
        y = head
        for row, height in zip(rows, heights):
            canvas.paste(row[k], (x, y))
            y += height + margin
        x += widths[k] + margin
    draw.text((margin, size[1] - foot), note, fill="black", font=font)
    return canvas


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _line_height(font: Font) -> int:
    return round(1.25 * (font.getbbox("Ag")[3]))


def _title_lines(title: str, width: int, size: int) -> tuple[list[str], Font]:
    """The lines of a title in a column, and a font in which every one of them fits, if there is one."""
    font = ImageFont.load_default(size=size)
    lines = [""]
    for word in re.split(r"(?<=[ _])", printable(title)):
        if lines[-1] and font.getlength(lines[-1] + word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
    if size > SMALLEST_FONT and max(font.getlength(line.rstrip()) for line in lines) > width:
        return _title_lines(title, width, size - 2)
    return lines, font


def _open_image(dataset: CocoDataset, index: int) -> Image.Image:
    """An image of the data set, turned or not, as its boxes were drawn."""
    height, width = (int(side) for side in dataset.sizes[index])
    pixels = read_image(dataset.image_dir / dataset.file_name(index), (height, width))
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def _predict(model: Detector, image: Image.Image, threshold: float) -> Result:
    result = model.predict(image, threshold=threshold)
    assert isinstance(result, Result)
    return result


def _f1(result: Result, truth: Instances) -> float:
    if not len(result) or not len(truth):
        return 0.0
    same_class = result.labels[:, None] == truth.labels[None]
    detected = ((box_iou(result.boxes, truth.boxes) >= 0.5) & same_class).any(dim=0)
    return 2 * int(detected.sum()) / (len(truth) + len(result))
