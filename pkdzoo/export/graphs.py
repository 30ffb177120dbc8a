"""Detectors as graphs of tensors, in which every shape follows from the shapes of the inputs.

Backbone, neck, heads and decoding are the detector's own. Only the selection of detections differs: it runs for the
whole batch at once, and every image has the maximum number of rows, since a graph has no lists of different lengths.

The inputs of every graph are

    images  (B, 3, H, W) uint8, RGB, padded at the right and the bottom; H and W multiples of 32
    sizes   (B, 2) int64, (height, width) of each image inside the padding
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from pkdzoo.export.nms import INVALID, survivors
from pkdzoo.models.cascade_rcnn import CascadeMaskRCNN
from pkdzoo.models.dense import DenseDetector
from pkdzoo.models.detector import Detector
from pkdzoo.models.mask_rcnn import MaskRCNN
from pkdzoo.models.two_stage import BoxHead, RegionDetector, TwoStageDetector
from pkdzoo.ops.boxes import decode_deltas, has_area
from pkdzoo.ops.levels import flatten_level
from pkdzoo.ops.rois import roi_levels
from pkdzoo.structures import FeaturePyramid, HeadOutputs, PostProcess, Priors

What = Literal["features", "dense", "detections"]
WHAT: tuple[What, ...] = ("features", "dense", "detections")


@dataclass
class TopRows:
    """The best rows of every image, best first; rows beyond ``counts`` are empty.

    Attributes:
        boxes: (B, K, 4) xyxy; zeros in empty rows.
        scores: (B, K); zeros in empty rows.
        labels: (B, K) int64; -1 in empty rows.
        counts: (B,) int64, number of rows that are not empty.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    counts: Tensor


class Graph(nn.Module):
    """Base class of all graphs.

    Args:
        model: the detector.

    Attributes:
        outputs: names of the tensors that ``forward`` returns.
    """

    outputs: tuple[str, ...] = ()

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def pyramid(self, images: Tensor, sizes: Tensor) -> FeaturePyramid:
        """The feature pyramid of the normalized images, whose padding is zero."""
        pixels = self.model.blank_padding(self.model.standardize(images.float()), sizes)
        return cast(FeaturePyramid, self.model.neck(self.model.backbone(pixels)))


class FeatureGraph(Graph):
    """Backbone and neck: the levels of the pyramid, finest first, each (B, channels, H / stride, W / stride)."""

    def __init__(self, model: Detector) -> None:
        super().__init__(model)
        self.outputs = tuple(f"stride_{stride}" for stride in model.neck.strides)  # type: ignore[union-attr]

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.pyramid(images, sizes).levels)


class DenseGraph(Graph):
    """Predictions of a dense detector for all priors, without NMS: boxes (B, P, 4) and scores (B, P, C)."""

    outputs: tuple[str, ...] = ("boxes", "scores")

    def __init__(self, model: DenseDetector) -> None:
        super().__init__(model)
        self.dense = model

    def levels(self, images: Tensor, sizes: Tensor) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """Boxes (B, p, 4), class scores (B, p, C) and quality (B, p) of each level; None where a head has none."""
        model, features = self.dense, self.pyramid(images, sizes)
        outputs, _ = cast(tuple[HeadOutputs, None], model.head(features.levels, None))
        priors, start, rows = model.make_priors(features), 0, []
        for i, count in enumerate(priors.counts):
            own = Priors(priors.boxes[start : start + count], priors.strides[start : start + count], [count])
            start += count
            box = model.decode(flatten_level(outputs.box[i], model.box_channels).float(), own)
            cls = model.class_scores(flatten_level(outputs.cls[i], model.num_classes)).float()
            quality = None if not outputs.quality else flatten_level(outputs.quality[i], 1)[..., 0].sigmoid()
            rows.append((box, cls, quality))
        return rows

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        levels = self.levels(images, sizes)
        scores = [cls if quality is None else cls * quality[..., None] for _, cls, quality in levels]
        return clip(torch.cat([box for box, _, _ in levels], dim=1), sizes), torch.cat(scores, dim=1)


