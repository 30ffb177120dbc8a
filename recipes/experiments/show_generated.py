"""Draw an image that looks like those of a data set, and what detectors find on it, side by side.

    python recipes/experiments/show_generated.py cells gfl_r10w16_crosskd_cspnext_tiny.bccd \
        --output cells.png --threshold 0.35
    python recipes/experiments/show_generated.py boards rtmdet_w12_norm_cwd_tiny_640.deeppcb \
        --output boards.png --threshold 0.45

The images of BCCD and DeepPCB belong to other people and are not in this repository. A drawing shows what a detector
does, not how good it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the folder that holds recipes/

from pkdzoo.training.errors import describe_error
from pkdzoo.training.evaluate import open_detector
from pkdzoo.utils.option_types import share
from recipes.experiments.generated_boards import draw_board
from recipes.experiments.generated_cells import draw_cells

DRAWINGS: dict[str, Callable[[], Image.Image]] = {"cells": draw_cells, "boards": draw_board}


def side_by_side(images: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """Images of one size in a row, each below its title."""
    width, height, bar = images[0].width, images[0].height, 24
    canvas = Image.new("RGB", (width * len(images), height + bar), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (image, title) in enumerate(zip(images, titles, strict=True)):
        canvas.paste(image, (number * width, bar))
        draw.text((number * width + 8, 4), title, fill="black", font_size=15)
    return canvas


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drawing", choices=DRAWINGS, help="blood cells, or circuit boards with defects")
    parser.add_argument(
        "detectors", nargs="*", help="registered names, or folders of runs or saved detectors (none: the drawing alone)"
    )
    parser.add_argument("--titles", nargs="+", help="one for each detector (default: their names)")
    parser.add_argument("--threshold", type=share, default=0.4, help="lowest score that is drawn (default: 0.4)")
    parser.add_argument("--output", type=Path, required=True, help="the PNG file")
    args = parser.parse_args(argv)
    titles = args.titles or args.detectors
    if len(titles) != len(args.detectors):
        parser.error(f"{len(titles)} titles for {len(args.detectors)} detectors: write one for each")
    try:
        image = DRAWINGS[args.drawing]()
        found = [open_detector(name).predict([image], threshold=args.threshold)[0] for name in args.detectors]
        panels = [result.plot() for result in found] or [image]
        figure = side_by_side(panels, titles) if len(panels) > 1 else panels[0]
        figure.quantize(128).save(args.output)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {describe_error(error)}")
    counts = ", ".join(str(len(result)) for result in found)
    print(f"{args.output}: {counts} detections" if found else args.output)


if __name__ == "__main__":
    main()
