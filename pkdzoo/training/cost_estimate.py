"""Cost of a step, estimated before training: multiply-adds, memory, and on a CPU the time.

Three forward and backward passes over small gray images are counted in eval mode. Work and memory grow linearly with
the number of pixels, so two image sizes and two batch sizes suffice to extrapolate to the real batch.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torchvision.ops  # noqa: F401 - defines torch.ops.torchvision
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, shape_wrapper

from pkdzoo.models._counting import deform_conv_flops
from pkdzoo.structures import Batch, Instances

SMALL, LARGE = 128, 256  # sides in pixels; the coarsest level of a pyramid still has a location or two


def deform_conv_backward_flops(grad_shape: Any, x_shape: Any, weight_shape: Any, *rest: Any, **more: Any) -> int:
    """Operations of the backward pass: as many as the forward pass for the weights, and as many for the maps."""
    return 2 * deform_conv_flops(x_shape, weight_shape, out_shape=grad_shape)


FLOPS = {
    **flop_registry,
    torch.ops.torchvision.deform_conv2d: shape_wrapper(deform_conv_flops),  # type: ignore[no-untyped-call]
    torch.ops.torchvision._deform_conv2d_backward: shape_wrapper(deform_conv_backward_flops),  # type: ignore[no-untyped-call]
}


@dataclass(frozen=True)
class Cost:
    """Cost of one forward and backward pass.

    Attributes:
        forward: multiply-adds of the forward pass, the teacher's included.
        total: multiply-adds, with the backward pass.
        memory: peak of allocated bytes, without weights and their gradients.
        seconds: duration with counting, which takes longer than without.
    """

    forward: float
    total: float
    memory: float
    seconds: float


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations inside the context, and the bytes of all tensors created there that are still alive.

    FlopCounterMode counts the same operations for each module and takes several times as long.

    Args:
        known: tensors that exist already; views of them cost nothing.

    Attributes:
        flops: two per multiply-add.
        now: bytes that are alive.
        peak: largest value of ``now`` so far.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}
        self.now = self.peak = self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in FLOPS:
            self.flops += FLOPS[func.overloadpacket](*args, **(kwargs or {}), out_val=result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._take(leaf.untyped_storage())
        return result

    def _take(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.now += self.sizes[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self.sizes.pop(key, 0)


def gray(count: int, size: int, device: torch.device) -> Batch:
    """Images of ``size`` x ``size`` pixels with one object each, which has a mask too."""
    box = torch.tensor([[0.125, 0.125, 0.75, 0.625]], device=device) * size
    mask = torch.zeros(1, size, size, dtype=torch.bool, device=device)
    mask[:, size // 8 : size * 5 // 8, size // 8 : size * 3 // 4] = True
    objects = Instances(box, torch.zeros(1, dtype=torch.int64, device=device), masks=mask)
    images = torch.full((count, 3, size, size), 128.0, device=device)
    return Batch(images, [(size, size)] * count, [objects] * count)


def dry_pass(
    task: nn.Module,
    size: int = SMALL,
    images: int = 1,
    autocast: AbstractContextManager[Any] | None = None,
    unlabeled: int = 0,
) -> Cost:
    """One counted pass, in which incompatible pyramids already raise an error.

    Modes, buffers of batch norms and gradients are the same afterward as before.

    Args:
        task: a task or a detector, not wrapped.
        size: side of the images in pixels.
        images: number of images.
        autocast: context of the forward pass.
        unlabeled: number of images without annotations beside them.

    Raises:
        ValueError: if the pass fails, or a loss is not finite.
    """
    device = next(task.parameters()).device
    batch = gray(images, size, device)
    if unlabeled:
        batch = replace(batch, unlabeled=replace(gray(unlabeled, size, device), instances=None))
    training = [module for module in task.modules() if module.training]
    task.eval()  # batch norms keep their statistics
    # Gradients are dropped at once: they are counted with the weights, and all passes have to be alike.
    trainable = [p for p in task.parameters() if p.requires_grad]
    handles = [p.register_post_accumulate_grad_hook(_drop_gradient) for p in trainable]  # type: ignore[no-untyped-call]
    start = time.perf_counter()
    counter = Counter(weights_and_buffers(task))
    try:
        with torch.enable_grad(), counter:
            with autocast or nullcontext():
                losses: dict[str, Tensor] = task(batch)
            forward = counter.flops
            total = torch.stack(list(losses.values())).sum()
            if total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f"a pass over a small gray image failed: {error}. If there is a teacher, choose another one or another "
            "method for this student; without one, check model_args"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    bad = [name for name, value in losses.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(
            f"{', '.join(bad)} is not finite on a gray image with one object: check the weights that "
            "init and distill name"
        )
    return Cost(forward / 2, counter.flops / 2, counter.peak, time.perf_counter() - start)


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def weights_and_buffers(task: nn.Module) -> list[Tensor]:
    """Weights and buffers of a task, including its teacher's."""
    teacher = getattr(task, "teacher", None)
    modules = [task, teacher] if isinstance(teacher, nn.Module) else [task]
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