class DenseDetections(DenseGraph):
    """Detections of a dense detector: the best candidates of each level, NMS, then the best of all levels.

    Args:
        model: the detector.
        config: thresholds.
        lowest: only detections with a higher score are returned.
    """

    outputs: tuple[str, ...] = ("boxes", "scores", "labels", "counts")

    def __init__(self, model: DenseDetector, config: PostProcess, lowest: float = INVALID) -> None:
        super().__init__(model)
        self.postprocess_config, self.lowest = config, lowest

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        model, config = self.dense, self.postprocess_config
        parts = [self.candidates(*level) for level in self.levels(images, sizes)]
        boxes, scores, labels = (torch.cat(part, dim=1) for part in zip(*parts))
        if model.top_k_of_all_levels:
            scores, index = scores.topk(torch.sym_min(config.pre_nms_top_k, scores.shape[1]), dim=1)
            boxes, labels = rows_of(boxes, index), labels.gather(1, index)
        if model.clip_before_nms:
            boxes = clip(boxes, sizes)
        if not model.keeps_empty_boxes:  # boxes outside the image have no area after clipping
            scores = torch.where(has_area(boxes), scores, INVALID)
        classes = torch.arange(model.num_classes, device=labels.device)[:, None]
        by_class = torch.where(labels[:, None] == classes, scores[:, None], INVALID)  # (B, C, N)
        kept = survivors(boxes, by_class, config.nms_threshold).any(dim=1)
        rows = best(clip(boxes, sizes), torch.where(kept, scores, INVALID), labels, config.max_detections, self.lowest)
        return rows.boxes, rows.scores, rows.labels, rows.counts

    def candidates(self, boxes: Tensor, cls: Tensor, quality: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (B, k, 4), scores (B, k) and labels (B, k) of the best pairs of prior and class of one level."""
        flat = cls.flatten(1)
        values, pairs = flat.topk(torch.sym_min(self.postprocess_config.pre_nms_top_k, flat.shape[1]), dim=1)
        prior, label = pairs.div(cls.shape[2], rounding_mode="floor"), pairs % cls.shape[2]
        scores = values if quality is None else values * quality.gather(1, prior)
        return (
            rows_of(boxes, prior),
            torch.where(values > self.postprocess_config.score_threshold, scores, INVALID),
            label,
        )


class TwoStageDetections(Graph):
    """Detections of a two-stage detector.

    Args:
        model: the detector.
        config: thresholds.
        lowest: only detections with a higher score are returned.
    """

    outputs: tuple[str, ...] = ("boxes", "scores", "labels", "counts")

    def __init__(self, model: RegionDetector, config: PostProcess, lowest: float = INVALID) -> None:
        super().__init__(model)
        self.stages = model
        self.postprocess_config, self.lowest = config, lowest

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        features = self.pyramid(images, sizes)
        rows = self.detect(features, self.propose(features, sizes), sizes)
        return rows.boxes, rows.scores, rows.labels, rows.counts

    def propose(self, features: FeaturePyramid, sizes: Tensor) -> TopRows:
        """Proposals of the RPN."""
        model, proposing = self.stages, self.stages.test_proposing
        outputs, priors = model.rpn(features.levels), model.make_anchors(features)
        boxes, scores, start = [], [], 0
        for cls, box, count in zip(outputs.cls, outputs.box, priors.counts):
            logits = flatten_level(cls, 1)[..., 0].float()  # (B, p)
            values, index = logits.topk(torch.sym_min(proposing.pre_nms_top_k, logits.shape[1]), dim=1)
            deltas, anchors = rows_of(flatten_level(box, 4).float(), index), priors.boxes[start : start + count][index]
            start += count
            own = clip(decode_deltas(deltas, anchors), sizes)
            valid = torch.where(has_area(own), values.sigmoid(), INVALID)
            kept = survivors(own, valid[:, None], proposing.nms_threshold)[:, 0]
            boxes.append(own)
            scores.append(torch.where(kept, valid, INVALID))
        all_boxes, all_scores = torch.cat(boxes, dim=1), torch.cat(scores, dim=1)
        top = torch.sym_min(proposing.max_proposals, all_scores.shape[1])
        return best(all_boxes, all_scores, torch.zeros_like(all_scores, dtype=torch.int64), top)

    def detect(self, features: FeaturePyramid, regions: TopRows, sizes: Tensor) -> TopRows:
        """Classify and refine the proposals."""
        assert isinstance(self.stages, TwoStageDetector)
        head = self.stages.box_head
        cls, deltas = head(self.pool(features, regions.boxes, head.size))
        return self.select(head, cls, deltas, regions, sizes)

    def select(self, head: BoxHead, cls: Tensor, deltas: Tensor, regions: TopRows, sizes: Tensor) -> TopRows:
        """The best detections of a head's logits (B * R, C+1) and deltas (B * R, C or 1, 4)."""
        config, (batch, count) = self.postprocess_config, regions.scores.shape
        scores = cls.softmax(dim=1)[:, :-1].reshape(batch, count, -1)  # the last class is the background
        boxes = self.decode(head, deltas, regions, sizes).transpose(1, 2)  # (B, C or 1, R, 4)
        boxes = boxes.expand(-1, self.stages.num_classes, -1, -1)
        valid = (regions.labels >= 0)[..., None] & (scores > config.score_threshold)
        by_class = torch.where(valid, scores, INVALID).transpose(1, 2)  # (B, C, R)
        # every class has its own boxes, so each class is a group of its own
        kept = survivors(boxes.flatten(0, 1), by_class.flatten(0, 1)[:, None], config.nms_threshold)
        left = torch.where(kept.reshape(by_class.shape), by_class, INVALID)
        labels = torch.arange(self.stages.num_classes, device=boxes.device)[:, None].expand(by_class.shape)
        return best(boxes.flatten(1, 2), left.flatten(1), labels.flatten(1), config.max_detections, self.lowest)

    @staticmethod
    def decode(head: BoxHead, deltas: Tensor, regions: TopRows, sizes: Tensor) -> Tensor:
        """Boxes (B, R, C or 1, 4) inside the image from the deltas (B * R, C or 1, 4) of regions."""
        batch, count = regions.scores.shape
        decoded = decode_deltas(deltas.reshape(batch, count, -1, 4), regions.boxes[:, :, None], head.stds)
        return clip(decoded.flatten(1, 2), sizes).reshape(batch, count, -1, 4)

    def pool(self, features: FeaturePyramid, boxes: Tensor, size: int) -> Tensor:
        """RoIAlign of boxes (B, R, 4), each at the level for its size: (B * R, channels, size, size).

        As :func:`pkdzoo.ops.rois.pool_rois`, but every box is pooled at every level, and the results of all but its own
        are set to zero, so that no shape depends on the data. At the other levels, and for the boxes of empty rows, a
        box of one pixel takes its place: OpenVINO returns NaN for an empty box with an adaptive number of samples.
        """
        batch, count, _ = boxes.shape
        image = torch.arange(batch, device=boxes.device)[:, None, None].expand(batch, count, 1).float()
        image, boxes = image.flatten(0, 1), boxes.flatten(0, 1)
        chosen, pixel = roi_levels(boxes, self.stages.roi_levels), boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
        pooled = torch.zeros(())
        for i in range(self.stages.roi_levels):
            own = (chosen == i) & has_area(boxes)
            rois = torch.cat([image, torch.where(own[:, None], boxes, pixel)], dim=1)
            scale = 1.0 / features.strides[i]
            part = roi_align(features.levels[i], rois, size, scale, sampling_ratio=0, aligned=True)
            pooled = pooled + torch.where(own[:, None, None, None], part, 0.0)
        return pooled


class MaskDetections(TwoStageDetections):
    """Detections with masks: ``masks`` (B, top, 28, 28) are probabilities inside each box."""

    outputs = (*TwoStageDetections.outputs, "masks")

    def __init__(self, model: MaskRCNN, config: PostProcess, lowest: float = INVALID) -> None:
        super().__init__(model, config, lowest)
        self.with_masks = model

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        features = self.pyramid(images, sizes)
        rows = self.detect(features, self.propose(features, sizes), sizes)
        head = self.with_masks.mask_head
        logits = head(self.pool(features, rows.boxes, head.size), rows.labels.flatten().clamp(min=0))
        masks = logits.sigmoid().reshape(*rows.labels.shape, *logits.shape[1:])
        return rows.boxes, rows.scores, rows.labels, rows.counts, masks


class CascadeDetections(TwoStageDetections):
    """Detections with masks of a cascade: the mean of its stages' logits, and of its mask heads' probabilities."""

    outputs = (*TwoStageDetections.outputs, "masks")

    def __init__(self, model: CascadeMaskRCNN, config: PostProcess, lowest: float = INVALID) -> None:
        super().__init__(model, config, lowest)
        self.cascade = model

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        features = self.pyramid(images, sizes)
        rows = self.detect(features, self.propose(features, sizes), sizes)
        heads = [head for _, head in self.cascade.stages]
        pooled, labels = self.pool(features, rows.boxes, heads[0].size), rows.labels.flatten().clamp(min=0)
        masks = torch.stack([head(pooled, labels).sigmoid() for head in heads]).mean(dim=0)
        return rows.boxes, rows.scores, rows.labels, rows.counts, masks.reshape(*rows.labels.shape, *masks.shape[1:])

    def detect(self, features: FeaturePyramid, regions: TopRows, sizes: Tensor) -> TopRows:
        """Classify and refine the proposals stage by stage."""
        logits = []
        heads = [head for head, _ in self.cascade.stages]
        for head in heads[:-1]:
            cls, deltas = head(self.pool(features, regions.boxes, head.size))
            logits.append(cls)
            refined = self.decode(head, deltas, regions, sizes)[:, :, 0]
            regions = TopRows(refined, regions.scores, regions.labels, regions.counts)
        cls, deltas = heads[-1](self.pool(features, regions.boxes, heads[-1].size))
        mean = torch.stack([*logits, cls]).mean(dim=0)
        return self.select(heads[-1], mean, deltas, regions, sizes)


def rows_of(rows: Tensor, index: Tensor) -> Tensor:
    """Select rows of (B, P, D) by an index (B, k): (B, k, D)."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[2]))


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Clip boxes (B, N, 4) to images of ``sizes`` (B, 2): :func:`pkdzoo.ops.boxes.clip_boxes` for a batch."""
    limit = sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limit)


