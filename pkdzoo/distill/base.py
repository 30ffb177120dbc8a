"""The base class of distillation methods, the frozen teacher, schedules, and checks that methods share.

A method compares two traces, the student's and the teacher's, and returns weighted losses. It may own trainable
connectors; they are trained with the student and are dropped when the student is saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from pkdzoo.models.dense import DenseDetector
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import Depth, Trace
from pkdzoo.structures import Batch
from pkdzoo.utils.text import counted

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """Progress of a training run.

    Attributes:
        step: optimizer steps done.
        total: optimizer steps of the whole run.
        epoch: epochs done.
        epochs: epochs of the whole run.

    Example:
        >>> from pkdzoo.distill import Progress
        >>> from pkdzoo.distill.base import schedule_factor
        >>> schedule_factor("warmup:500", Progress(step=100, total=1000))
        0.2
    """

    step: int = 0
    total: int = 1
    epoch: int = 0
    epochs: int = 1


class DistillMethod(nn.Module):
    """Base class of distillation methods.

    The constructor of a subclass takes ``(student, teacher, **options)``, reads the properties of both detectors that
    it needs, and refuses pairs that it cannot work with. It must not store either of them. Its options are the keywords
    of a recipe, so they are plain values with published defaults.

    Attributes:
        teacher_depth: depth up to which the teacher has to run.
        tap: block of the towers after which the maps of student and teacher are kept, or None.
        default_schedule: schedule of the weight over training, see :func:`schedule_factor`.
        logs: values of the last pass to log, without gradient.
        progress: progress of the training run; the Distiller keeps it up to date.
        takes_unlabeled: whether the method also learns from images without annotations: it compares traces of features
            alone and does not read ``batch.instances``.
        stop_epoch: number of epochs, counted from the first, with this method; None means all. A method that has this
            option checks ``has_ended`` and then returns ``zero_loss``.

    Example:
        >>> import pkdzoo
        >>> class Finest(pkdzoo.distill.DistillMethod):
        ...     def __init__(self, student, teacher, weight=1.0):
        ...         super().__init__()
        ...         self.weight = weight
        ...     def forward(self, student, teacher, batch):
        ...         difference = student.features.levels[0] - teacher.features.levels[0]
        ...         return {"loss_finest": self.weight * difference.square().mean()}
        >>> student, teacher = (pkdzoo.create_detector("retina_r10w16") for _ in range(2))
        >>> distiller = pkdzoo.Distiller(student, teacher, {"finest": Finest(student, teacher, weight=0.5)})
        >>> distiller.depth
        'features'
    """

    teacher_depth: Depth = "features"
    tap: int | None = None
    default_schedule: str = "constant"
    takes_unlabeled: bool = False
    stop_epoch: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.logs: dict[str, Tensor] = {}
        self.progress = Progress()

    @property
    def paired_levels(self) -> list[tuple[int, int]]:
        """Level numbers (student's, teacher's) of the pairs that are compared; empty for a method without pairs."""
        return list(getattr(getattr(self, "pairs", None), "levels", ()))

    @property
    def has_ended(self) -> bool:
        """Whether training is past the last epoch with this method."""
        return self.stop_epoch is not None and self.progress.epoch >= self.stop_epoch

    def zero_loss(self, like: Tensor) -> Tensor:
        """Zero, on the device of ``like``, with a gradient for every connector: DistributedDataParallel waits for it.

        The connectors' values do not count: one that is infinite or NaN still gives zero.
        """
        zeros = [torch.zeros_like(p, dtype=torch.float32).mul(p).nan_to_num().sum() for p in self.parameters()]
        return torch.stack([like.new_zeros((), dtype=torch.float32), *zeros]).sum()

    def on_epoch_start(self, epoch: int, student: Detector, teacher: Detector, loader: Iterable[Batch]) -> None:
        """Prepare an epoch; does nothing by default. ``loader`` gives the training batches."""

    def forward(self, student: Any, teacher: Any, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses by name; each name begins with ``loss_``.

        A subclass annotates the types of trace that it needs: ``Trace[Detector]`` for features alone,
        ``HeadTrace[DenseDetector]`` for the outputs of a dense head (with ``teacher_depth = "head"``), and so on.

        Args:
            student: trace up to the losses, with gradient; of unlabeled images up to the features.
            teacher: trace up to ``teacher_depth`` at least, without gradient. The teacher's parameters never get a
                gradient, but tensors that a method sends through its modules do.
            batch: raw images and objects; without objects where they are unlabeled, see ``takes_unlabeled``.
        """
        raise NotImplementedError


