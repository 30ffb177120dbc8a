"""An image that looks like the copper of a circuit board, with the six kinds of defects of DeepPCB.

The images of DeepPCB belong to other people and are not in this repository; this one is drawn by this file.
"""

from __future__ import annotations

import random

from PIL import Image, ImageDraw

COPPER, GROUND = 0, 255
LINES = (60, 82, 104, 300, 322, 344, 520, 542)  # heights of the lines, in pixels
Point = tuple[float, float]


def draw_board(size: int = 640, seed: int = 0) -> Image.Image:
    """Lines and pads of copper, black on white, with the :func:`defects` of the same size and seed."""
    image = Image.new("L", (size, size), GROUND)
    draw = ImageDraw.Draw(image)
    for y in LINES:
        draw.line((0, y, size, y), fill=COPPER, width=9)
    for x in range(60, size, 110):
        draw_pad(draw, x, 200, 38)
        draw.line((x, 200, x, LINES[2]), fill=COPPER, width=8)
        draw_pad(draw, x, 440, 30)
    rng = random.Random(seed)
    for name, center in defects(size, seed):
        draw_defect(draw, name, center, rng)
    return image.convert("RGB")


def defects(size: int = 640, seed: int = 0) -> list[tuple[str, Point]]:
    """Two defects of each kind, as (name, center in pixels)."""
    rng = random.Random(seed)

    def along(name: str, *heights: float) -> list[tuple[str, Point]]:
        return [(name, (rng.uniform(60, size - 60), y)) for y in heights]

    return [
        *along("open", LINES[0], LINES[6]),
        *along("short", LINES[3] + 11, LINES[6] + 11),
        *along("mousebite", LINES[2] + 4, LINES[5] + 4),
        *along("spur", LINES[3] - 7, LINES[0] - 7),
        *(("copper", center) for center in ((335, 200), (445, 420))),
        *(("pin-hole", center) for center in ((176, 196), (386, 206))),
    ]


def draw_pad(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
    """A round pad."""
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COPPER)


def draw_defect(draw: ImageDraw.ImageDraw, name: str, center: Point, rng: random.Random) -> None:
    """A defect: copper that is too much, or too little, as a few overlapping disks."""
    x, y = center
    color = COPPER if name in ("short", "spur", "copper") else GROUND
    if name == "short":
        draw.line((x, y - 11, x + rng.uniform(-3, 3), y + 11), fill=color, width=6)
        return
    wide, high = {"open": (8, 9), "mousebite": (5, 2), "spur": (7, 3), "copper": (8, 6), "pin-hole": (8, 5)}[name]
    for _ in range(5):
        a, b, radius = rng.uniform(-1, 1) * wide, rng.uniform(-1, 1) * high / 2, rng.uniform(2.5, 4)
        draw.ellipse((x + a - radius, y + b - radius, x + a + radius, y + b + radius), fill=color)
    if name == "open":
        draw.rectangle((x - 5, y - 6, x + 5, y + 6), fill=color)