def best(boxes: Tensor, scores: Tensor, labels: Tensor, top: int | torch.SymInt, lowest: float = INVALID) -> TopRows:
    """Select the ``top`` best rows of every image with scores above ``lowest``; rows with a negative score are invalid.

    Args:
        boxes: (B, N, 4) xyxy.
        scores: (B, N).
        labels: (B, N) int64.
        top: number of rows of the result, also where N is smaller.
        lowest: 0..1, or negative for no limit.
    """
    spare = scores.new_full((scores.shape[0], 1), INVALID).expand(-1, top)
    values, index = torch.cat([scores, spare], dim=1).topk(top, dim=1)
    index = index.clamp(max=scores.shape[1] - 1)
    valid = (values >= 0) & (values > lowest)
    return TopRows(
        torch.where(valid[..., None], rows_of(boxes, index), 0.0),
        torch.where(valid, values, 0.0),
        torch.where(valid, labels.gather(1, index), -1),
        valid.sum(dim=1),
    )


def build_graph(model: Detector, what: What, lowest: float | None = None) -> Graph:
    """Make the graph of a detector.

    Args:
        model: in eval mode; its ``postprocess_config`` has the thresholds.
        what: ``features``, ``dense`` or ``detections``.
        lowest: only detections with a higher score are returned; applies in addition to the threshold of class scores.

    Raises:
        ValueError: an unknown ``what``, or one that this kind of detector does not have.

    Example:
        >>> import pkdzoo
        >>> from pkdzoo.export import build_graph
        >>> build_graph(pkdzoo.create_detector("retina_r10w16").eval(), "features").outputs
        ('stride_8', 'stride_16', 'stride_32', 'stride_64', 'stride_128')
    """
    if what not in WHAT:
        raise ValueError(f"what={what!r}: write one of {', '.join(map(repr, WHAT))}")
    if not model.has_graph:
        raise ValueError(f"{model.name} belongs to another library: export it as that library does")
    if what == "features":
        return FeatureGraph(model)
    limit = INVALID if lowest is None else lowest
    if isinstance(model, DenseDetector):
        return DenseGraph(model) if what == "dense" else DenseDetections(model, model.postprocess_config, limit)
    if not isinstance(model, RegionDetector):
        raise ValueError(f"a {type(model).__name__} has no graph of detections: write 'features'")
    if what == "dense":
        raise ValueError(f"{model.name} is a two-stage detector, not a dense one: write 'detections' or 'features'")
    if isinstance(model, CascadeMaskRCNN):
        return CascadeDetections(model, model.postprocess_config, limit)
    kind = MaskDetections if isinstance(model, MaskRCNN) else TwoStageDetections
    return kind(model, model.postprocess_config, limit)  # type: ignore[arg-type]