class FrozenTeacher(nn.Module):
    """Holds a teacher that takes part in training without being trained.

    The teacher moves with ``.to()``, ``.cuda()`` and ``.half()``. It is not in parameters(), state_dict(), checkpoints
    or DistributedDataParallel, and ``train()`` leaves it in eval mode. Its parameters require no gradient. That is not
    no_grad: gradient still passes through to its inputs.

    Args:
        module: the teacher; it is frozen and put in eval mode.

    Example:
        >>> import pkdzoo
        >>> from pkdzoo.distill import FrozenTeacher
        >>> frozen = FrozenTeacher(pkdzoo.create_detector("retina_r10w16")).train()
        >>> len(frozen.state_dict()), frozen.module.training
        (0, False)
    """

    module: Detector

    def __init__(self, module: Detector) -> None:
        super().__init__()
        object.__setattr__(self, "module", module)  # nn.Module would register it as a child
        module.requires_grad_(False)
        module.eval()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenTeacher:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.module._apply(fn, recurse)
        return self

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Set this wrapper's own flag; the module stays in eval mode."""
        super().train(mode)
        self.module.eval()
        return self

    @torch.no_grad()
    def trace(self, batch: Batch, upto: Depth, tap: int | None = None) -> Trace[Detector]:
        """One pass of the module without gradient."""
        return self.module.trace(batch, upto, tap)

    def extra_repr(self) -> str:
        return f"{type(self.module).__name__}, frozen"


def schedule_factor(schedule: str, progress: Progress) -> float:
    """The factor of a weight at a point of training.

    Args:
        schedule: ``constant`` (1), ``warmup:N`` (rises from 0 to 1 in N steps), ``delay:N`` (0 for N steps, then 1),
            ``decay`` (falls from 1 to 0 over all steps), ``epoch_decay`` (the same in steps of an epoch: 1, then
            1 - 1/epochs, ...).
        progress: the point of training.

    Raises:
        ValueError: for any other schedule.
    """
    kind, _, number = schedule.partition(":")
    if kind == "constant" and not number:
        return 1.0
    if kind == "warmup" and number.isdigit() and int(number) > 0:
        return min(1.0, progress.step / int(number))
    if kind == "delay" and number.isdigit():
        return float(progress.step >= int(number))
    if kind == "decay" and not number:
        return max(0.0, 1.0 - progress.step / max(progress.total, 1))
    if kind == "epoch_decay" and not number:
        return max(0.0, 1.0 - progress.epoch / max(progress.epochs, 1))
    raise ValueError(
        f"schedule={schedule!r}: write 'constant', 'warmup:500', 'delay:400' (steps), 'decay' or 'epoch_decay'"
    )


def require_same_classes(student: Detector, teacher: Detector, method: str) -> None:
    """Refuse a teacher whose classes are not the student's, for methods that compare class predictions."""
    if student.num_classes != teacher.num_classes:
        raise ValueError(
            f"{method} compares class predictions: the student has "
            f"{counted(student.num_classes, 'class')} and the teacher "
            f"{teacher.num_classes}. Take a teacher of the same classes, or a method of features alone (pkd)"
        )
    names, teacher_names = student.label_names, teacher.label_names
    generic = tuple(f"class_{i}" for i in range(student.num_classes))
    if names != teacher_names and generic not in (names, teacher_names):
        at = next(i for i, (a, b) in enumerate(zip(names, teacher_names)) if a != b)
        raise ValueError(
            f"{method} compares class predictions, and class {at} is {names[at]!r} in the student but "
            f"{teacher_names[at]!r} in the teacher: bring both to one order of classes"
        )


def by_family(table: Mapping[str, T], detector: Detector, otherwise: T) -> T:
    """The entry of a table of published settings for a detector.

    Args:
        table: keys are names of detector classes (``RetinaNet``), or ``two_stage``; methods do not import families.
        detector: its class and the classes it derives from are looked up.
        otherwise: the result for families that are not in the table.
    """
    for cls in type(detector).__mro__:
        if cls.__name__ in table:
            return table[cls.__name__]
    return table["two_stage"] if detector.two_stage and "two_stage" in table else otherwise


def require_logits(model: Detector, method: str) -> None:
    """Refuse a detector without maps of class logits, for methods that compare them."""
    if isinstance(model, DenseDetector):
        if not model.class_logits:
            raise ValueError(f"{method} compares class logits, and {model.name} gives probabilities instead")
    elif not model.two_stage or not hasattr(model, "rpn"):
        raise ValueError(f"{method} compares class logits of a dense head, and {model.name} has none")


def require_same_heads(student: Detector, teacher: Detector, method: str) -> None:
    """Refuse pairs whose class logits cannot be compared one by one: other kinds, strides, priors or classes."""
    for model in (student, teacher):
        require_logits(model, method)
    if student.two_stage != teacher.two_stage:
        raise ValueError(
            f"{method} compares predictions: {student.name} and {teacher.name} are a one-stage and a two-stage detector"
        )
    if not student.two_stage:  # an RPN has one class, whatever the detector's are
        require_same_classes(student, teacher, method)
    heads = [(tuple(cast(Any, model.neck).strides), priors_per_location(model)) for model in (student, teacher)]
    if heads[0] != heads[1]:
        raise ValueError(
            f"{method} compares predictions prior by prior: strides and priors per location of the student are "
            f"{heads[0]}, of the teacher {heads[1]}"
        )


def priors_per_location(model: Detector) -> list[int]:
    """Number of priors at a location of each level; empty for a detector without a dense head."""
    return [len(anchors) for anchors in model.base_anchors] if isinstance(model, DenseDetector) else []
