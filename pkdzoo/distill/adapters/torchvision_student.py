"""Detectors of torchvision as students: RetinaNet, FCOS and Faster R-CNN, trained by their own losses.

The parts of ``net.forward`` are called one by one, so that the maps are at hand; the net's own resizing is left out,
because a batch has its size already. Losses, assignment and detections are the library's. Checked with
torchvision 0.29.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.image_list import ImageList

from pkdzoo.distill.student_base import ModuleStudent
from pkdzoo.hub.files import save_folder
from pkdzoo.models._eval_mode import eval_mode
from pkdzoo.structures import Batch, Detections, Instances, PostProcess

KINDS = (RetinaNet, FCOS, FasterRCNN)
THRESHOLDS = ("score_thresh", "nms_thresh", "detections_per_img")


class TorchvisionStudent(ModuleStudent):
    """A detector of torchvision.

    Args:
        net: the detector.
        name: under which ``torchvision.models`` builds it, and the arguments for that, so that a saved one can be built
            again.
        args: see ``name``.
    """

    has_features_alone = True

    def __init__(self, net: Any, name: str = "", args: Mapping[str, Any] | None = None) -> None:
        if type(net) not in KINDS:  # Mask R-CNN, whose targets are masks, is a kind of Faster R-CNN
            raise ValueError(
                f"torchvision's {type(net).__name__} cannot be a student: a RetinaNet, FCOS or Faster R-CNN can"
            )
        self.is_two_stage = isinstance(net, FasterRCNN)
        classes = (
            net.roi_heads.box_predictor.cls_score.out_features - 1
            if self.is_two_stage
            else net.head.classification_head.num_classes
        )
        mean, std = ([255 * value for value in part] for part in (net.transform.image_mean, net.transform.image_std))
        super().__init__(net, classes, mean, std)
        self.two_stage = self.is_two_stage
        self.built = {"architecture": name or None, "args": dict(args or {})}
        self.name = f"torchvision:{name}" if name else type(net).__name__
        part = self.detecting_part
        self.postprocess_config = PostProcess(
            part.score_thresh, getattr(part, "topk_candidates", 1000), part.nms_thresh, part.detections_per_img
        )

    @property
    def detecting_part(self) -> Any:
        """The part that holds the thresholds of detection."""
        net: Any = self.backbone
        return net.roi_heads if self.is_two_stage else net

    def losses_and_maps(
        self, batch: Batch, instances: list[Instances]
    ) -> tuple[Mapping[str, Tensor], Sequence[Tensor]]:
        """The library's losses, and the maps of its FPN."""
        net: Any = self.backbone
        images, maps = self._maps(batch)
        first = int(self.is_two_stage)  # class 0 of a Faster R-CNN is the background
        targets = [{"boxes": objects.boxes, "labels": objects.labels + first} for objects in instances]
        if self.is_two_stage:
            # the flag by which torchvision decides between losses and detections, without that of the norms below
            rpn, roi_heads = (_changed(part, training=True) for part in (net.rpn, net.roi_heads))
            proposals, losses = rpn(images, maps, targets)
            losses = {**losses, **roi_heads(maps, proposals, images.image_sizes, targets)[1]}
        else:
            losses = net.compute_loss(targets, *self._head(images, list(maps.values())))
        return {f"loss_{name.removeprefix('loss_')}": value for name, value in losses.items()}, list(maps.values())

    def maps(self, batch: Batch) -> Sequence[Tensor]:
        """The maps of the library's FPN; its head does not run."""
        return list(self._maps(batch)[1].values())

    @torch.inference_mode()
    def detect(self, batch: Batch, config: PostProcess | None = None) -> list[Detections]:
        """The library's detections of each image in pixels of ``batch.images``."""
        net: Any = self.backbone
        with eval_mode(self):
            part = self._detecting_part_with(config)
            images, maps = self._maps(batch)
            if self.is_two_stage:
                proposals, _ = net.rpn(images, maps)
                found = part(maps, proposals, images.image_sizes)[0]
            else:
                found = self._detect_dense(part, images, list(maps.values()))
        first = int(self.is_two_stage)
        return [_sorted(row["boxes"], row["scores"], row["labels"] - first) for row in found]

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the library's own state dict as ``model.safetensors``, and how the detector is built as config.json."""
        config = {
            "library_name": "torchvision",
            **self.built,
            "num_classes": self.num_classes,
            "label_names": list(self.label_names),
            "id2label": {str(i): name for i, name in enumerate(self.label_names)},
            "resize": list(self.resize),
        }
        return save_folder(folder, self.backbone.state_dict(), config)

    def _maps(self, batch: Batch) -> tuple[ImageList, dict[str, Tensor]]:
        images = self.normalize(batch)
        net: Any = self.backbone
        return ImageList(images, [(int(h), int(w)) for h, w in batch.sizes]), net.backbone(images)

    def _head(self, images: ImageList, maps: list[Tensor]) -> tuple[Any, ...]:
        """Arguments of ``compute_loss`` after the targets."""
        net: Any = self.backbone
        outputs, anchors = net.head(maps), net.anchor_generator(images, maps)
        locations = [level.shape[-2] * level.shape[-1] for level in maps]
        return (outputs, anchors, locations) if isinstance(net, FCOS) else (outputs, anchors)

    def _detecting_part_with(self, config: PostProcess | None) -> Any:
        if config is None:
            return self.detecting_part
        thresholds = (config.score_threshold, config.nms_threshold, config.max_detections)
        return _changed(self.detecting_part, **dict(zip(THRESHOLDS, thresholds)))

    def _detect_dense(self, net: Any, images: ImageList, maps: list[Tensor]) -> list[dict[str, Tensor]]:
        outputs, anchors = self._head(images, maps)[:2]
        locations = [level.shape[-2] * level.shape[-1] for level in maps]
        per_location = outputs["cls_logits"].shape[1] // sum(locations)
        counts = [count * per_location for count in locations]
        split = {name: list(value.split(counts, dim=1)) for name, value in outputs.items()}
        rows: list[dict[str, Tensor]] = net.postprocess_detections(
            split, [list(a.split(counts)) for a in anchors], images.image_sizes
        )
        return rows


def _sorted(boxes: Tensor, scores: Tensor, labels: Tensor) -> Detections:
    order = scores.argsort(descending=True)
    return Detections(boxes[order], scores[order], labels[order])


def _changed(part: Any, **attributes: Any) -> Any:
    """A detector of torchvision, or a part of it, with other values of plain attributes.

    It is a shallow copy with the same layers. The part itself stays as it is, because other threads may use it.
    """
    other = copy.copy(part)
    for name, value in attributes.items():
        setattr(other, name, value)
    return other
