"""Generates a detection data set in COCO's format: six classes of textured shapes on a cluttered background.

It serves the demo, the tests, and users without a data set. Shapes are rotated, stretched, textured and partly occluded
by one another; the background has irregular patches and strokes that belong to no class. Three of four shapes have the
color of their class, so that a tiny detector learns something within minutes. Only the outline determines the class,
so longer training and a teacher improve the result. Sizes cover COCO's small (below 32 x 32 pixels), medium and, where
the image is large enough, large objects (from 96 x 96).

A box and its mask cover the visible part of the shape, as in COCO's annotations. Image k of a split depends on
(seed, split, k) alone: a larger data set begins with the images of a smaller one.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from pycocotools import mask as coco_mask

from pkdzoo.data.labels import SHAPES_NAMES
from pkdzoo.utils.files import atomic_folder

CLASSES = SHAPES_NAMES
VERSION = 2  # version of the generator; a folder of another version is not reused
SIDES = (22.0, 180.0)  # diameter of the smallest and the largest shape, in pixels
VISIBLE = 0.55  # share of every shape that stays visible
COLORS = ((215, 45, 45), (40, 170, 60), (50, 75, 225), (230, 205, 40), (195, 50, 195), (45, 195, 210))
HINT = 0.75  # share of the shapes with the color of their class
CONTRAST = 130.0  # minimum difference of a shape's first color to its background, in gray levels summed over channels
SPLITS = ("train", "val")

ImageArray = NDArray[np.uint8]
Rng = np.random.Generator


def outline(name: str) -> NDArray[np.float64]:
    """(K, 2) corners of the outline of a class, in the unit circle."""
    if name == "cross":
        arm = 0.32
        quarter = [(arm, arm), (arm, 0.95), (-arm, 0.95)]
        turns = [(1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0)]
        return np.array([(a * x + b * y, c * x + d * y) for a, b, c, d in turns for x, y in quarter])
    if name == "moon":
        outer, inner = np.linspace(0.25, 0.75, 24) * 2 * np.pi, np.linspace(0.75, 0.25, 24) * 2 * np.pi
        back = np.stack((0.55 * np.cos(outer) * 1.7, np.sin(outer)), 1)
        front = np.stack((0.25 * np.cos(inner), np.sin(inner)), 1)
        crescent: NDArray[np.float64] = np.concatenate((back, front)) + np.array([0.45, 0.0])
        return crescent
    count = {"circle": 40, "square": 4, "triangle": 3, "star": 10}[name]
    angles = np.arange(count) / count * 2 * np.pi
    radii = np.where(np.arange(count) % 2 == 0, 1.0, 0.42) if name == "star" else np.ones(count)
    return np.stack((radii * np.cos(angles), radii * np.sin(angles)), 1)


def _colors(label: int, background: NDArray[np.float32], rng: Rng) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two colors of a shape; the first is that of its class with probability ``HINT``, else unlike the background."""
    drawn = rng.integers(0, 256, (8, 3)).astype(np.float32)
    own = np.clip(np.array(COLORS[label]) + rng.normal(0, 25, 3), 0, 255).astype(np.float32)
    unlike = np.abs(drawn[1:] - background).sum(1) >= CONTRAST
    return own if rng.random() < HINT else drawn[1 + int(unlike.argmax())], drawn[0]


