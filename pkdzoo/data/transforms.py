"""Training and test transforms of single samples; all random choices come from the generator that is passed in.

Unlike in mmdetection, flips and scales depend on ``(seed, epoch, image id)``: a resumed run gets the same images as an
uninterrupted one, with any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as F

from pkdzoo.data.image_resize import keep_ratio_size, resize_image
from pkdzoo.ops.boxes import clip_boxes
from pkdzoo.structures import Instances


@dataclass
class Sample:
    """One image and its objects, before they are collated to a batch.

    Attributes:
        image: uint8 (3, H, W) RGB.
        instances: objects, with boxes in pixels of ``image``.
        meta: ``image_id``, ``file_name``, ``original_size`` (h, w), ``scale`` (w, h factors from the
            original to ``image``), ``flipped``.

    Example:
        >>> import torch
        >>> from pkdzoo import Instances
        >>> from pkdzoo.data import Sample
        >>> objects = Instances(torch.tensor([[0.0, 0.0, 15.0, 20.0]]), torch.tensor([1]))
        >>> sample = Sample(torch.zeros(3, 40, 60, dtype=torch.uint8), objects)
        >>> sample.size
        (40, 60)
    """

    image: Tensor
    instances: Instances
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of ``image``."""
        return self.image.shape[-2], self.image.shape[-1]


Transform = Callable[[Sample, torch.Generator], Sample]


def _resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest-neighbor resize as in OpenCV; torch raises an error for zero masks."""
    if len(masks) == 0:
        return masks.new_zeros(0, *size)
    return interpolate(masks[None].to(torch.uint8), size=list(size), mode="nearest")[0].bool()


def resize_sample(sample: Sample, size: tuple[int, int]) -> Sample:
    """Resize the image, boxes and masks of a sample to (height, width)."""
    return with_image(sample, sample.size, resize_image(sample.image, size))


def with_image(sample: Sample, drawn_on: tuple[int, int], image: Tensor) -> Sample:
    """A sample with another size of its image: boxes and masks are scaled to it.

    Args:
        sample: its boxes and masks were drawn on ``drawn_on`` pixels.
        drawn_on: (height, width).
        image: uint8 (3, H, W), the same image at another size.
    """
    (height, width), size = drawn_on, (image.shape[-2], image.shape[-1])
    factors = (size[1] / width, size[0] / height)
    boxes = sample.instances.boxes * torch.tensor(factors * 2)
    boxes = clip_boxes(boxes, size)
    masks = sample.instances.masks
    if masks is not None and masks.shape[-2:] != size:
        masks = _resize_masks(masks, size)
    before = sample.meta.get("scale", (1.0, 1.0))
    meta = {**sample.meta, "scale": (before[0] * factors[0], before[1] * factors[1])}
    instances = replace(sample.instances, boxes=boxes, masks=masks)
    return Sample(image, instances, meta)


def uniform(rng: torch.Generator) -> float:
    """A random number in 0..1, drawn uniformly."""
    return float(torch.rand((), generator=rng))


def integer(low: int, high: int, rng: torch.Generator) -> int:
    """A random integer in ``low .. high``, both included."""
    return int(torch.randint(low, high + 1, (), generator=rng))


class Compose:
    """Applies several transforms in order.

    Args:
        transforms: each called as ``transform(sample, generator)``; returns a :class:`Sample`.

    Example:
        >>> import torch
        >>> from pkdzoo import Instances
        >>> from pkdzoo.data import Compose, Sample
        >>> objects = Instances(torch.tensor([[0.0, 0.0, 15.0, 20.0]]), torch.tensor([1]))
        >>> sample = Sample(torch.zeros(3, 40, 60, dtype=torch.uint8), objects)
        >>> from pkdzoo.data import RandomFlip, Resize
        >>> changed = Compose([Resize(80, 1000), RandomFlip(1.0)])(sample, torch.Generator())
        >>> changed.size, changed.instances.boxes.tolist()
        ((80, 120), [[90.0, 0.0, 120.0, 40.0]])
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = list(transforms)

    def __call__(self, sample: Sample, rng: torch.Generator) -> Sample:
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample


