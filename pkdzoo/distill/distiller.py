"""The Distiller: a student, its frozen teacher and the methods between them, called like any detector."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pkdzoo.distill.base import DistillMethod, FrozenTeacher, Progress, schedule_factor
from pkdzoo.distill.registry import build_method
from pkdzoo.distill.task import Task
from pkdzoo.models.detector import Detector
from pkdzoo.models.trace import DEPTHS, Depth
from pkdzoo.structures import Batch


class Distiller(Task):
    """Trains a student with its own losses plus those of one or several methods, over one pass of the teacher.

    The teacher runs without gradient, as deep as the deepest method needs; with feature methods alone its head never
    runs. It is not in state_dict() or parameters(): a checkpoint of the Distiller holds the student
    (``student.*``) and the methods' connectors (``methods.NAME.*``).

    Args:
        student: detector that learns.
        teacher: detector or :class:`pkdzoo.Teacher`; it is frozen and stays in eval mode.
        methods: options by name of a method (an empty dict means the published settings), or a method that is built
            already. Every method has the option ``schedule``: ``constant``, ``warmup:N``, ``delay:N``, ``decay``
            or ``epoch_decay`` (see :func:`pkdzoo.distill.base.schedule_factor`).
        unlabeled_weight: factor of the methods' losses on ``Batch.unlabeled``. There, methods with ``takes_unlabeled``
            compare the features of student and teacher in a second pass; the others see labeled images alone. These
            losses are named ``loss_METHOD_unlabeled``.

    Raises:
        ValueError: for an unknown method or option, and for pairs that a method cannot work with; in the forward pass,
            for unlabeled images that no method or the student cannot take.

    Example:
        >>> import torch, pkdzoo
        >>> student, teacher = pkdzoo.create_detector("retina_r10w16"), pkdzoo.create_detector("fcos_r10w16")
        >>> distiller = pkdzoo.Distiller(student, teacher, {"pkd": {"weight": 6.0}})
        >>> target = pkdzoo.Instances(torch.tensor([[10.0, 10.0, 60.0, 50.0]]), torch.tensor([3]))
        >>> losses = distiller(pkdzoo.Batch(torch.rand(1, 3, 64, 96) * 255, [(64, 96)], [target]))
        >>> sum(losses.values()).backward()
        >>> sorted(losses), sorted(distiller.logs)
        (['loss_box', 'loss_cls', 'loss_pkd'], ['pkd/r0', 'pkd/r1', 'pkd/r2', 'pkd/r3'])
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        methods: Mapping[str, Mapping[str, Any] | DistillMethod],
        unlabeled_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 <= unlabeled_weight < math.inf:
            raise ValueError(f"unlabeled_weight={unlabeled_weight}: write a finite number from 0 up")
        self.unlabeled_weight, self.unlabeled_logs = float(unlabeled_weight), dict[str, Tensor]()
        if not isinstance(methods, Mapping) or not all(
            isinstance(m, (Mapping, DistillMethod)) for m in methods.values()
        ):
            raise ValueError(
                f'methods={methods!r}: write options by name of a method, e.g. {{"pkd": {{"weight": 6.0}}}}'
            )
        if not methods:
            raise ValueError('a Distiller needs a method, e.g. {"pkd": {}}; without one train the student itself')
        for who, model in (("student", student), ("teacher", teacher)):
            if not isinstance(model, Detector):
                raise ValueError(
                    f"the {who} must be a pkdzoo.Detector, got {type(model).__name__}; wrap any other module "
                    "in pkdzoo.Teacher(module, features, mean, std)"
                )
        if student.optimized:
            raise ValueError(f"{student.name} is optimized and cannot be trained: leave out student.optimize()")
        if student is teacher:
            raise ValueError("student and teacher are one object: build the detector twice")
        self.student = student
        self.frozen = FrozenTeacher(teacher)
        self.methods = nn.ModuleDict()
        self.schedules: dict[str, str] = {}
        for name, entry in methods.items():
            if isinstance(entry, DistillMethod):
                method, schedule = entry, entry.default_schedule
            else:
                options = dict(entry)
                schedule = options.pop("schedule", None)
                method = build_method(name, student, teacher, options)
                schedule = schedule or method.default_schedule
            schedule_factor(schedule, Progress())  # raises for a mistyped schedule
            self.methods[name] = method
            self.schedules[name] = schedule
            if schedule != "constant":
                # a tensor: with a float, a compiled step would be compiled again for each new factor
                self.register_buffer(f"factor_{name}", torch.ones(()), persistent=False)
        self.depth: Depth = max((m.teacher_depth for m in self._methods()), key=DEPTHS.index)
        self.tap = self._common_tap()
        self.set_progress()
        # Schedules that count training passes, as long as set_progress() does not tell the steps.
        self._counting = tuple(k for k, text in self.schedules.items() if text.startswith(("warmup", "delay")))
        self._passes = 0

    @property
    def teacher(self) -> Detector:
        """The frozen teacher."""
        return self.frozen.module

    @property
    def logs(self) -> dict[str, Tensor]:
        """Values of the last pass to log, ``METHOD/NAME``, without gradient."""
        labeled = {f"{name}/{key}": value for name, m in self._named() for key, value in m.logs.items()}
        return labeled | self.unlabeled_logs

    def check_unlabeled(self) -> list[str]:
        """Names of the methods that learn from unlabeled images.

        Raises:
            ValueError: if there is none, or the student gives its features only together with its losses.
        """
        names = [name for name, method in self._named() if method.takes_unlabeled]
        if not names:
            raise ValueError(
                "unlabeled images need a method that compares feature maps alone, without boxes or heads, and there is "
                f'only {", ".join(self.methods)}: write pkd beside it, {{"pkd": {{}}}}, or leave the images out'
            )
        if not self.student.has_features_alone:
            raise ValueError(
                f"{self.student.name} gives its maps with its losses alone, and unlabeled images have no losses: take "
                "a detector of this package, torchvision or transformers as the student, or leave the unlabeled images "
                "out"
            )
        return names

    def connectors(self) -> list[nn.Parameter]:
        """The parameters that the methods train beside the student."""
        return [p for p in self.methods.parameters() if p.requires_grad]

    def set_progress(self, step: int = 0, total: int = 1, epoch: int = 0, epochs: int = 1) -> None:
        """Set the progress of the training run; call it before every step if a weight has a schedule.

        Without any call, ``warmup:N`` and ``delay:N`` count the passes in train mode as steps, and ``decay`` and
        ``epoch_decay``, which need the length of the run, leave the weight as it is.

        Args:
            step: optimizer steps done.
            total: optimizer steps of the whole run.
            epoch: epochs done.
            epochs: epochs of the whole run.
        """
        progress, self._counting = Progress(step, total, epoch, epochs), ()
        for name, method in self._named():
            method.progress = progress
            if self.schedules[name] != "constant":
                self.get_buffer(f"factor_{name}").fill_(schedule_factor(self.schedules[name], progress))

    def on_epoch_start(self, epoch: int, loader: Iterable[Batch]) -> None:
        """Let the methods prepare an epoch, e.g. collect prototypes; ``loader`` gives the training batches."""
        for method in self._methods():
            method.on_epoch_start(epoch, self.student, self.teacher, loader)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses of the student and of the methods; their sum is the objective."""
        if self._counting and self.training:
            self._count_pass()
        student = self.student.trace(batch, "loss", self.tap)
        teacher = self.frozen.trace(batch, self.depth, self.tap)
        losses = dict(student.losses)
        for name, method in self._named():
            for key, value in method(student, teacher, batch).items():
                if key in losses:
                    raise ValueError(f"{name} returns {key!r}, which exists already: name the loss after the method")
                losses[key] = self._scheduled(name, value)
        self.unlabeled_logs = {}
        return losses if batch.unlabeled is None else losses | self._unlabeled_losses(batch.unlabeled)

    def _unlabeled_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of the features of unlabeled images; none after the last epoch of the methods that take them."""
        methods = [(name, m) for name, m in self._named() if name in self.check_unlabeled() and not m.has_ended]
        if not methods:
            return {}
        student, teacher = self.student.trace(batch, "features"), self.frozen.trace(batch, "features")
        losses = {}
        for name, method in methods:
            labeled_logs = method.logs
            for key, value in method(student, teacher, batch).items():
                losses[f"{key}_unlabeled"] = self.unlabeled_weight * self._scheduled(name, value)
            self.unlabeled_logs |= {f"{name}/unlabeled_{key}": value for key, value in method.logs.items()}
            method.logs = labeled_logs
        return losses

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # a number that changes would be compiled in
    def _count_pass(self) -> None:
        """Follow the schedules that count steps, in a loop that does not call :meth:`set_progress`."""
        for name in self._counting:
            factor = schedule_factor(self.schedules[name], Progress(self._passes))
            self.get_buffer(f"factor_{name}").fill_(factor)
        self._passes += 1

    def _scheduled(self, name: str, value: Tensor) -> Tensor:
        return value if self.schedules[name] == "constant" else value * self.get_buffer(f"factor_{name}")

    def _named(self) -> list[tuple[str, DistillMethod]]:
        return list(self.methods.items())  # type: ignore[arg-type]

    def _methods(self) -> list[DistillMethod]:
        return [method for _, method in self._named()]

    def _common_tap(self) -> int | None:
        taps = {name: m.tap for name, m in self._named() if m.tap is not None}
        if len(set(taps.values())) > 1:
            raise ValueError(f"methods of one Distiller must keep the towers' maps after the same block, not {taps}")
        return next(iter(taps.values()), None)
