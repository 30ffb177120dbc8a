"""A sheet of images: ground truth and the detections of several models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image, ImageDraw, ImageFont
from torchvision.ops import box_iou

from pkdzoo.data import CocoDataset, read_image
from pkdzoo.inference.draw import draw_detections
from pkdzoo.inference.result import Result
from pkdzoo.models.detector import Detector
from pkdzoo.structures import Instances

TILE = 480  # pixels of the longer side of an image on the sheet
CANDIDATES = 60  # images among which those to show are chosen
MIN_OBJECTS, MAX_OBJECTS = 2, 6  # a small tile with more objects is hard to read
TITLE_FONT = 22  # pixels


def prediction_sheet(
    models: Sequence[tuple[str, Detector]], dataset: CocoDataset, count: int = 3, threshold: float = 0.3
) -> Image.Image:
    """Draw one row per image: first the ground truth, then the detections of each model.

    Args:
        models: with the titles of their columns. The first one chooses the images, see :func:`choose_images`.
        dataset: that the images are chosen from.
        count: rows; fewer if the data set has fewer images.
        threshold: detections with a lower score are not drawn, 0..1.

    Returns:
        An RGB image in which every tile has ``TILE`` pixels on its longer side.
    """
    rows = []
    for index in choose_images(models[0][1], dataset, count, threshold):
        image, truth = _open_image(dataset, index), dataset.load_instances(index)
        names = [dataset.label_names[label] for label in truth.labels.tolist()]
        scale = TILE / max(image.size)
        tile = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
        tiles = [draw_detections(tile, (truth.boxes * scale).numpy(), truth.labels.tolist(), names)]
        for _, model in models:
            result = _predict(model, image, threshold)
            # Boxes are scaled, and masks follow their boxes: lines and captions are drawn at the tile's size.
            scaled = replace(result, boxes=result.boxes * scale, size=(tile.height, tile.width), image=tile)
            tiles.append(scaled.plot(threshold, enlarge=False))
        rows.append(tiles)
    return sheet(["ground truth", *(title for title, _ in models)], rows)


def choose_images(model: Detector, dataset: CocoDataset, count: int, threshold: float) -> list[int]:
    """Choose the images on which a model is right most often.

    In a comparison that model is the teacher, so that the choice favors none of the students. Candidates are the first
    ``CANDIDATES`` images with ``MIN_OBJECTS`` to ``MAX_OBJECTS`` objects, or the first images of a data set that has
    too few of these. They are ordered by the F1 score of the model's detections: twice the number of objects with a
    detection of their class and an IoU of at least 0.5, divided by the number of objects plus detections.

    Returns:
        Indices into the data set, in its order.
    """
    indices = range(min(CANDIDATES, len(dataset)))
    clear = [i for i in indices if MIN_OBJECTS <= len(dataset.load_instances(i)) <= MAX_OBJECTS]
    candidates = clear if len(clear) >= count else list(indices)
    scores = {
        i: _f1(_predict(model, _open_image(dataset, i), threshold), dataset.load_instances(i)) for i in candidates
    }
    return sorted(sorted(candidates, key=lambda i: -scores[i])[:count])


def sheet(titles: Sequence[str], rows: Sequence[Sequence[Image.Image]], margin: int = 8) -> Image.Image:
    """Lay out images in rows and columns on white, with a title above each column."""
    widths = [max(row[k].width for row in rows) for k in range(len(titles))]
    heights = [max(tile.height for tile in row) for row in rows]
    head = TITLE_FONT + 2 * margin
    size = (sum(widths) + margin * (len(widths) + 1), head + sum(heights) + margin * len(rows))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=TITLE_FONT)
    x = margin
    for k, title in enumerate(titles):
        draw.text((x, margin // 2), title, fill="black", font=font)
        y = head
        for row, height in zip(rows, heights):
            canvas.paste(row[k], (x, y))
            y += height + margin
        x += widths[k] + margin
    return canvas


def _open_image(dataset: CocoDataset, index: int) -> Image.Image:
    pixels = read_image(dataset.image_dir / dataset.file_name(index))
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