class Resize:
    """Keep-ratio resize, to one scale or to a random scale per image and epoch.

    Args:
        short: length of the short side in pixels: a number, or several numbers of which ``mode`` draws one.
        long: maximum length of the long side in pixels.
        mode: ``"choice"`` draws one of the numbers, ``"range"`` any integer from the smallest to the largest.
            ``"range"`` over (640, 800) is the published multi-scale training.
        canvas: (height, width) that every image is scaled to fit, in place of the two sides.

    Raises:
        ValueError: a side below 1, or an unknown mode.

    Example:
        >>> import torch
        >>> from pkdzoo import Instances
        >>> from pkdzoo.data import Resize, Sample
        >>> objects = Instances(torch.tensor([[0.0, 0.0, 15.0, 20.0]]), torch.tensor([1]))
        >>> sample = Sample(torch.zeros(3, 40, 60, dtype=torch.uint8), objects)
        >>> changed = Resize(80, 1000)(sample, torch.Generator().manual_seed(0))
        >>> changed.size, changed.instances.boxes.tolist(), changed.meta["scale"]
        ((80, 120), [[0.0, 0.0, 30.0, 40.0]], (2.0, 2.0))
    """

    def __init__(
        self,
        short: int | Sequence[int] = 800,
        long: int = 1333,
        mode: str = "choice",
        canvas: tuple[int, int] | None = None,
    ) -> None:
        self.canvas = canvas
        self.short = (short,) if isinstance(short, int) else tuple(short)
        self.long, self.mode = long, mode
        if not self.short or min(self.short) < 1 or long < 1:
            raise ValueError(f"Resize(short={short}, long={long}): sides are whole numbers of pixels from 1 up")
        if mode not in ("choice", "range"):
            raise ValueError(f"Resize(mode={mode!r}): write 'choice' (one of the sides) or 'range' (anything between)")

    def __call__(self, sample: Sample, rng: torch.Generator) -> Sample:
        short = self.short[0]
        if len(self.short) > 1 and self.mode == "range":
            short = integer(min(self.short), max(self.short), rng)
        elif len(self.short) > 1:
            short = self.short[integer(0, len(self.short) - 1, rng)]
        return resize_sample(sample, keep_ratio_size(sample.size, short, self.long, self.canvas))