def estimate_cost(
    task: nn.Module, size: tuple[int, int], images: int, autocast: Any = None, unlabeled: int = 0
) -> Cost:
    """The cost of a pass over ``images`` of ``size`` (height, width), extrapolated from three small passes.

    For each counted quantity, cost = c + images x (a + b x pixels); ``seconds`` are proportional to the pixels. The
    ``unlabeled`` images beside them are counted by two more passes, in the same way.

    Raises:
        ValueError: as :func:`dry_pass`.
    """
    small, large = dry_pass(task, SMALL, 1, autocast), dry_pass(task, LARGE, 1, autocast)
    two = dry_pass(task, SMALL, 2, autocast)
    sides = ((SMALL, small), (LARGE, large)) if unlabeled else ()
    beside = [(cost, dry_pass(task, side, 1, autocast, 1)) for side, cost in sides]
    pixels = size[0] * size[1]

    def extrapolated(quantity: str) -> float:
        one, more, twice = (float(getattr(cost, quantity)) for cost in (small, large, two))
        slope = max(more - one, 0.0) / (LARGE**2 - SMALL**2)
        each = max(twice - one, 0.0) - slope * SMALL**2
        fixed = max(2 * one - twice, 0.0)
        return fixed + images * max(each + slope * pixels, 0.0) + unlabeled * extra(quantity)

    def extra(quantity: str) -> float:
        """Of one unlabeled image."""
        if not beside:
            return 0.0
        one, more = (float(getattr(both, quantity)) - float(getattr(alone, quantity)) for alone, both in beside)
        slope = max(more - one, 0.0) / (LARGE**2 - SMALL**2)
        return max(one + slope * (pixels - SMALL**2), 0.0)

    return Cost(
        extrapolated("forward"),
        extrapolated("total"),
        extrapolated("memory"),
        (
            large.seconds * images + (beside[1][1].seconds - large.seconds) * unlabeled
            if beside
            else large.seconds * images
        )
        * pixels
        / LARGE**2,
    )


@dataclass(frozen=True)
class Memory:
    """Peak bytes of one process by purpose.

    Attributes:
        framework: Python, torch and the data set's table, as they are before the first step; on a GPU, where only the
            GPU's memory is counted, 0.
        weights: parameters and buffers of the task, without the teacher.
        teacher: parameters and buffers of the teacher.
        gradients: with a second copy if several processes exchange them.
        optimizer: momentum, or both moments of AdamW.
        average: moving average of the student.
        maps: activations and temporary tensors of one pass.
    """

    framework: int
    weights: int
    teacher: int
    gradients: int
    optimizer: int
    average: int
    maps: int

    @property
    def total(self) -> int:
        """The sum of all purposes."""
        return self.framework + self.weights + self.teacher + self.gradients + self.optimizer + self.average + self.maps


def estimate_memory(
    task: nn.Module, student: nn.Module, maps: float, kind: str, ema: bool, processes: int, resident: int = 0
) -> Memory:
    """Everything that is in memory at the same time during a step.

    Args:
        task: a task or a detector, not wrapped.
        student: the detector that is trained.
        maps: bytes of a pass, see :func:`estimate_cost`.
        kind: of the optimizer, ``sgd`` or ``adamw``.
        ema: whether a moving average is kept.
        processes: number of training processes.
        resident: bytes that the process takes already, models included; see :func:`resident_memory`.
    """
    own = size_of((*task.parameters(), *task.buffers()))
    trainable = size_of(p for p in task.parameters() if p.requires_grad)
    return Memory(
        framework=max(0, resident - size_of(weights_and_buffers(task))),
        weights=own,
        teacher=size_of(weights_and_buffers(task)) - own,
        gradients=trainable * (2 if processes > 1 else 1),
        optimizer=trainable * (2 if kind == "adamw" else 1),
        average=size_of((*student.parameters(), *student.buffers())) if ema else 0,
        maps=int(maps),
    )


def resident_memory(process: int | str = "self") -> int:
    """Bytes of main memory that a process takes now; 0 where the system does not tell (only Linux does)."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def size_of(tensors: Iterable[Tensor]) -> int:
    """Total bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
