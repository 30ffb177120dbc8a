"""Training and test transforms: one sample in, one sample out, every random choice from a generator given.

The keep-ratio resize is the one the published scores were measured with: mmdetection's, which is OpenCV's
bilinear on uint8 **without** antialiasing. OpenCV computes in fixed point that loses an eighth of a grey
level on average; taking that eighth off before rounding brings the mean difference from 0.13 grey levels
to 0.05. Where both sides shrink by a whole number (half the size is the mean of four pixels) OpenCV loses
nothing: there every pixel is equal.
torchvision's own uint8 kernel (0.29 grey levels off) is five times faster and serves images too large to
be held as floats. Sizes are ``int(side * scale + 0.5)``.

What differs from mmdetection: flips and scales are drawn from ``(seed, epoch, image id)``, so a resumed run
sees what the uninterrupted one saw, however many workers load it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as F

from pkdzoo.structures import Instances

FLOAT_LIMIT = 32_000_000  # pixels of source or target above which the resize stays in uint8


@dataclass
class Sample:
    """One image on its way to a batch.

    Attributes:
        image: uint8 (3, H, W) RGB.
        instances: its objects, boxes in pixels of ``image``.
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
        """(height, width) of the image as it is now."""
        return self.image.shape[-2], self.image.shape[-1]


Transform = Callable[[Sample, torch.Generator], Sample]


