"""The training task of a detector without a teacher."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from pkdzoo.distill.task import Task
from pkdzoo.models.detector import Detector
from pkdzoo.structures import Batch

SINGLE_VALUE = "more than 1 value per channel"  # of torch's error for a batch norm without a variance


def losses_of(task: Callable[[Batch], dict[str, Tensor]], batch: Batch) -> dict[str, Tensor]:
    """The losses of a task, wrapped or not, by name.

    Args:
        task: in training mode.
        batch: raw images and their objects.

    Raises:
        ValueError: for a batch norm that gets one value per channel; the message says what to write.
    """
    try:
        return task(batch)
    except ValueError as error:
        if SINGLE_VALUE not in str(error):
            raise
        raise ValueError(
            "a batch norm that is trained got one value per channel, a map of 1 x 1 of a single image, which has no "
            "variance: write two or more images per pass and process (a larger data.batch_size, a smaller "
            "optim.accumulate), larger images (data.short and data.long), or another norm, e.g. model_args.norm=gn "
            f"({error})"
        ) from error


class SupervisedTask(Task):
    """Trains a detector with its own losses, through the interface that the loop shares with the Distiller.

    Like in a Distiller, the detector's tensors are named ``student.*`` in the state dict.

    Args:
        student: the detector that learns.

    Example:
        >>> import torch, pkdzoo
        >>> from pkdzoo.training.task import SupervisedTask
        >>> task = SupervisedTask(pkdzoo.create_detector("retina_r10w16"))
        >>> target = pkdzoo.Instances(torch.tensor([[10.0, 10.0, 60.0, 50.0]]), torch.tensor([3]))
        >>> losses = task(pkdzoo.Batch(torch.rand(1, 3, 64, 96) * 255, [(64, 96)], [target]))
        >>> sorted(losses), task.teacher
        (['loss_box', 'loss_cls'], None)
    """

    def __init__(self, student: Detector) -> None:
        super().__init__()
        self.student = student
        self.methods = nn.ModuleDict()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The detector's losses by name, each already weighted.

        Args:
            batch: raw images and their objects.
        """
        losses: dict[str, Tensor] = self.student(batch)
        return losses
