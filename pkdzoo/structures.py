"""The data structures of the package: images, objects, feature pyramids, priors, targets and detections.

A prior is a reference position of a dense head: an anchor box or a point. A location is one position of a feature map.

These letters stand for sizes in every shape comment of the package:

    B     images per batch           H, W  height and width of the padded batch, in pixels
    C     classes                    h, w  height and width of a feature map, in locations
    L     pyramid levels             A     priors per location
    G     objects of one image       P     priors of one image, over all levels
    N     boxes of one image         K     selected rows

Boxes are ``xyxy`` in pixels: ``(x1, y1, x2, y2)`` with ``0 <= x1 <= x2 <= W``. Labels are contiguous, ``0 .. C-1``.
In targets, ``C`` means background and ``-1`` (``IGNORE``) excludes a prior from the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

IGNORE = -1  # label of a prior that is excluded from the loss

T = TypeVar("T", bound="_Movable")


def _map_tensors(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply ``function`` to every tensor and structure of tensors, also in lists and dicts."""
    if isinstance(value, (Tensor, _Movable)):
        return function(value)
    if isinstance(value, list):
        return [_map_tensors(item, function) for item in value]
    if isinstance(value, dict):
        return {name: _map_tensors(item, function) for name, item in value.items()}
    return value


class _Movable:
    """``to`` and ``pin_memory`` for a dataclass of tensors; values that are not tensors stay as they are."""

    def to(self: T, device: torch.device | str, non_blocking: bool = False) -> T:
        """A copy with every tensor on ``device``."""
        return self._map(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self: T) -> T:
        """A copy in page-locked memory, for asynchronous copies to a GPU (``DataLoader(pin_memory=True)``)."""
        return self._map(lambda value: value.pin_memory())

    def _map(self: T, function: Callable[[Any], Any]) -> T:
        names = [f.name for f in fields(self)]  # type: ignore[arg-type]
        return replace(self, **{n: _map_tensors(getattr(self, n), function) for n in names})  # type: ignore[type-var]


@dataclass(frozen=True)
class PixelNorm:
    """How a detector normalizes its input: ``(pixel - mean) / std`` per channel, of raw pixels 0-255.

    Attributes:
        mean: one value per channel, in ``channel_order``.
        std: one value above 0 per channel, in ``channel_order``.
        channel_order: channel order of the network's input. Batches always hold RGB; a detector converts them. ``bgr``
            is for three channels.

    Raises:
        ValueError: for other values, and for statistics of pixels 0-1.

    Example:
        >>> from pkdzoo.structures import PixelNorm
        >>> PixelNorm(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0), channel_order="bgr").channel_order
        'bgr'
    """

    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    channel_order: Literal["rgb", "bgr"] = "rgb"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            if isinstance(getattr(self, name), (int, float, str)):
                raise ValueError(f"{name}={getattr(self, name)!r}: write one number per channel, e.g. (0.0, 0.0, 0.0)")
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean={self.mean}, std={self.std}: write one of each per channel")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or not all(value > 0 for value in self.std):
            raise ValueError(f"mean={self.mean}, std={self.std}: write finite numbers, and every std above 0")
        if self.std and max(self.std) < 1 and all(0 <= value <= 1 for value in self.mean):
            raise ValueError(
                f"mean={self.mean}, std={self.std} are statistics of pixels 0-1, and detectors take pixels 0-255: "
                "multiply both by 255"
            )
        if self.channel_order not in ("rgb", "bgr"):
            raise ValueError(f"channel_order={self.channel_order!r}: write 'rgb' or 'bgr'")
        if self.channel_order == "bgr" and len(self.mean) != 3:
            raise ValueError(f"channel_order='bgr' is for 3 channels, not for {len(self.mean)}: write 'rgb'")