def _texture(
    height: int, width: int, first: NDArray[np.float32], second: NDArray[np.float32], rng: Rng
) -> NDArray[np.float32]:
    """Texture (height, width, 3) of two colors in one of five patterns; half of the shapes are plain."""
    kind = int(rng.choice(5, p=(0.5, 0.125, 0.125, 0.125, 0.125)))
    period, angle = rng.uniform(5, 16), rng.uniform(0, np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    along, across = (
        np.float32(math.cos(angle)) * x + np.float32(math.sin(angle)) * y,
        np.float32(math.cos(angle)) * y - np.float32(math.sin(angle)) * x,
    )
    if kind == 0:  # plain
        share = np.zeros((height, width), np.float32)
    elif kind == 1:  # stripes
        share = (along % period < period / 2).astype(np.float32)
    elif kind == 2:  # checks
        share = ((along % period < period / 2) ^ (across % period < period / 2)).astype(np.float32)
    elif kind == 3:  # dots
        share = ((along % period - period / 2) ** 2 + (across % period - period / 2) ** 2 < period**2 / 9).astype(
            np.float32
        )
    else:  # a gradient from one color to the other
        share = (along - along.min()) / max(float(np.ptp(along)), 1.0)
    paint: NDArray[np.float32] = first + share[..., None] * (second - first)
    return paint


def _background(height: int, width: int, rng: Rng) -> Image.Image:
    """Clouds of color with patches and strokes that belong to no class."""
    coarse = rng.integers(75, 181, (rng.integers(2, 7), rng.integers(2, 7), 3)).astype(np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    reach = max(height, width)
    for _ in range(rng.integers(1, 5)):  # patches
        center, radius = rng.uniform(0, 1, 2) * (width, height), rng.uniform(0.03, 0.25) * reach
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(5, 9)))
        radii = radius * rng.uniform(0.3, 1.0, len(angles))
        corners = np.stack((np.cos(angles), np.sin(angles)), 1) * radii[:, None] + center
        draw.polygon([tuple(c) for c in corners.tolist()], fill=_color(rng))
    for _ in range(rng.integers(3, 10)):  # strokes
        start = rng.uniform(0, 1, 2) * (width, height)
        end = start + rng.normal(0, 0.15 * reach, 2)
        draw.line([*start.tolist(), *end.tolist()], fill=_color(rng), width=int(rng.integers(1, 5)))
    return image


def _color(rng: Rng) -> tuple[int, int, int]:
    """A color of a patch or stroke, as pale as the background."""
    red, green, blue = rng.integers(60, 196, 3).tolist()
    return red, green, blue


@dataclass
class _Shape:
    """One shape: its class, the top left corner of its window, and its mask in the window."""

    label: int
    left: int
    top: int
    mask: NDArray[np.bool_]

    @property
    def window(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.mask.shape[0]), slice(self.left, self.left + self.mask.shape[1])


def _random_shape(height: int, width: int, rng: Rng) -> _Shape | None:
    """A random shape, cropped at the image's edges; None if too little of it remains."""
    label = int(rng.integers(len(CLASSES)))
    largest = min(SIDES[1], 0.9 * min(height, width))
    radius = math.exp(rng.uniform(math.log(SIDES[0]), math.log(largest))) / 2
    stretch, turn = math.exp(rng.uniform(-0.3, 0.3)), rng.uniform(0, 2 * np.pi)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    corners = (outline(CLASSES[label]) * (radius * stretch, radius / stretch)) @ rotation.T
    corners += rng.uniform(0, 1, 2) * (width, height)
    left, top = np.floor(corners.min(0)).clip(0).astype(int).tolist()
    right, bottom = np.ceil(corners.max(0)).clip(max=(width, height)).astype(int).tolist()
    if right - left < 6 or bottom - top < 6:
        return None
    patch = Image.new("1", (right - left, bottom - top))
    ImageDraw.Draw(patch).polygon([tuple(c) for c in (corners - (left, top)).tolist()], fill=1)
    mask = np.array(patch)
    whole = math.pi * radius**2
    return _Shape(label, left, top, mask) if mask.sum() > 0.15 * whole else None


