"""The few things detectors hand to each other: images, boxes, pyramids, targets, detections.

Letters, used in every shape comment of the package:

    B images in a batch      L pyramid levels        C classes
    A priors in a cell       P priors of all levels  G objects of one image
    h, w cells of a level    H, W pixels of the padded batch

Boxes are ``xyxy`` in pixels, with ``0 <= x1 <= x2 <= W``. Labels are contiguous, ``0 .. C-1``; in
targets ``C`` means background and ``-1`` means "count this prior for nothing".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

IGNORE = -1  # label of a prior that neither attracts nor repels

T = TypeVar("T", bound="_Movable")


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """``change`` applied to every tensor and structure of tensors; the rest as it is."""
    if isinstance(value, (Tensor, _Movable)):
        return change(value)
    if isinstance(value, list):
        return [_each(item, change) for item in value]
    return value


class _Movable:
    """``.to(device)`` for a dataclass of tensors; what is not a tensor stays as it is."""

    def to(self: T, device: torch.device | str, non_blocking: bool = False) -> T:
        """The same structure with every tensor on ``device``."""
        return self._changed(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self: T) -> T:
        """The same structure in page-locked memory, from which a GPU copies while it computes (``DataLoader`` asks)."""
        return self._changed(lambda value: value.pin_memory())

    def _changed(self: T, change: Callable[[Any], Any]) -> T:
        names = [f.name for f in fields(self)]  # type: ignore[arg-type]
        return replace(self, **{n: _each(getattr(self, n), change) for n in names})  # type: ignore[type-var]


@dataclass(frozen=True)
class PixelNorm:
    """How a detector normalises its input: per-channel statistics of raw pixels (0-255), in its own channel order.

    Attributes:
        mean: subtracted, one value a channel.
        std: divided by, one value a channel.
        channel_order: order of the channels that the network takes; batches always hold RGB.
    """

    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    channel_order: Literal["rgb", "bgr"] = "rgb"


@dataclass(frozen=True)
class PostProcess:
    """How detections are made of head outputs.

    Attributes:
        score_threshold: candidates must score more than this, 0..1.
        pre_nms_top_k: at most so many candidates of each level go into non-maximum suppression (NMS).
        nms_threshold: IoU above which the lower-scoring box of the same class is dropped, 0..1.
        max_detections: detections kept in an image.
    """

    score_threshold: float = 0.05
    pre_nms_top_k: int = 1000
    nms_threshold: float = 0.5
    max_detections: int = 100


@dataclass
class Instances(_Movable):
    """The objects of one image.

    Attributes:
        boxes: (G, 4) float, xyxy pixels.
        labels: (G,) int64 in ``0 .. C-1``.
        crowd: (G,) bool, True for a region of many objects; None means no crowd. Crowd regions are
            never a target; the evaluator does not count detections inside them.
        masks: (G, h, w) bool in the image's own pixels, or None.

    Example:
        >>> import torch, pkdzoo
        >>> boxes = torch.tensor([[8.0, 8.0, 40.0, 30.0], [0.0, 0.0, 96.0, 64.0]])
        >>> objects = pkdzoo.Instances(boxes, torch.tensor([2, 0]))
        >>> len(objects), objects[objects.labels == 2].boxes.tolist()
        (2, [[8.0, 8.0, 40.0, 30.0]])
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor | None = None
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        if self.boxes.ndim != 2 or self.boxes.shape[-1] != 4:
            raise ValueError(
                f"boxes must be (G, 4) xyxy, got {tuple(self.boxes.shape)}; no objects is torch.zeros(0, 4)"
            )
        if not self.boxes.is_floating_point():
            self.boxes = self.boxes.float()
        if self.labels.shape != self.boxes.shape[:1]:
            raise ValueError(f"{len(self.boxes)} boxes but labels of shape {tuple(self.labels.shape)}: one label a box")

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Tensor) -> Instances:
        """The objects that ``index`` (bool mask or integer indices) picks."""
        crowd = None if self.crowd is None else self.crowd[index]
        masks = None if self.masks is None else self.masks[index]
        return Instances(self.boxes[index], self.labels[index], crowd, masks)

    def without_crowd(self) -> Instances:
        """Only what may be a target."""
        return self if self.crowd is None else self[~self.crowd]