class RandomFlip:
    """Flips the sample horizontally, image, boxes and masks.

    Args:
        p: probability, 0..1.

    Raises:
        ValueError: for another probability.

    Example:
        >>> import torch
        >>> from pkdzoo import Instances
        >>> from pkdzoo.data import RandomFlip, Sample
        >>> objects = Instances(torch.tensor([[0.0, 0.0, 15.0, 20.0]]), torch.tensor([1]))
        >>> sample = Sample(torch.zeros(3, 40, 60, dtype=torch.uint8), objects)
        >>> RandomFlip(1.0)(sample, torch.Generator()).instances.boxes.tolist()
        [[45.0, 0.0, 60.0, 20.0]]
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"RandomFlip(p={p}): a probability lies in 0..1")
        self.p = p

    def __call__(self, sample: Sample, rng: torch.Generator) -> Sample:
        if uniform(rng) >= self.p:
            return sample
        width = sample.size[1]
        left, top, right, bottom = sample.instances.boxes.unbind(1)
        boxes = torch.stack((width - right, top, width - left, bottom), 1)
        masks = None if sample.instances.masks is None else sample.instances.masks.flip(-1)
        instances = replace(sample.instances, boxes=boxes, masks=masks)
        flipped = not sample.meta.get("flipped", False)
        return Sample(F.horizontal_flip_image(sample.image), instances, {**sample.meta, "flipped": flipped})


class RandomCrop:
    """Crops a window of a fixed size at a random position; a side shorter than the window is not cropped.

    Boxes are clipped to the window. Objects are dropped whose clipped box is thinner than a pixel or has less than
    ``keep`` of the box's area.

    Args:
        size: (height, width) of the window in pixels, or one number for both.
        keep: share of an object's box, 0..1, that must be inside.

    Raises:
        ValueError: a side below 1, or ``keep`` outside 0..1.

    Example:
        >>> import torch
        >>> from pkdzoo import Instances
        >>> from pkdzoo.data import RandomCrop, Sample
        >>> objects = Instances(torch.tensor([[0.0, 0.0, 15.0, 20.0]]), torch.tensor([1]))
        >>> sample = Sample(torch.zeros(3, 40, 60, dtype=torch.uint8), objects)
        >>> RandomCrop((30, 30))(sample, torch.Generator().manual_seed(0)).size
        (30, 30)
    """

    def __init__(self, size: int | tuple[int, int], keep: float = 0.25) -> None:
        self.size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.keep = keep
        if min(self.size) < 1 or not 0 <= keep <= 1:
            raise ValueError(f"RandomCrop(size={size}, keep={keep}): size in pixels from 1 up, keep in 0..1")

    def __call__(self, sample: Sample, rng: torch.Generator) -> Sample:
        height, width = (min(window, side) for window, side in zip(self.size, sample.size))
        return random_window(sample, height, width, self.keep, rng)


class RandomZoom:
    """Crops a random window of some images, which the following resize enlarges.

    As in the training of DETR and of mmdetection's Swin configurations ("ms-crop"): the short side is resized to one of
    three lengths, then each side of the window is drawn at random. Boxes are clipped to the window, however little of
    them remains; the window may contain no object.

    Args:
        share: share of the images that are cropped, 0..1.
        short: lengths of the short side before the crop, of which one is drawn.
        long: maximum length of the long side before the crop.
        window: minimum and maximum length of each side of the window.

    Raises:
        ValueError: ``share`` outside 0..1, or an invalid ``window``.

    Example:
        >>> import torch
        >>> from pkdzoo import Instances
        >>> from pkdzoo.data import RandomZoom, Sample
        >>> objects = Instances(torch.tensor([[0.0, 0.0, 15.0, 20.0]]), torch.tensor([1]))
        >>> sample = Sample(torch.zeros(3, 40, 60, dtype=torch.uint8), objects)
        >>> RandomZoom(1.0, short=(80,), window=(50, 50))(sample, torch.Generator().manual_seed(0)).size
        (50, 50)
    """

    def __init__(
        self,
        share: float = 0.5,
        short: Sequence[int] = (400, 500, 600),
        long: int = 1333,
        window: tuple[int, int] = (384, 600),
    ) -> None:
        if not 0 <= share <= 1 or not 1 <= window[0] <= window[1]:
            raise ValueError(
                f"RandomZoom(share={share}, window={window}): share in 0..1, window is (minimum, maximum) from 1 up"
            )
        self.share, self.window = share, window
        self.resize = Resize(short, long)

    def __call__(self, sample: Sample, rng: torch.Generator) -> Sample:
        if uniform(rng) >= self.share:
            return sample
        sample = self.resize(sample, rng)
        low, high = self.window
        height, width = (integer(min(low, side), min(high, side), rng) for side in sample.size)
        return random_window(sample, height, width, 0.0, rng)


def random_window(sample: Sample, height: int, width: int, keep: float, rng: torch.Generator) -> Sample:
    """Crop at a random position; drop objects with less than ``keep`` of their box, or no pixel, inside."""
    top = integer(0, sample.size[0] - height, rng)
    left = integer(0, sample.size[1] - width, rng)
    old = sample.instances.boxes
    boxes = old - torch.tensor([left, top, left, top])
    boxes = clip_boxes(boxes, (height, width))
    sides = boxes[:, 2:] - boxes[:, :2]
    whole = (old[:, 2:] - old[:, :2]).prod(1)
    inside = (sides >= 1).all(1) & (sides.prod(1) >= keep * whole)
    masks = sample.instances.masks
    if masks is not None:
        masks = masks[:, top : top + height, left : left + width]
    image = sample.image[:, top : top + height, left : left + width]
    instances = replace(sample.instances, boxes=boxes, masks=masks)[inside]
    return Sample(image, instances, {**sample.meta, "crop": (top, left)})


def train_transform(
    short: int | Sequence[int] = 800, long: int = 1333, mode: str = "choice", flip: float = 0.5
) -> Compose:
    """The published training transform: keep-ratio resize, then a random horizontal flip.

    Args:
        short: length of the short side in pixels, or several; see :class:`Resize`.
        long: maximum length of the long side in pixels.
        mode: ``choice`` or ``range``, see :class:`Resize`.
        flip: probability of the flip, 0..1.

    Raises:
        ValueError: as :class:`Resize` and :class:`RandomFlip`.

    Example:
        >>> import torch
        >>> from pkdzoo import Instances
        >>> from pkdzoo.data import Sample, train_transform
        >>> objects = Instances(torch.tensor([[0.0, 0.0, 15.0, 20.0]]), torch.tensor([1]))
        >>> sample = Sample(torch.zeros(3, 40, 60, dtype=torch.uint8), objects)
        >>> train_transform(short=(80,), long=100)(sample, torch.Generator()).size
        (67, 100)
    """
    return Compose([Resize(short, long, mode), RandomFlip(flip)])


def eval_transform(short: int = 800, long: int = 1333, canvas: tuple[int, int] | None = None) -> Compose:
    """The published test transform: only the keep-ratio resize.

    Args:
        short: length of the short side in pixels.
        long: maximum length of the long side in pixels.
        canvas: (height, width) in pixels that every image is scaled to fit, in place of the two sides.

    Raises:
        ValueError: as :class:`Resize`.

    Example:
        >>> import torch
        >>> from pkdzoo import Instances
        >>> from pkdzoo.data import Sample, eval_transform
        >>> objects = Instances(torch.tensor([[0.0, 0.0, 15.0, 20.0]]), torch.tensor([1]))
        >>> sample = Sample(torch.zeros(3, 40, 60, dtype=torch.uint8), objects)
        >>> eval_transform(short=800, long=1333)(sample, torch.Generator()).size
        (800, 1200)
    """
    return Compose([Resize(short, long, canvas=canvas)])
