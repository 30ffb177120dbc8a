"""An image that looks like blood cells under a microscope, as in BCCD.

The images of BCCD belong to other people and are not in this repository; this one is drawn by this file.
"""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw, ImageFilter

Color = tuple[int, int, int]
BACKGROUND: Color = (214, 218, 208)
RED, RED_RIM, RED_CENTER = (214, 163, 158), (196, 138, 136), (227, 196, 186)
WHITE, NUCLEUS = (200, 182, 214), (104, 72, 170)
PLATELET = (138, 112, 182)


def disk(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, color: Color, flatten: float = 1.0) -> None:
    """A filled ellipse around (x, y), ``flatten`` times as high as wide."""
    draw.ellipse((x - radius, y - radius * flatten, x + radius, y + radius * flatten), fill=color)


def draw_cells(width: int = 640, height: int = 480, seed: int = 0) -> Image.Image:
    """Two white cells with a lobed nucleus, red cells with a pale center, and platelets, on a light ground."""
    rng = random.Random(seed)
    image = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(image)
    places: list[tuple[float, float, float]] = []
    for x, y in scatter(places, rng, 2, width, height, 78):
        disk(draw, x, y, 78, WHITE)
        for angle in (0.0, 1.6, 3.0):
            disk(draw, x + 32 * math.cos(angle), y + 26 * math.sin(angle), rng.uniform(24, 32), NUCLEUS)
    for x, y in scatter(places, rng, 14, width, height, 46):
        radius, flatten = rng.uniform(43, 50), rng.uniform(0.9, 1.0)
        for share, color in ((1.0, RED_RIM), (0.92, RED), (0.45, RED_CENTER)):
            disk(draw, x, y, share * radius, color, flatten)
    for x, y in scatter(places, rng, 5, width, height, 17):
        disk(draw, x, y, rng.uniform(15, 19), PLATELET, rng.uniform(0.8, 1.0))
    noise = Image.effect_noise((width, height), 18).convert("RGB")
    return Image.blend(image.filter(ImageFilter.GaussianBlur(2.2)), noise, 0.06)


def scatter(
    places: list[tuple[float, float, float]], rng: random.Random, count: int, width: int, height: int, radius: float
) -> list[tuple[float, float]]:
    """Centers of at most ``count`` disks, which hardly overlap the ``places`` (x, y, radius) and are added to them."""
    found: list[tuple[float, float]] = []
    for _ in range(2000):
        x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
        free = all(math.hypot(x - a, y - b) >= 0.95 * (radius + r) for a, b, r in places)
        if free and len(found) < count:
            found.append((x, y))
            places.append((x, y, radius))
    return found
