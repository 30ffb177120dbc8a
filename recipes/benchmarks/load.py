"""Images per second and core from files to a batch, compared with the reference pipeline of torchvision.

Both decode with PIL, resize to a short side of 800, flip and pad. The pixels differ by definition: ours resizes as for
the published numbers (uint8, rounded), torchvision resizes floats inside its model. They must agree within two gray
levels. Further rows are images that an earlier epoch left in the cache, and photographs of 4,000 pixels decoded exactly
and with ``decode="fast"``; torchvision's references have neither a cache nor a fast decoder.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2

from pkdzoo.data import RandomFlip, Resize, collate
from pkdzoo.data.image_cache import GIGABYTE
from pkdzoo.data.image_files import read_size
from pkdzoo.data.image_reader import Decode, ImageReader
from pkdzoo.data.transforms import Compose, Sample, with_image
from pkdzoo.structures import Batch, Instances
from recipes.benchmarks.measure import Row, Settings, in_turns, ratios
from recipes.benchmarks.step import batch_of

AGAINST = "PIL, v2, resize in the model (torchvision's references)"
BOXES = torch.tensor([[20.0, 30.0, 200.0, 180.0], [100.0, 50.0, 300.0, 250.0]])
LABELS = torch.tensor([1, 2])
# A batch of torchvision's model: padded images, (height, width) of each image, targets.
Theirs = tuple[Tensor, list[tuple[int, int]], list[dict[str, Tensor]]]


def rows(settings: Settings) -> Iterator[Row]:
    """One process with one thread, like a worker of a data loader."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with TemporaryDirectory() as folder:
            files = jpegs(Path(folder), 2 if settings.quick else 16)
            if settings.images is not None:
                files = sorted(settings.images.glob("*.jpg"))[:32]
            if not files:
                raise ValueError(f"--images {settings.images}: the folder has no *.jpg")
            yield compare(files, settings)
            yield compare(files, settings, kept=True)
            size = (1600, 2000) if settings.quick else (3200, 4000)
            large = jpegs(Path(folder), 2 if settings.quick else 6, size)
            yield compare(large, settings)
            yield compare(large, settings, decode="fast")
    finally:
        torch.set_num_threads(threads)


def jpegs(folder: Path, count: int, size: tuple[int, int] = (480, 600)) -> list[Path]:
    """Smooth images with noise, near COCO's size. At 480 x 640 the two libraries round the new size differently."""
    files = []
    for number in range(count):
        pixels = batch_of(size, 1, torch.device("cpu")).images[0] + 12 * torch.randn(3, *size)
        files.append(folder / f"{number}-{size[1]}.jpg")
        Image.fromarray(pixels.clamp(0, 255).byte().permute(1, 2, 0).numpy()).save(files[-1], quality=90)
    return files


def compare(files: list[Path], settings: Settings, decode: Decode = "exact", kept: bool = False) -> Row:
    """Compare both pipelines on batches of two images.

    Args:
        files: the images.
        settings: of the benchmark.
        decode: ours; torchvision decodes every pixel.
        kept: measure ours with the images in the cache.
    """
    flip = 1.0  # flip every image, so that both sides do the same work
    transform = Compose([Resize(800, 1333), RandomFlip(flip)])
    sizes = [read_size(path) for path in files]
    reader = ImageReader(np.array(sizes), transform, decode, cache=4 * GIGABYTE if kept else 0)
    indices = {path: index for index, path in enumerate(files)}

    def read(path: Path) -> Sample:
        size = sizes[indices[path]]
        image = reader.read(indices[path], path, size)
        return with_image(Sample(image, Instances(BOXES, LABELS)), size, image)

    rng = torch.Generator().manual_seed(0)
    reference = v2.Compose([v2.PILToTensor(), v2.RandomHorizontalFlip(flip), v2.ToDtype(torch.float, scale=True)])
    in_model: Any = GeneralizedRCNNTransform(800, 1333, [0.0] * 3, [1.0] * 3).eval()
    in_model.normalize = lambda image: image  # on neither side: ours normalizes in the detector
    pairs = [files[i : i + 2] for i in range(0, len(files), 2)]

    # One batch at a time, as in training: a list of all batches would measure memory allocation.
    def ours() -> Iterator[Batch]:
        for pair in pairs:
            yield collate([transform(read(path), rng) for path in pair])

    def theirs() -> Iterator[Theirs]:
        for pair in pairs:
            images, targets = [], []
            for path in pair:
                opened = Image.open(path).convert("RGB")
                size = (opened.height, opened.width)
                boxes = tv_tensors.BoundingBoxes(BOXES, format="XYXY", canvas_size=size)
                image, target = reference(opened, {"boxes": boxes, "labels": LABELS})
                images.append(image)
                targets.append({key: value.as_subclass(Tensor) for key, value in target.items()})
            padded, targets = in_model(images, targets)
            yield padded.tensors, padded.image_sizes, targets

    differences = agreement(zip(ours(), theirs())) if decode == "exact" else {}
    deque(ours(), 0)  # with a cache, the first epoch
    times = in_turns({"ours": lambda: deque(ours(), 0), "theirs": lambda: deque(theirs(), 0)}, settings)
    height, width = sizes[0]
    how = {"exact": "decode", "fast": "decode=fast"}[decode] if not kept else "from the cache"
    name = f"loading {len(files)} images of {width} x {height}: {how}, resize to 800, flip, pad; one core"
    return Row(4, name, AGAINST, want=1.5, differences=differences, tolerance=2 / 255, **ratios(times))


def agreement(batches: Iterable[tuple[Batch, Theirs]]) -> dict[str, float]:
    """Largest difference of pixels (relative to 255) and of boxes (relative to the width).

    Only images that both sides resize to the same size are compared. torchvision rounds a side down where ours rounds
    to the nearest; an image of 480 x 640 gets one more column here, which moves every pixel.

    Raises:
        ValueError: if no image can be compared.
    """
    worst = {"pixels": -1.0, "boxes": -1.0}
    for batch, (images, sizes, targets) in batches:
        assert batch.instances is not None
        for row, (h, w) in enumerate(batch.sizes):
            if (h, w) != sizes[row]:
                continue
            reference = images[row, :, :h, :w]
            pixels = (batch.images[row, :, :h, :w] / 255 - reference).abs().max()
            boxes = (batch.instances[row].boxes - targets[row]["boxes"]).abs().max() / w
            worst = {"pixels": max(worst["pixels"], float(pixels)), "boxes": max(worst["boxes"], float(boxes))}
    if worst["pixels"] < 0:
        raise ValueError("torchvision resizes none of these images to our size: there is nothing to compare")
    return worst
