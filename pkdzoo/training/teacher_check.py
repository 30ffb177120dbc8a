"""``--check-teacher``: evaluates a teacher on a few validation images before the first step."""

from __future__ import annotations

from typing import cast

from accelerate import Accelerator
from torch.utils.data import Subset

from pkdzoo.data import CocoDataset
from pkdzoo.distill.adapters.detecting import detecting_teacher
from pkdzoo.models._registry import get_weights, is_detector
from pkdzoo.models.detector import Detector
from pkdzoo.training.build import val_dataset_for
from pkdzoo.training.evaluate import evaluate
from pkdzoo.training.loaders import val_loader
from pkdzoo.utils.text import counted


def check_teacher(
    name: str, teacher: Detector, dataset: CocoDataset, count: int, workers: int, accelerator: Accelerator
) -> str:
    """Evaluate a teacher on the first images of the validation set, at its own size, beside its published AP.

    Args:
        name: name of the teacher in the recipe.
        teacher: the detector itself.
        dataset: validation images, with the teacher's classes; resized for the student or not.
        count: number of images.
        workers: number of loader processes.
        accelerator: of the run.

    Returns:
        One line for the summary.

    Raises:
        ValueError: if the data has other classes, or the teacher gives no detections or detects nothing at all.
    """
    try:
        teacher = detecting_teacher(teacher, dataset.label_names)
    except ValueError as error:
        raise ValueError(f"--check-teacher: {error}") from error
    if tuple(teacher.label_names) != tuple(dataset.label_names):
        raise ValueError(
            f"--check-teacher: {name} has other classes ({', '.join(teacher.label_names[:5])}, ...) than the data "
            f"({', '.join(dataset.label_names[:5])}, ...), so its AP cannot be computed: leave --check-teacher out"
        )
    own = val_dataset_for(teacher, dataset)
    part = cast(CocoDataset, Subset(own, range(min(count, len(own)))))
    loader = accelerator.prepare(val_loader(part, 1, workers))
    ap = evaluate(teacher.to(accelerator.device), loader, own, accelerator, seen_only=True)["AP"]
    published = get_weights(name).metrics.get("AP") if is_detector(name) else None
    if not ap:
        raise ValueError(
            f"--check-teacher: {name} detects nothing in {counted(len(part), 'image')} (AP {ap}): check "
            "its weights and "
            "that the images are of its classes, or leave --check-teacher out"
        )
    line = f"teacher   AP {ap:.1f} on {counted(len(part), 'image')}"
    if published is None:
        return line
    warning = "; less than half of it: are these the right images, and enough of them?" if ap < published / 2 else ""
    return f"{line}, published {published} on all{warning}"
