"""What a training loop calls: a module that turns a batch into losses, around the detector that learns."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from pkdzoo.models.detector import Detector
from pkdzoo.structures import Batch


class Task(nn.Module):
    """Base class of everything that a training loop can train.

    A loop calls ``set_epoch`` and ``on_epoch_start`` before each epoch, ``set_progress`` before each step, and then
    the task itself: the sum of its losses is the objective. :class:`pkdzoo.Distiller` is the task of a student and its
    teacher; ``pkdzoo.training.task.SupervisedTask`` trains a detector without a teacher.

    Attributes:
        student: the detector that learns; it is what is evaluated and exported.
        methods: distillation methods by name; empty without a teacher.

    Example:
        >>> import pkdzoo
        >>> from pkdzoo.distill.task import Task
        >>> student, teacher = pkdzoo.create_detector("retina_r10w16"), pkdzoo.create_detector("fcos_r10w16")
        >>> task = pkdzoo.Distiller(student, teacher, {"pkd": {}})
        >>> isinstance(task, Task), task.student is student, task.teacher is teacher
        (True, True, True)
    """

    student: Detector
    methods: nn.ModuleDict

    @property
    def teacher(self) -> Detector | None:
        """The frozen teacher, or None."""
        return None

    @property
    def logs(self) -> dict[str, Tensor]:
        """Further numbers of the last forward pass by name, without gradient; none by default."""
        return {}

    def set_progress(self, step: int = 0, total: int = 1, epoch: int = 0, epochs: int = 1) -> None:
        """Set the progress of training; nothing depends on it by default.

        Args:
            step: optimizer steps done.
            total: optimizer steps of the whole run.
            epoch: epochs done.
            epochs: epochs of the whole run.
        """

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch, counted from 0, to the student, whose targets may depend on it."""
        self.student.set_epoch(epoch)

    def on_epoch_start(self, epoch: int, loader: Iterable[Batch]) -> None:
        """Prepare an epoch, e.g. collect prototypes. Nothing is done by default.

        Args:
            epoch: number of the epoch, counted from 0.
            loader: the training batches; it may be iterated over.
        """

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses by name.

        Args:
            batch: raw images and their objects.
        """
        raise NotImplementedError