def draw_image(height: int, width: int, rng: Rng) -> tuple[ImageArray, list[tuple[int, NDArray[np.bool_]]]]:
    """Draw one image.

    Args:
        height: pixels.
        width: pixels.
        rng: source of all random choices.

    Returns:
        uint8 (height, width, 3) RGB, and for each shape its label and (height, width) visible mask.
    """
    image = np.asarray(_background(height, width, rng)).astype(np.float32)
    owner = np.full((height, width), -1, np.int16)  # index of the visible shape of each pixel
    shapes: list[_Shape] = []
    areas: list[int] = []
    for _ in range(rng.integers(2, 10)):
        shape = _random_shape(height, width, rng)
        if shape is None:
            continue
        window = shape.window
        hidden, count = np.unique(owner[window][shape.mask], return_counts=True)
        visible = np.bincount(owner[owner >= 0], minlength=len(shapes)) if shapes else np.zeros(0, int)
        if any(k >= 0 and visible[k] - c < VISIBLE * areas[k] for k, c in zip(hidden.tolist(), count.tolist())):
            continue
        owner[window][shape.mask] = len(shapes)
        first, second = _colors(shape.label, image[window][shape.mask].mean(0), rng)
        paint = _texture(shape.mask.shape[0], shape.mask.shape[1], first, second, rng)
        strength = np.float32(rng.uniform(0.8, 1.0))  # the background stays visible through the shape
        patch = image[window]
        patch[shape.mask] += strength * (paint - patch)[shape.mask]
        shapes.append(shape)
        areas.append(int(shape.mask.sum()))
    image += rng.normal(0, 1, (height // 2 + 1, width // 2 + 1, 1)).astype(np.float32).repeat(2, 0).repeat(2, 1)[
        :height, :width
    ] * np.float32(rng.uniform(1, 7))
    soft = Image.fromarray(image.clip(0, 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(rng.uniform(0.4, 1.1)))
    return np.asarray(soft), [(shape.label, owner == k) for k, shape in enumerate(shapes)]


def _annotation(label: int, mask: NDArray[np.bool_]) -> dict[str, Any]:
    runs = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {
        "category_id": label + 1,
        "bbox": [float(v) for v in coco_mask.toBbox(runs)],
        "area": float(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": [int(s) for s in runs["size"]], "counts": runs["counts"].decode()},
    }


def _write_split(root: Path, split: str, count: int, size: tuple[int, int], seed: int) -> None:
    height, width = size
    folder = root / f"{split}2017"
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for k in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), k])
        image, shapes = draw_image(height, width, rng)
        image_id = SPLITS.index(split) * 10_000_000 + k + 1
        name = f"{image_id:012d}.jpg"
        Image.fromarray(image).save(folder / name, quality=92, subsampling=0)
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for label, mask in shapes:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **_annotation(label, mask)})
    categories = [{"id": k + 1, "name": name, "supercategory": "shape"} for k, name in enumerate(CLASSES)]
    info = {"description": "pkdzoo's generated shapes", "version": str(VERSION)}
    file = root / "annotations" / f"instances_{split}2017.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"info": info, "images": images, "annotations": annotations, "categories": categories}))


def _exists(root: Path, parameters: dict[str, Any]) -> bool:
    """Whether the folder holds the data set with these parameters.

    Raises:
        ValueError: the folder holds something else.
    """
    if not root.exists() or not any(root.iterdir()):
        return False
    file = root / "shapes.json"
    if not file.is_file():
        raise ValueError(f"{root} holds something else: choose a folder that is empty or does not exist")
    existing = json.loads(file.read_text())
    if existing != parameters:
        differences = ", ".join(
            f"{key}={existing.get(key)!r} (requested: {value!r})"
            for key, value in parameters.items()
            if existing.get(key) != value
        )
        raise ValueError(f"{root} holds shapes drawn with {differences}: choose another folder, or delete this one")
    return True


def make_shapes(
    root: str | Path, train: int = 600, val: int = 150, size: tuple[int, int] = (192, 256), seed: int = 0
) -> Path:
    """Generate the data set, or return the folder if it already holds exactly this data set.

    Args:
        root: folder to make: ``annotations/instances_{train,val}2017.json``, ``train2017/``, ``val2017/``.
        train: number of training images.
        val: number of validation images.
        size: (height, width) of every image in pixels, at least 64 each.
        seed: seed of all random choices.

    Returns:
        ``root``. After an error nothing is left of it.

    Raises:
        ValueError: the folder holds something else, or an argument is too small.

    Example:
        >>> import tempfile
        >>> from pkdzoo.data import make_shapes
        >>> root = make_shapes(tempfile.mkdtemp(), train=2, val=1, size=(64, 96))
        >>> sorted(path.name for path in root.iterdir())
        ['annotations', 'shapes.json', 'train2017', 'val2017']
    """
    root = Path(root)
    if train < 1 or val < 1 or min(size) < 64 or seed < 0:
        raise ValueError(
            f"make_shapes(train={train}, val={val}, size={size}, seed={seed}): at least one image per split, at "
            "least 64 pixels per side, a seed from 0 up"
        )
    parameters = {"version": VERSION, "train": train, "val": val, "size": list(size), "seed": seed}
    if _exists(root, parameters):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_folder(root) as temporary:
            for split, count in zip(SPLITS, (train, val)):
                _write_split(temporary, split, count, size, seed)
            (temporary / "shapes.json").write_text(json.dumps(parameters))
    except OSError:
        if not _exists(root, parameters):  # another process may have been faster
            raise
    return root
