"""Samples to one batch: raw RGB as float, padded once with zeros at the right and the bottom.

Padding to a multiple of 32 is mmdetection's ``pad_size_divisor``. Each detector normalizes the pixels itself, so that a
teacher and a student with different statistics can share the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pkdzoo.data.transforms import Sample
from pkdzoo.structures import Batch


def collate(items: Sequence[Sample], divisor: int = 32) -> Batch:
    """Pad samples to one size and stack them.

    Args:
        items: samples of any sizes, at least one.
        divisor: height and width of the batch become multiples of it.

    Returns:
        A batch with ``sizes``, ``instances`` and ``meta``. Its instances have masks where the samples have them.

    Raises:
        ValueError: for no samples.

    Example:
        >>> import tempfile
        >>> from pkdzoo.data import collate, make_shapes, open_dataset
        >>> dataset = open_dataset(make_shapes(tempfile.mkdtemp(), train=2, val=1, size=(70, 90)), "train")
        >>> batch = collate([dataset[0], dataset[1]])
        >>> tuple(batch.images.shape), batch.sizes
        ((2, 3, 96, 96), [(70, 90), (70, 90)])
    """
    if not items:
        raise ValueError("collate() got no samples: a batch has at least one image")
    height = -(-max(item.size[0] for item in items) // divisor) * divisor
    width = -(-max(item.size[1] for item in items) // divisor) * divisor
    images = torch.empty(len(items), 3, height, width)
    for row, item in zip(images, items):
        h, w = item.size
        row[:, :h, :w] = item.image  # uint8 until here: a quarter of the memory to move
        row[:, h:], row[:, :h, w:] = 0.0, 0.0  # only the padding
    return Batch(images, [i.size for i in items], [i.instances for i in items], [i.meta for i in items])
