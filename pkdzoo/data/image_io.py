"""Image files as uint8 RGB tensors. ``image_files`` opens and decodes the files, without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pkdzoo.data.image_files import open_image


def to_tensor(image: Image.Image) -> Tensor:
    """Convert an RGB image to uint8 (3, H, W), in channels-last memory: the resize is fastest on it."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def read_image(
    path: str | Path, size: tuple[int, int] | None = None, at_least: tuple[int, int] | None = None
) -> Tensor:
    """Decode an image file.

    Args:
        path: the file.
        size: (height, width) that the annotations were drawn on, where it is known. It decides whether an EXIF quarter
            turn is applied. An image that has this size neither turned nor as stored raises an error, since its boxes
            would not lie on their objects.
        at_least: (height, width) that is enough: a larger JPEG file may then be decoded at a half, a quarter or an
            eighth of its size, never smaller than this. None: at full size.

    Returns:
        uint8 (3, H, W), RGB.

    Raises:
        UnreadableImage: the file is missing, truncated, no image, too large, or of another size.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from pkdzoo.data import read_image
        >>> path = f"{tempfile.mkdtemp()}/gray.png"
        >>> Image.new("L", (60, 40), 128).save(path)
        >>> read_image(path).shape, read_image(path).unique().tolist()
        (torch.Size([3, 40, 60]), [128])
    """
    return to_tensor(open_image(path, size=size, at_least=at_least))
