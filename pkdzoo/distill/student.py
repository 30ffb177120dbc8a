"""Wraps any module that gives its losses and its maps as a student, for a Distiller and for the training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from pkdzoo.distill.adapters.torchvision_student import TorchvisionStudent
from pkdzoo.distill.adapters.transformers_student import TransformersStudent
from pkdzoo.distill.student_base import ModuleStudent
from pkdzoo.models._eval_mode import eval_mode
from pkdzoo.ops.nms import suppress
from pkdzoo.structures import Batch, Detections, Instances, PostProcess

Forward = Callable[[nn.Module, Tensor, list[Instances]], tuple[Mapping[str, Tensor], Sequence[Tensor]]]
Detect = Callable[[nn.Module, Tensor, list[tuple[int, int]]], list[Detections]]


class Student(ModuleStudent):
    """Wraps a module of any origin so that it learns from a teacher's maps beside its own losses.

    Args:
        module: the network.
        forward: called as ``forward(module, images, instances)`` with normalized images (B, 3, H, W), whose padding is
            zero, and the objects of each image, without crowds; returns weighted losses by name and a list of maps
            (B, C, h, w), finest first. It is called in training mode and, before training, in eval mode.
        detect: called as ``detect(module, images, sizes)`` with the (height, width) of each image inside its padding;
            returns :class:`pkdzoo.Detections` of each image, in pixels. Needed for evaluation alone.
        num_classes: C; labels of objects are ``0 .. C-1``.
        mean: mean of each channel, of raw pixels 0-255.
        std: standard deviation of each channel, likewise; the defaults give pixels of 0-1.
        channel_order: ``rgb`` or ``bgr``.
        strides: of each map, in pixels; None: measured by a pass over a gray image of 256 x 384 (height x width).

    Raises:
        ValueError: for a forward that returns no losses, and for maps that are not (B, C, h, w), finest first.

    Example:
        >>> import pkdzoo, torch
        >>> net = torch.nn.Conv2d(3, 64, 8, stride=8)
        >>> def forward(net, images, instances):
        ...     maps = net(images)
        ...     return {"loss_mine": maps.square().mean()}, [maps]
        >>> student = pkdzoo.Student(net, forward)
        >>> distiller = pkdzoo.Distiller(student, pkdzoo.create_detector("retina_r10w16"), {"pkd": {}})
        >>> target = pkdzoo.Instances(torch.tensor([[10.0, 10.0, 60.0, 50.0]]), torch.tensor([0]))
        >>> sorted(distiller(pkdzoo.Batch(torch.rand(1, 3, 64, 96) * 255, [(64, 96)], [target])))
        ['loss_mine', 'loss_pkd']
    """

    def __init__(
        self,
        module: nn.Module,
        forward: Forward,
        detect: Detect | None = None,
        num_classes: int = 1,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (255.0, 255.0, 255.0),
        channel_order: Literal["rgb", "bgr"] = "rgb",
        strides: Sequence[int] | None = None,
    ) -> None:
        self.run, self.run_detect = forward, detect
        super().__init__(module, num_classes, mean, std, channel_order, strides)

    @staticmethod
    def torchvision(net: nn.Module, label_names: Sequence[str] | None = None) -> ModuleStudent:
        """A RetinaNet, FCOS or Faster R-CNN of torchvision as a student.

        Args:
            net: the detector; a Faster R-CNN for C classes has ``num_classes=C + 1``, the others have C.
            label_names: class names.

        Raises:
            ValueError: for other detectors.

        Example:
            >>> import pkdzoo, torchvision
            >>> net = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
            ...     weights=None, weights_backbone=None, num_classes=4)
            >>> student = pkdzoo.Student.torchvision(net)
            >>> student.num_classes, student.pyramid_shape.strides
            (3, (32, 32, 64))
        """
        return TorchvisionStudent(net).with_labels(label_names)

    @staticmethod
    def transformers(
        net: nn.Module, input_size: tuple[int, int] = (640, 640), label_names: Sequence[str] | None = None
    ) -> ModuleStudent:
        """An RT-DETR, RT-DETRv2 or D-FINE of transformers as a student.

        Args:
            net: the detector, ``...ForObjectDetection``.
            input_size: (height, width) in pixels that every image is squashed to.
            label_names: class names.

        Raises:
            ValueError: for other models.
        """
        return TransformersStudent(net, input_size).with_labels(label_names)

    def losses_and_maps(
        self, batch: Batch, instances: list[Instances]
    ) -> tuple[Mapping[str, Tensor], Sequence[Tensor]]:
        """What ``forward`` returns for the normalized images."""
        return self.run(self.backbone, self.normalize(batch), instances)

    @torch.inference_mode()
    def detect(self, batch: Batch, config: PostProcess | None = None) -> list[Detections]:
        """Detections of each image in pixels of ``batch.images``.

        Raises:
            ValueError: for a student without ``detect``.
        """
        if self.run_detect is None:
            raise ValueError(
                "this pkdzoo.Student gives no detections: write pkdzoo.Student(module, forward, "
                "detect=...) to evaluate it"
            )
        with eval_mode(self):
            found = self.run_detect(self.backbone, self.normalize(batch), list(batch.sizes))
        if config is None:
            return found
        merges = config.nms_threshold < self.postprocess_config.nms_threshold  # a higher one cannot bring boxes back
        return [limited(suppress(d, config.nms_threshold, len(d)) if merges else d, config) for d in found]

    def save_pretrained(self, folder: str | Path) -> Path:
        """Adapters of libraries save as their library does.

        Raises:
            ValueError: for a module of unknown origin.
        """
        raise ValueError("a pkdzoo.Student of your own module is saved by you: torch.save(module.state_dict(), path)")


def limited(found: Detections, config: PostProcess) -> Detections:
    """The best detections above a threshold, at most as many as wanted."""
    found = found[found.scores.argsort(descending=True, stable=True)]
    return found[found.scores > config.score_threshold][: config.max_detections]