@dataclass(frozen=True)
class Letterbox:
    """How an image is fitted onto a canvas of one gray value, for detectors that were trained on such images.

    The image is scaled, up or down, until its long side is the long side of the detector's ``resize``. The canvas is
    part of the image: its border is normalized as the image is, and priors on it count. The defaults are those of
    mmdetection's RTMDet.

    Attributes:
        fill: gray value of the border, 0..255.
        place: position of the image on the canvas, ``corner`` (top left) or ``center``.
        canvas: ``square``, of the long side; or ``stride``, the smallest multiple of 32 that leaves at least half a
            stride of 32 pixels of border along each axis, as in MMYOLO's validation of one image.
        rounding: of the scaled sides, ``nearest`` or ``down``.
        shrink: interpolation of images that become smaller, ``bilinear`` or ``area``; larger ones are bilinear.
        clip: detections are clipped to the ``canvas``, so that they can reach beyond the image, or to the ``image``.

    Example:
        >>> import pkdzoo
        >>> pkdzoo.create_detector("rtmdet_tiny_yolo").letterbox.place
        'center'
    """

    fill: int = 114
    place: Literal["corner", "center"] = "corner"
    canvas: Literal["square", "stride"] = "square"
    rounding: Literal["nearest", "down"] = "nearest"
    shrink: Literal["bilinear", "area"] = "bilinear"
    clip: Literal["canvas", "image"] = "canvas"

    def __post_init__(self) -> None:
        if not 0 <= self.fill <= 255:
            raise ValueError(f"fill={self.fill}: write a gray value, 0 to 255")
        choices = {
            "place": ("corner", "center"),
            "canvas": ("square", "stride"),
            "rounding": ("nearest", "down"),
            "shrink": ("bilinear", "area"),
            "clip": ("canvas", "image"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: write one of {', '.join(map(repr, allowed))}")


@dataclass(frozen=True)
class PostProcess:
    """Settings of the step from head outputs to detections.

    Attributes:
        score_threshold: candidates with a score of at most this are dropped, 0..1.
        pre_nms_top_k: maximum number of candidates per level (MMYOLO's RTMDet: of all levels) that enter non-maximum
            suppression (NMS).
        nms_threshold: IoU above which the lower-scoring of two boxes of one class is dropped, 0..1.
        max_detections: maximum number of detections per image.

    Example:
        >>> import pkdzoo
        >>> pkdzoo.create_detector("retina_r10w16").postprocess_config
        PostProcess(score_threshold=0.05, pre_nms_top_k=1000, nms_threshold=0.5, max_detections=100)
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
        crowd: (G,) bool, True for a region of many objects (COCO's ``iscrowd``); None means no crowd regions. Crowd
            regions are never targets, and the evaluator ignores detections inside them. There is no flag for objects
            marked ``ignore`` or ``difficult``: ``pkdzoo/data/filter.py`` leaves them out of training.
        masks: (G, height, width) bool, of the image without padding; or None.

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
                f"boxes must be (G, 4) xyxy, got {tuple(self.boxes.shape)}; for no objects write torch.zeros(0, 4)"
            )
        if not self.boxes.is_floating_point():
            self.boxes = self.boxes.float()
        if self.labels.shape != self.boxes.shape[:1]:
            raise ValueError(
                f"boxes: {len(self.boxes)}, labels of shape {tuple(self.labels.shape)}; give one label per box"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Tensor) -> Instances:
        """The objects selected by ``index``, a bool mask or integer indices."""
        crowd = None if self.crowd is None else self.crowd[index]
        masks = None if self.masks is None else self.masks[index]
        return Instances(self.boxes[index], self.labels[index], crowd, masks)

    def without_crowd(self) -> Instances:
        """The objects that can be targets: all but crowd regions."""
        return self if self.crowd is None else self[~self.crowd]


@dataclass
class Batch(_Movable):
    """Images padded to one size.

    Attributes:
        images: (B, 3, H, W) float, raw RGB 0-255. Padding values do not matter: detectors replace them by zeros after
            normalization.
        sizes: (height, width) of each image without padding, in pixels; B entries.
        instances: the objects of each image, or None for images without annotations.
        meta: free-form information about each image, e.g. ``image_id``, ``file_name`` and ``original_size`` (height,
            width), the size that detections are scaled back to; or None.
        unlabeled: further images without annotations, of another size, or None. Only a :class:`pkdzoo.Distiller` uses
            them; a detector's own losses, and ``len(batch)``, are of ``images`` alone.

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
    unlabeled: Batch | None = None

    def __post_init__(self) -> None:
        if self.unlabeled is not None and self.unlabeled.instances is not None:
            raise ValueError("Batch.unlabeled has instances: put labeled images into the batch itself")
        if self.images.ndim != 4:
            raise ValueError(f"images must be (B, 3, H, W) raw RGB 0-255, got {tuple(self.images.shape)}")
        self.sizes = [(int(h), int(w)) for h, w in self.sizes]
        count, _, height, width = self.images.shape
        for name, rows in (("sizes", self.sizes), ("instances", self.instances), ("meta", self.meta)):
            if rows is not None and len(rows) != count:
                raise ValueError(f"images: {count}, {name}: {len(rows)}; give one per image")
        for h, w in self.sizes:
            if not (0 < h <= height and 0 < w <= width):
                raise ValueError(
                    f"an image of {h} x {w} does not fit into a batch of {height} x {width}; sizes are (height, width)"
                )

    def __len__(self) -> int:
        return len(self.images)


@dataclass
class FeaturePyramid(_Movable):
    """Feature maps of decreasing resolution.

    Attributes:
        levels: L tensors (B, channels, h, w), finest first.
        strides: stride of each level in pixels: the distance between neighboring locations in the image.
        before_norm: the L outputs of the neck's last convolutions, before their norm and activation, which some
            distillation methods compare; without a norm they are the levels themselves. Empty if the neck of another
            library gives none.
        backbone: the maps of the backbone that the neck was given, finest first; empty if they are not known.

    Example:
        >>> import torch, pkdzoo
        >>> model = pkdzoo.create_detector("retina_r10w16")
        >>> pyramid = model.extract_features(pkdzoo.Batch(torch.rand(1, 3, 64, 96) * 255, [(64, 96)]))
        >>> pyramid.strides, pyramid.sizes
        ((8, 16, 32, 64, 128), [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)])
    """

    levels: list[Tensor]
    strides: tuple[int, ...]
    before_norm: list[Tensor] = field(default_factory=list)
    backbone: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.strides):
            raise ValueError(f"levels: {len(self.levels)}, strides: {len(self.strides)}; give one stride per level")

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(h, w) of each level."""
        return [(level.shape[-2], level.shape[-1]) for level in self.levels]


@dataclass
class Priors(_Movable):
    """The priors of a dense head: anchors, or points stored as boxes one stride wide.

    Attributes:
        boxes: (P, 4) xyxy in pixels; a point is the center of its box.
        strides: (P,) float, stride of each prior's level in pixels.
        counts: number of priors of each level, ``sum(counts) == P``.
    """

    boxes: Tensor
    strides: Tensor
    counts: list[int]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def centers(self) -> Tensor:
        """(P, 2) x and y of each prior's center, in pixels."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2

    def take(self, index: Tensor) -> Priors:
        """The priors selected by ``index``, in its order, as one level."""
        boxes = self.boxes[index]
        return Priors(boxes, self.strides[index], [len(boxes)])


@dataclass
class HeadOutputs(_Movable):
    """Outputs of a dense head at each level, before decoding.

    Attributes:
        cls: L tensors (B, A*C, h, w), class logits (TOOD: probabilities).
        box: L tensors (B, A*D, h, w), D values per prior. Their meaning depends on the detector (deltas, distances,
            distributions); its ``decode`` turns them into boxes.
        quality: L tensors (B, A, h, w), centerness logits; an empty list for heads without them.
        extra: further maps by name (RepPoints: the boxes of the first points); empty for most heads.
    """

    cls: list[Tensor]
    box: list[Tensor]
    quality: list[Tensor] = field(default_factory=list)
    extra: dict[str, list[Tensor]] = field(default_factory=dict)


@dataclass
class DenseTargets(_Movable):
    """Targets of every prior of a batch. A positive prior is one that is matched to an object.

    Attributes:
        labels: (B, P) int64: ``0 .. C-1`` the class, ``C`` background, ``-1`` ignored.
        boxes: (B, P, 4) xyxy of the matched object; rows of other priors are undefined.
        quality: (B, P) float, how well a prior fits its object (centerness, alignment, IoU). Methods without such a
            measure have 1 for positives and 0 for all others.
        num_pos: () float, number of positives, as the losses are normalized by it.
        matched: (B, P) int64, index of the matched object, -1 for all other priors.
    """

    labels: Tensor
    boxes: Tensor
    quality: Tensor
    num_pos: Tensor
    matched: Tensor | None = None


@dataclass
class Detections(_Movable):
    """Detections of one image, highest score first.

    Attributes:
        boxes: (N, 4) xyxy in pixels of the image.
        scores: (N,) in 0..1.
        labels: (N,) int64 in ``0 .. C-1``.
        masks: (N, height, width) bool, masks pasted into the image; or None.
        mask_probabilities: (N, m, m) in 0..1, probabilities on a grid over each box, or None for detectors without
            masks. ``ops.masks.paste_masks(mask_probabilities, boxes, size)`` gives ``masks`` for an image of any size.

    Example:
        >>> import torch, pkdzoo
        >>> detections = pkdzoo.Detections(torch.rand(3, 4), torch.tensor([0.9, 0.6, 0.2]), torch.tensor([0, 2, 0]))
        >>> len(detections[detections.scores > 0.5])
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
