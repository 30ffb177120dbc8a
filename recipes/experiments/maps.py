"""Measure which levels and channels dominate a pyramid (figures 1 and 4 to 7 of the PKD paper).

    python recipes/experiments/maps.py runs/experiments/bccd/gfl_r18w64-0 --data bccd/ --name bccd-gfl_r18w64

For each level over the validation images: the root mean square of its activations, and the share of the sum of squares
that lies in the strongest 5 % of the channels, rounded up: 4 of 64, which would hold 6 % if all were equal. Plain
imitation weights levels and channels by these magnitudes; PKD gives every channel the same deviation. The numbers are
written to ``maps/NAME.json`` beside this file; ``run.py --report`` puts them on the page.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pkdzoo.data import find_split
from pkdzoo.models.detector import Detector
from pkdzoo.training import build, loaders
from pkdzoo.training.errors import describe_error
from pkdzoo.training.evaluate import open_detector
from pkdzoo.utils.files import write_json

SHARE = 0.05


def level_numbers(squares: Tensor) -> dict[str, float]:
    """Numbers of one level, from the mean square of each channel (C,)."""
    channels = squares.numel()
    counted = math.ceil(SHARE * channels)
    share = float(squares.topk(counted).values.sum() / squares.sum())
    return {"rms": float(squares.mean().sqrt()), "strongest": share, "counted": counted, "channels": channels}


@torch.no_grad()
def measure(model: Detector, loader: Any) -> list[dict[str, float]]:
    """Numbers of each level, finest first; all images have the same weight."""
    sums: list[Tensor] = []
    images = 0
    for batch in loader:
        maps = model.trace(batch, upto="features").features.levels
        # (C,): mean over locations, sum over images; in float64
        squares = [level.double().square().mean(dim=(2, 3)).sum(dim=0) for level in maps]
        sums = [a + b for a, b in zip(sums, squares)] if sums else squares
        images += len(batch)
    return [level_numbers(total / images) for total in sums]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", help="a registered name, or the folder of a run or of a saved detector")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--name", required=True, help="name of the result file, e.g. DATA-DETECTOR")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "maps", help="folder of the result files"
    )
    args = parser.parse_args(argv)
    try:
        model = open_detector(args.detector)
        split = find_split(args.data, "val")
        dataset = build.val_dataset(split, model.resize, model.label_names, True, model.letterbox)
        levels = measure(model, loaders.val_loader(dataset, 1, 0))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {describe_error(error)}")
    args.output.mkdir(parents=True, exist_ok=True)
    write_json(args.output / f"{args.name}.json", {"name": args.name, "images": len(dataset), "levels": levels})
    for number, level in enumerate(levels):
        counted = f"{level['counted']} of {level['channels']}"
        print(f"level {number}: rms {level['rms']:.3f}, the strongest {counted} channels hold {level['strongest']:.0%}")


if __name__ == "__main__":
    main()
