"""The training task of a detector without a teacher."""

from __future__ import annotations

from torch import Tensor, nn

from pkdzoo.distill.task import Task
from pkdzoo.models.detector import Detector
from pkdzoo.structures import Batch


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