@dataclass
class Batch(_Movable):
    """Images padded once to one size.

    Attributes:
        images: (B, 3, H, W) float, raw RGB 0-255. What stands outside ``sizes`` does not matter:
            every detector writes zeros there after its own normalisation.
        sizes: (height, width) in pixels of each image inside the padding, B of them.
        instances: the objects of each image, or None when there is nothing to learn from.
        meta: per image, free: ``image_id``, ``file_name``, ``original_size`` (height, width),
            whatever the data set knows. ``original_size`` is where detections are scaled back to.

    Example:
        >>> import torch, pkdzoo
        >>> target = pkdzoo.Instances(torch.tensor([[8.0, 8.0, 40.0, 30.0]]), torch.tensor([1]))
        >>> batch = pkdzoo.Batch(torch.rand(1, 3, 64, 96) * 255, [(64, 90)], [target])
        >>> sorted(pkdzoo.create_detector("retina_r10w16", num_classes=3)(batch))
        ['loss_box', 'loss_cls']
    """

    images: Tensor
    sizes: list[tuple[int, int]]
    instances: list[Instances] | None = None
    meta: list[dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4:
            raise ValueError(f"images must be (B, 3, H, W) raw RGB 0-255, got {tuple(self.images.shape)}")
        self.sizes = [(int(h), int(w)) for h, w in self.sizes]
        count, _, height, width = self.images.shape
        for name, rows in (("sizes", self.sizes), ("instances", self.instances), ("meta", self.meta)):
            if rows is not None and len(rows) != count:
                raise ValueError(f"{count} images but {len(rows)} {name}")
        for h, w in self.sizes:
            if not (0 < h <= height and 0 < w <= width):
                raise ValueError(
                    f"an image of {h} x {w} does not fit its batch of {height} x {width}: sizes are (height, width)"
                )

    def __len__(self) -> int:
        return len(self.images)


@dataclass
class FeaturePyramid(_Movable):
    """Maps of falling resolution.

    Attributes:
        levels: L tensors (B, channels, h, w), finest first.
        strides: pixels a cell at each level.

    Example:
        >>> import torch, pkdzoo
        >>> model = pkdzoo.create_detector("retina_r10w16")
        >>> pyramid = model.extract_features(pkdzoo.Batch(torch.rand(1, 3, 64, 96) * 255, [(64, 96)]))
        >>> pyramid.strides, pyramid.sizes
        ((8, 16, 32, 64, 128), [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)])
    """

    levels: list[Tensor]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.strides):
            raise ValueError(f"{len(self.levels)} levels but {len(self.strides)} strides")

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(h, w) of each level."""
        return [(level.shape[-2], level.shape[-1]) for level in self.levels]


@dataclass
class Priors(_Movable):
    """Where a dense head looks: anchors, or points written as boxes one stride wide.

    Attributes:
        boxes: (P, 4) xyxy; the centre of a point prior is the point.
        strides: (P,) float, stride of the level that each prior lies on.
        counts: priors of each level, ``sum(counts) == P``.
    """

    boxes: Tensor
    strides: Tensor
    counts: list[int]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def centers(self) -> Tensor:
        """(P, 2) centre of each prior, x then y."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2

    def take(self, index: Tensor) -> Priors:
        """Only the priors that ``index`` picks, in its order; the levels are forgotten."""
        boxes = self.boxes[index]
        return Priors(boxes, self.strides[index], [len(boxes)])


@dataclass
class HeadOutputs(_Movable):
    """What a dense head says at each level, before any decoding.

    Attributes:
        cls: L tensors (B, A*C, h, w), class logits (TOOD: probabilities).
        box: L tensors (B, A*D, h, w); what the D numbers mean is the detector's own
            (deltas, distances, distributions), its ``decode`` knows.
        quality: L tensors (B, A, h, w), centerness logits, where the head has them.
        extra: further maps by name, where a head has them (RepPoints: the first points).
    """

    cls: list[Tensor]
    box: list[Tensor]
    quality: list[Tensor] | None = None
    extra: dict[str, list[Tensor]] | None = None


@dataclass
class DenseTargets(_Movable):
    """What each prior should say.

    Attributes:
        labels: (B, P) int64: ``0 .. C-1`` the class, ``C`` background, ``-1`` ignored.
        boxes: (B, P, 4) xyxy of the object a positive prior stands for; rows of others mean nothing.
        quality: (B, P) float where the method has a quality target (centerness, alignment).
        num_pos: () float, number of positives, as the normaliser counts them.
        matched: (B, P) int64, index of the object a positive prior stands for, -1 elsewhere.
    """

    labels: Tensor
    boxes: Tensor
    quality: Tensor | None
    num_pos: Tensor
    matched: Tensor | None = None


@dataclass
class Detections(_Movable):
    """What a detector found in one image, best first.

    Attributes:
        boxes: (N, 4) xyxy in pixels of the image they refer to.
        scores: (N,) in 0..1.
        labels: (N,) int64 in ``0 .. C-1``.
        masks: (N, h, w) bool in pixels of the image, where they have been drawn.
        mask_probabilities: (N, m, m) in 0..1, probabilities inside each box, where the detector has masks:
            ``ops.masks.paste_masks(mask_probabilities, boxes, size)`` draws them into an image of any size.

    Example:
        >>> import torch, pkdzoo
        >>> found = pkdzoo.Detections(torch.rand(3, 4), torch.tensor([0.9, 0.6, 0.2]), torch.tensor([0, 2, 0]))
        >>> len(found[found.scores > 0.5])
        2
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None
    mask_probabilities: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Tensor | slice) -> Detections:
        masks = None if self.masks is None else self.masks[index]
        probabilities = None if self.mask_probabilities is None else self.mask_probabilities[index]
        return Detections(self.boxes[index], self.scores[index], self.labels[index], masks, probabilities)
