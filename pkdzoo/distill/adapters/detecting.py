"""Teachers of other libraries as detectors, to evaluate them on the classes of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torchvision
from torch import Tensor

from pkdzoo.distill.adapters.torchvision_student import KINDS, TorchvisionStudent
from pkdzoo.distill.adapters.transformers import FAMILIES
from pkdzoo.distill.adapters.transformers_student import TransformersStudent
from pkdzoo.distill.student_base import ModuleStudent
from pkdzoo.distill.teacher import Teacher
from pkdzoo.models.detector import Detector
from pkdzoo.structures import Batch, Detections, PostProcess


class RelabeledDetector(Detector):
    """A detector whose detections have the labels of other class names; those of further classes are left out.

    Args:
        detector: whose ``label_names`` contain all of them.
        label_names: class names of the detections.
    """

    numbers: Tensor

    def __init__(self, detector: Detector, label_names: Sequence[str]) -> None:
        super().__init__(
            detector.backbone, detector.neck, len(label_names), resize=detector.resize, letterbox=detector.letterbox
        )
        self.resizes_itself = detector.resizes_itself
        self.detector, self.name, self.label_names = detector, detector.name, tuple(label_names)
        numbers = [self.label_names.index(name) if name in self.label_names else -1 for name in detector.label_names]
        self.register_buffer("numbers", torch.tensor(numbers), persistent=False)

    @torch.inference_mode()
    def detect(self, batch: Batch, config: PostProcess | None = None) -> list[Detections]:
        """Detections of the known classes, in pixels of ``batch.images``."""
        found = []
        for row in self.detector.detect(batch, config):
            labels = self.numbers[row.labels]
            keep = labels >= 0
            found.append(Detections(row.boxes[keep], row.scores[keep], labels[keep]))
        return found


def detecting_teacher(teacher: Detector, label_names: Sequence[str]) -> Detector:
    """A teacher as a detector of the classes of the data: of this package as it is, of another library relabeled.

    Args:
        teacher: with its weights.
        label_names: class names of the data. A teacher whose class names are unknown has them if it has as many.

    Raises:
        ValueError: for a teacher that gives maps and no detections.
    """
    if not isinstance(teacher, Teacher):
        return teacher
    detector = _detector_of(teacher)
    if detector is None:
        raise ValueError(
            f"{teacher.name} gives maps and no detections here: a RetinaNet, FCOS or Faster R-CNN of torchvision and "
            "an RT-DETR or D-FINE of transformers give them. Leave --check-teacher out"
        )
    own = _names_of(teacher, detector)
    if own is None and detector.num_classes == len(label_names):
        own = tuple(label_names)
    if own is not None:
        detector.label_names = own
    if not set(label_names) <= set(detector.label_names):
        return detector
    return RelabeledDetector(detector, label_names).eval()


def _detector_of(teacher: Teacher) -> ModuleStudent | None:
    net: Any = teacher.backbone
    if type(net) in KINDS:
        student = TorchvisionStudent(net)
        student.resize = (int(net.transform.min_size[-1]), int(net.transform.max_size))  # as the library resizes
        return student
    kind = str(getattr(getattr(net, "config", None), "model_type", ""))
    if kind in FAMILIES and FAMILIES[kind].learns and teacher.input_size is not None:
        mean, std = (part.flatten().tolist() for part in (teacher.pixel_mean, teacher.pixel_std))
        own = TransformersStudent(net, teacher.input_size, mean, std)
        own.resizes_itself = True  # as its image processor does: a size before it would blur the image
        return own
    return None


def _names_of(teacher: Teacher, detector: ModuleStudent) -> tuple[str, ...] | None:
    """Class names of the weights; None if they are unknown."""
    net: Any = teacher.backbone
    if isinstance(detector, TransformersStudent):
        return tuple(str(net.config.id2label[i]) for i in range(detector.num_classes))
    arch, _, tag = (
        (teacher.origin.name if teacher.origin is not None else "").removeprefix("torchvision:").partition(".")
    )
    if arch not in torchvision.models.list_models() or not tag:
        return None
    names = torchvision.models.get_model_weights(arch)[tag.upper()].meta["categories"]
    names = names[1:] if detector.two_stage else names  # class 0 is the background
    return cast("tuple[str, ...]", tuple(names)) if len(names) == detector.num_classes else None
