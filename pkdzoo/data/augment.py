"""Augmentations that mix the images of a batch: mosaic and mixup, as RTMDet is trained.

Facts come from mmdetection's RTMDet configurations (Apache-2.0). There, every loader process keeps a cache of recent
images and draws partners from it. Here partners are drawn from the batch itself and, if it is small, from ``pool``
further images. So what an image looks like depends on ``(seed, epoch, batch)`` alone, not on the number of workers, and
a resumed run repeats it. Nothing is decoded twice.

Another difference: a crop without any object is drawn again at another place, up to ten times; mmdetection takes
another image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pkdzoo.data.letterbox import put_on_canvas
from pkdzoo.data.transforms import RandomFlip, Sample, integer, random_window, resize_sample, uniform
from pkdzoo.ops.boxes import clip_boxes, has_area
from pkdzoo.structures import Instances

GRAY = 114  # the gray level of RTMDet's padding
CROP_ATTEMPTS = 10


@dataclass(frozen=True)
class MixTransform:
    """RTMDet's training transform of a whole batch: mosaic, random scale, crop, color shift, flip, padding, mixup.

    Args:
        size: side of the square images that come out, in pixels.
        scale: smallest and largest random scale; 1 means that the image (or one quarter of a mosaic) fits ``size``.
        flip: probability of a horizontal flip.
        colors: largest shift of hue (half degrees), saturation and value (of 255); each is on or off at random.
        mosaic: probability that an image becomes one of four in a mosaic.
        mixup: probability that an image is mixed with one of the pool, which may be itself, as in mmdetection.
        mixup_ratio: ``"half"`` mixes 0.5 : 0.5 (mmdetection), ``"beta"`` draws the share from beta(32, 32) (MMYOLO).
        pool: number of images that partners are drawn from; a smaller batch loads more images for it.
        stop_epoch: from this epoch (counted from 0) on there is no mosaic and no mixup; None means never.

    Raises:
        ValueError: a size below 1, a scale that is no (minimum, maximum) above 0, or a probability outside 0..1.

    Example:
        >>> import torch
        >>> from pkdzoo import Instances
        >>> from pkdzoo.data import MixTransform, Sample
        >>> objects = Instances(torch.tensor([[0.0, 0.0, 15.0, 20.0]]), torch.tensor([1]))
        >>> samples = [Sample(torch.zeros(3, 40, 60, dtype=torch.uint8), objects) for _ in range(4)]
        >>> mixed = MixTransform(64)(samples, torch.Generator().manual_seed(0), epoch=0, count=2)
        >>> [sample.size for sample in mixed]
        [(64, 64), (64, 64)]
    """

    size: int = 640
    scale: tuple[float, float] = (0.1, 2.0)
    flip: float = 0.5
    colors: tuple[float, float, float] = (5.0, 30.0, 30.0)
    mosaic: float = 1.0
    mixup: float = 1.0
    mixup_ratio: Literal["half", "beta"] = "half"
    pool: int = 8
    stop_epoch: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(
                f"MixTransform(size={self.size}, scale={self.scale}): write a size in pixels from 1 up and a scale "
                "(minimum, maximum) above 0, e.g. size=640, scale=(0.5, 2.0)"
            )
        wrong = {name: p for name in ("flip", "mosaic", "mixup") if not 0 <= (p := getattr(self, name)) <= 1}
        if wrong:
            raise ValueError(f"MixTransform({wrong}): a probability lies in 0..1")

    def mixes(self, epoch: int) -> bool:
        """Whether images of this epoch are mixed with others."""
        return (self.stop_epoch is None or epoch < self.stop_epoch) and (self.mosaic > 0 or self.mixup > 0)

    def __call__(self, samples: Sequence[Sample], rng: torch.Generator, epoch: int, count: int) -> list[Sample]:
        """Transform the first ``count`` samples; all of them may become partners.

        Args:
            samples: at least ``count``, as they were loaded.
            rng: of this batch.
            epoch: counted from 0.
            count: number of samples to return.

        Returns:
            Samples of ``size`` x ``size`` pixels.
        """
        if not self.mixes(epoch):
            return [self._finish(sample, rng) for sample in samples[:count]]
        done = {k: self._prepare(samples, k, rng) for k in range(count)}
        partners = [integer(0, len(samples) - 1, rng) for _ in range(count)]
        mixed = []
        for k, partner in enumerate(partners):
            if uniform(rng) >= self.mixup:
                mixed.append(done[k])
                continue
            if partner not in done:
                done[partner] = self._prepare(samples, partner, rng)
            mixed.append(mix_up(done[k], done[partner], self._share(rng), rng))
        return mixed

    def _prepare(self, samples: Sequence[Sample], index: int, rng: torch.Generator) -> Sample:
        """An image as it is before mixup, in a mosaic of four or alone."""
        sample = samples[index]
        if uniform(rng) < self.mosaic:
            others = [samples[integer(0, len(samples) - 1, rng)] for _ in range(3)]
            sample = make_mosaic([sample, *others], self.size, rng)
        return self._finish(sample, rng)

    def _share(self, rng: torch.Generator) -> float:
        if self.mixup_ratio == "half":
            return 0.5
        seed = int(torch.randint(2**63 - 1, (), generator=rng))
        return float(np.random.default_rng(seed).beta(32.0, 32.0))

    def _finish(self, sample: Sample, rng: torch.Generator) -> Sample:
        """Random scale, crop, color shift, flip and padding of one image or mosaic.

        A mosaic has twice the size of an image, so at scale 1 it stays as it is.
        """
        factor = self.scale[0] + (self.scale[1] - self.scale[0]) * uniform(rng)
        target = factor * (2 * self.size if sample.meta.get("mosaic") else self.size)
        ratio = target / max(sample.size)
        height, width = (max(1, int(side * ratio + 0.5)) for side in sample.size)
        sample = resize_sample(sample, (height, width))
        sample = crop_with_objects(sample, self.size, rng)
        sample = replace(sample, image=shift_colors(sample.image, self.colors, rng))
        return put_on_canvas(RandomFlip(self.flip)(sample, rng), (self.size, self.size), (0, 0), GRAY)


def make_mosaic(samples: Sequence[Sample], size: int, rng: torch.Generator) -> Sample:
    """Four images around a random center of a gray canvas of ``2 size`` x ``2 size`` pixels.

    Each image is resized to fit ``size`` x ``size`` and keeps its aspect ratio. It touches the center with one corner;
    what reaches beyond the canvas is cut off.

    Args:
        samples: four, in the order top left, top right, bottom left, bottom right.
        size: in pixels; the center lies between 0.5 and 1.5 times ``size`` in both directions.
        rng: draws the center.
    """
    canvas = torch.full((3, 2 * size, 2 * size), GRAY, dtype=torch.uint8)
    center_x, center_y = (int((0.5 + uniform(rng)) * size) for _ in range(2))
    placed = []
    for number, sample in enumerate(samples):
        ratio = size / max(sample.size)
        height, width = (max(1, int(side * ratio)) for side in sample.size)
        part = resize_sample(sample, (height, width))
        left = center_x if number % 2 else center_x - width
        top = center_y if number >= 2 else center_y - height
        placed.append(paste(canvas, part, left, top))
    meta = {**samples[0].meta, "mosaic": True}
    return Sample(canvas, concatenate(placed), meta)


def paste(canvas: Tensor, part: Sample, left: int, top: int) -> Instances:
    """Paste an image into ``canvas`` in place; returns its objects that are still visible, in pixels of the canvas."""
    height, width = canvas.shape[-2:]
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + part.size[1], width), min(top + part.size[0], height)
    canvas[:, y1:y2, x1:x2] = part.image[:, y1 - top : y2 - top, x1 - left : x2 - left]
    instances = part.instances
    shift = torch.tensor([left, top, left, top])
    masks = None
    if instances.masks is not None:
        masks = instances.masks.new_zeros(len(instances), height, width)
        masks[:, y1:y2, x1:x2] = instances.masks[:, y1 - top : y2 - top, x1 - left : x2 - left]
    return visible(replace(instances, boxes=instances.boxes + shift, masks=masks), (height, width))


def visible(instances: Instances, size: tuple[int, int]) -> Instances:
    """Objects clipped to an image of ``size`` (height, width); those of which nothing is left are dropped."""
    clipped = clip_boxes(instances.boxes, size)
    return replace(instances, boxes=clipped)[has_area(clipped)]


def concatenate(parts: Sequence[Instances]) -> Instances:
    """Objects of several images in one."""
    masks = [part.masks for part in parts if part.masks is not None]
    none = [torch.zeros(len(part), dtype=torch.bool) for part in parts]
    crowd = [no if part.crowd is None else part.crowd for part, no in zip(parts, none)]
    return Instances(
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat(crowd),
        torch.cat(masks) if len(masks) == len(parts) else None,
    )


def crop_with_objects(sample: Sample, size: int, rng: torch.Generator) -> Sample:
    """Crop ``size`` x ``size`` pixels; if the image has objects, the window is drawn until it holds one, ten times."""
    height, width = (min(size, side) for side in sample.size)
    for _ in range(CROP_ATTEMPTS):
        cropped = random_window(sample, height, width, 0.0, rng)
        if len(cropped.instances) or not len(sample.instances):
            break
    return cropped


def mix_up(sample: Sample, partner: Sample, share: float, rng: torch.Generator) -> Sample:
    """Mix two images of one size; the objects of both count in full.

    Args:
        sample: keeps ``share`` of its pixels.
        partner: flipped at random. Without objects it is not used, as in mmdetection.
        share: 0..1.
        rng: draws the flip.
    """
    if not len(partner.instances):
        return sample
    partner = RandomFlip(0.5)(partner, rng)
    image = share * sample.image.float() + (1 - share) * partner.image.float()
    instances = concatenate([sample.instances, partner.instances])
    return Sample(image.to(torch.uint8), instances, sample.meta)


def shift_colors(image: Tensor, limits: tuple[float, float, float], rng: torch.Generator) -> Tensor:
    """Shift hue, saturation and value by random amounts, each of them on or off.

    Args:
        image: uint8 (3, H, W) RGB.
        limits: largest shift of hue (in half degrees, as in OpenCV), saturation and value (of 255).
        rng: draws the three shifts.
    """
    draws = 2 * torch.rand(3, generator=rng) - 1
    on = torch.randint(0, 2, (3,), generator=rng)
    hue, saturation, value = (draws * on * torch.tensor(limits)).trunc().tolist()
    if not (hue or saturation or value):
        return image
    h, s, v = rgb_to_hsv(image.float())
    return hsv_to_rgb((h + hue) % 180, (s + saturation).clamp(0, 255), (v + value).clamp(0, 255))


def rgb_to_hsv(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue 0..180, saturation and value 0..255 of a float (3, H, W) image, in OpenCV's units."""
    red, green, blue = image.unbind(0)
    value, low = image.amax(0), image.amin(0)
    span = value - low
    divisor = span.clamp(min=1e-6)
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    return (30 * hue) % 180, 255 * span / value.clamp(min=1e-6), value


def hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """uint8 (3, H, W) of hue 0..180, saturation and value 0..255."""
    span = value * saturation / 255
    channels = []
    for offset in (5, 3, 1):
        k = (offset + hue / 30) % 6
        channels.append(value - span * torch.minimum(k, 4 - k).clamp(0, 1))
    return (torch.stack(channels) + 0.5).clamp(0, 255).to(torch.uint8)