def keep_ratio_size(size: tuple[int, int], short: int, long: int) -> tuple[int, int]:
    """(height, width) at which the short side reaches ``short`` or the long side ``long``, whichever is first."""
    height, width = size
    scale = min(long / max(height, width), short / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """OpenCV's bilinear resize of a uint8 image, without antialiasing.

    Args:
        image: uint8 (3, H, W).
        size: (height, width) to reach.

    Returns:
        uint8 (3, height, width).
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    if max(image.shape[-2] * image.shape[-1], size[0] * size[1]) > FLOAT_LIMIT:
        small: Tensor = F.resize_image(image, list(size), antialias=False)
        return small
    # Channels-last is what PIL gives, and seven times faster here than planes. With several threads torch takes another
    # kernel for three channels than with one, whose last bits differ: a fourth channel keeps it to the same one, so
    # that a loader's workers (one thread) and the main process draw the same images.
    channels = image.shape[0] if torch.get_num_threads() == 1 else max(4, image.shape[0])
    floats = torch.empty((1, channels, *image.shape[-2:]), memory_format=torch.channels_last)
    floats[0, : image.shape[0]] = image
    floats[0, image.shape[0] :] = 0
    # What rounds is added before, where there are fewer pixels: weights sum to one, and uint8 cuts the fraction off.
    exact = image.shape[-2] % size[0] == 0 and image.shape[-1] % size[1] == 0
    floats += 0.5 if exact else 0.5 - 0.125
    resized = interpolate(floats, size=list(size), mode="bilinear", align_corners=False)[:, : image.shape[0]]
    return resized.to(torch.uint8)[0]  # between 0.375 and 255.5: nothing to clamp


def resize_keep_ratio(image: Tensor, short: int = 800, long: int = 1333) -> tuple[Tensor, tuple[float, float]]:
    """Resize as every published detector was tested.

    Args:
        image: uint8 (3, H, W).
        short: length the short side should get.
        long: length the long side may not pass.

    Returns:
        The uint8 image and its (width, height) factors, which differ by rounding: boxes of the
        original times (w, h, w, h) are boxes of the result.

    Example:
        >>> import torch
        >>> from pkdzoo.data import resize_keep_ratio
        >>> image, scale = resize_keep_ratio(torch.zeros(3, 480, 640, dtype=torch.uint8), short=800, long=1333)
        >>> tuple(image.shape), scale
        ((3, 800, 1067), (1.6671875, 1.6666666666666667))
    """
    height, width = image.shape[-2:]
    new = keep_ratio_size((height, width), short, long)
    return resize_image(image, new), (new[1] / width, new[0] / height)


def _resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest neighbour, as OpenCV's; torch refuses to resize no masks at all."""
    if len(masks) == 0:
        return masks.new_zeros(0, *size)
    return interpolate(masks[None].to(torch.uint8), size=list(size), mode="nearest")[0].bool()


def resize_sample(sample: Sample, size: tuple[int, int]) -> Sample:
    """The sample with image, boxes and masks brought to (height, width)."""
    height, width = sample.size
    factors = (size[1] / width, size[0] / height)
    boxes = sample.instances.boxes * torch.tensor(factors * 2)
    boxes = torch.stack((boxes[:, 0::2].clamp(0, size[1]), boxes[:, 1::2].clamp(0, size[0])), 2).flatten(1)
    masks = sample.instances.masks
    if masks is not None and masks.shape[-2:] != size:
        masks = _resize_masks(masks, size)
    before = sample.meta.get("scale", (1.0, 1.0))
    meta = {**sample.meta, "scale": (before[0] * factors[0], before[1] * factors[1])}
    instances = replace(sample.instances, boxes=boxes, masks=masks)
    return Sample(resize_image(sample.image, size), instances, meta)


def _uniform(rng: torch.Generator) -> float:
    return float(torch.rand((), generator=rng))


def _integer(low: int, high: int, rng: torch.Generator) -> int:
    """A whole number in ``low .. high``, both included."""
    return int(torch.randint(low, high + 1, (), generator=rng))


class Compose:
    """Transforms one after the other.

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
    """Keep-ratio resize, to one scale or to one drawn anew for each image and epoch.

    Args:
        short: length of the short side: a number; or several, of which one is drawn
            (``mode="choice"``) or which are the ends of a range (``mode="range"``: any whole number
            between the smallest and the largest).
        long: limit of the long side.
        mode: what several short sides mean. ``"range"`` over (640, 800) is the published multi-scale.

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

    def __init__(self, short: int | Sequence[int] = 800, long: int = 1333, mode: str = "choice") -> None:
        self.short = (short,) if isinstance(short, int) else tuple(short)
        self.long, self.mode = long, mode
        if not self.short or min(self.short) < 1 or long < 1:
            raise ValueError(f"Resize(short={short}, long={long}): sides are whole numbers of pixels from 1 up")
        if mode not in ("choice", "range"):
            raise ValueError(f"Resize(mode={mode!r}): write 'choice' (one of the sides) or 'range' (anything between)")

    def __call__(self, sample: Sample, rng: torch.Generator) -> Sample:
        short = self.short[0]
        if len(self.short) > 1 and self.mode == "range":
            short = _integer(min(self.short), max(self.short), rng)
        elif len(self.short) > 1:
            short = self.short[_integer(0, len(self.short) - 1, rng)]
        return resize_sample(sample, keep_ratio_size(sample.size, short, self.long))


class RandomFlip:
    """Mirror left and right in a share ``p`` of the cases.

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
        if _uniform(rng) >= self.p:
            return sample
        width = sample.size[1]
        left, top, right, bottom = sample.instances.boxes.unbind(1)
        boxes = torch.stack((width - right, top, width - left, bottom), 1)
        masks = None if sample.instances.masks is None else sample.instances.masks.flip(-1)
        instances = replace(sample.instances, boxes=boxes, masks=masks)
        flipped = not sample.meta.get("flipped", False)
        return Sample(F.horizontal_flip_image(sample.image), instances, {**sample.meta, "flipped": flipped})


class RandomCrop:
    """A window of a fixed size at a random place; a smaller image stays as it is on that side.

    Objects keep the part of their box inside the window and are dropped where it is thinner than a
    pixel or holds less than ``keep`` of the box's area.

    Args:
        size: (height, width) of the window.
        keep: share of an object's box, 0..1, that has to be inside.

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
        height, width = (min(want, have) for want, have in zip(self.size, sample.size))
        return _random_window(sample, height, width, self.keep, rng)


class RandomZoom:
    """In a share of the cases only a window, of which the resize that follows makes a whole image.

    As DETR and mmdetection's Swin configurations train ("ms-crop"): the short side is brought to one of three lengths,
    then each side of the window is drawn anew. Objects keep the part of their box inside the window, however small;
    a window without any object is as good as another.

    Args:
        share: of the images, 0..1.
        short: the short side before the cut, one of these.
        long: limit of the long side before the cut.
        window: least and greatest length of each side of the window.

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
            raise ValueError(f"RandomZoom(share={share}, window={window}): share in 0..1, window from short to long")
        self.share, self.window = share, window
        self.resize = Resize(short, long)

    def __call__(self, sample: Sample, rng: torch.Generator) -> Sample:
        if _uniform(rng) >= self.share:
            return sample
        sample = self.resize(sample, rng)
        low, high = self.window
        height, width = (_integer(min(low, side), min(high, side), rng) for side in sample.size)
        return _random_window(sample, height, width, 0.0, rng)


def _random_window(sample: Sample, height: int, width: int, keep: float, rng: torch.Generator) -> Sample:
    """A window at a random place; objects that have less than ``keep`` of their box in it, or no pixel, are dropped."""
    top = _integer(0, sample.size[0] - height, rng)
    left = _integer(0, sample.size[1] - width, rng)
    old = sample.instances.boxes
    boxes = old - torch.tensor([left, top, left, top])
    boxes = torch.stack((boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)), 2).flatten(1)
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
    """The published training transform: keep-ratio resize, then a horizontal flip.

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


def test_transform(short: int = 800, long: int = 1333) -> Compose:  # noqa: PT028 (it is no test)
    """The published test transform: the keep-ratio resize alone.

    Example:
        >>> import torch
        >>> from pkdzoo import Instances
        >>> from pkdzoo.data import Sample, test_transform
        >>> objects = Instances(torch.tensor([[0.0, 0.0, 15.0, 20.0]]), torch.tensor([1]))
        >>> sample = Sample(torch.zeros(3, 40, 60, dtype=torch.uint8), objects)
        >>> test_transform(short=800, long=1333)(sample, torch.Generator()).size
        (800, 1200)
    """
    return Compose([Resize(short, long)])


test_transform.__test__ = False  # type: ignore[attr-defined]  # its name would make pytest collect it
