"""How well maps of squashed images match maps of the images themselves: Pearson's r of an identity with itself.

    python recipes/benchmarks/geometry.py bccd/images --size 640 640

Images are resized to at most 480 x 640, short and long side. The maps of the identity are the image, averaged to
strides 8, 16 and 32. One teacher sees the image as it is, the other squashed to ``--size``; the maps of the latter are
brought back.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import pkdzoo
from pkdzoo.losses import pearson_correlation
from pkdzoo.utils.option_types import positive_int

STRIDES = (8, 16, 32)
SHORT, LONG = 480, 640


def pooled(net: nn.Module, images: Tensor) -> list[Tensor]:
    """The maps of an identity."""
    return [F.avg_pool2d(images, stride) for stride in STRIDES]


def read_batch(path: Path) -> pkdzoo.Batch:
    """One image, padded to multiples of 32."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    factor = min(SHORT / min(image.size), LONG / max(image.size))
    width, height = (round(side * factor) for side in image.size)
    pixels = torch.from_numpy(np.array(image.resize((width, height)))).permute(2, 0, 1).float()
    padded = F.pad(pixels, (0, -width % 32, 0, -height % 32))
    return pkdzoo.Batch(padded[None], [(height, width)])


def correlations(paths: Iterable[Path], size: tuple[int, int]) -> Tensor:
    """R of each image and stride: (images, 3)."""
    statistics = ([0.5] * 3, [0.5] * 3)
    plain = pkdzoo.Teacher(nn.Identity(), pooled, *statistics)
    squashed = pkdzoo.Teacher(nn.Identity(), pooled, *statistics, input_size=size)
    rows = []
    for path in paths:
        batch = read_batch(path)
        height, width = batch.sizes[0]
        pairs = zip(plain.extract_features(batch).levels, squashed.extract_features(batch).levels, STRIDES)
        inside = [(a[..., : height // s, : width // s], b[..., : height // s, : width // s]) for a, b, s in pairs]
        rows.append([float(pearson_correlation(a, b)[1]) for a, b in inside])
    return torch.tensor(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("--size", type=positive_int, nargs=2, default=(640, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument(
        "--count", type=positive_int, default=16, help="first images of the folder (default: %(default)s)"
    )
    args = parser.parse_args()
    found = [path for path in sorted(args.images.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    if not found:
        parser.error(f"{args.images} has no images")
    r = correlations(found[: args.count], (args.size[0], args.size[1]))
    for stride, values in zip(STRIDES, r.T):
        print(
            f"stride {stride:>2}: mean r {float(values.mean()):.4f}, lowest {float(values.min()):.4f}, {len(r)} images"
        )


if __name__ == "__main__":
    main()
