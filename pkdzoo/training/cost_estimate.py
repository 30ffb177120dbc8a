"""What a step costs, counted before the first one: multiply-adds, memory, and on a CPU a guess at the time.

Three passes over small grey images, forward and backward, in eval mode. Work and memory grow with the number of
pixels, so the numbers of two sizes and of one and two images give those of the real batch.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, shape_wrapper

from pkdzoo.models._counting import deform_conv_flops
from pkdzoo.structures import Batch, Instances

SMALL, LARGE = 128, 256  # sides in pixels; a pyramid's coarsest level still has a cell or two


def deform_conv_backward_flops(grad_shape: Any, x_shape: Any, weight_shape: Any, *rest: Any, **more: Any) -> int:
    """As much as the forward pass for the weights, and as much for the maps."""
    return 2 * deform_conv_flops(x_shape, weight_shape, out_shape=grad_shape)


FLOPS = {
    **flop_registry,
    torch.ops.torchvision.deform_conv2d: shape_wrapper(deform_conv_flops),  # type: ignore[no-untyped-call]
    torch.ops.torchvision._deform_conv2d_backward: shape_wrapper(deform_conv_backward_flops),  # type: ignore[no-untyped-call]
}


@dataclass(frozen=True)
class Cost:
    """Of one pass, forward and backward.

    Attributes:
        forward: multiply-adds of the forward pass, the teacher's included.
        total: multiply-adds, with the backward pass.
        memory: bytes alive at most, without weights and their gradients.
        seconds: as it was counted, which takes longer than without.
    """

    forward: float
    total: float
    memory: float
    seconds: float


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations while inside, and the bytes of all tensors that are made, as long as they live.

    FlopCounterMode counts the same operations, for each module apart, and takes several times as long.

    Args:
        known: tensors that were there before; views of them cost nothing.

    Attributes:
        flops: two for each multiply-add.
        now: bytes alive.
        peak: at most so far.
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


def grey(count: int, size: int, device: torch.device) -> Batch:
    """Images of ``size`` x ``size`` pixels with one object each."""
    box = torch.tensor([[0.125, 0.125, 0.75, 0.625]], device=device) * size
    objects = Instances(box, torch.zeros(1, dtype=torch.int64, device=device))
    images = torch.full((count, 3, size, size), 128.0, device=device)
    return Batch(images, [(size, size)] * count, [objects] * count)


def dry_pass(
    task: nn.Module, size: int = SMALL, images: int = 1, autocast: AbstractContextManager[Any] | None = None
) -> Cost:
    """One counted pass: pyramids that cannot be compared fail here, not in step one.

    Nothing is left behind: modes, buffers of batch norms and gradients are as before.

    Args:
        task: a detector or a Distiller, not wrapped.
        size: of the images, in pixels.
        images: of the pass.
        autocast: context of the forward pass.

    Raises:
        ValueError: what the pass raised, or a loss that is not finite.
    """
    batch = grey(images, size, next(task.parameters()).device)
    training = [module for module in task.modules() if module.training]
    task.eval()  # batch norms keep their statistics
    # A gradient goes as soon as it is there: it is counted with the weights, and two passes have to be alike.
    learning = [p for p in task.parameters() if p.requires_grad]
    handles = [p.register_post_accumulate_grad_hook(_forget_gradient) for p in learning]  # type: ignore[no-untyped-call]
    began = time.perf_counter()
    counter = Counter(everything(task))
    try:
        with torch.enable_grad(), counter:
            with autocast or nullcontext():
                losses: dict[str, Tensor] = task(batch)
            forward = counter.flops
            total = torch.stack(list(losses.values())).sum()
            if total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"student and teacher do not go together, or the model cannot run: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    bad = [name for name, value in losses.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"{', '.join(bad)} is not finite on a grey image with one object: are the weights whole?")
    return Cost(forward / 2, counter.flops / 2, counter.peak, time.perf_counter() - began)


def _forget_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def everything(task: nn.Module) -> list[Tensor]:
    """Weights and buffers of a task, its teacher's too."""
    teacher = getattr(task, "teacher", None)
    modules = [task, teacher] if isinstance(teacher, nn.Module) else [task]
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


def cost_of_a_pass(task: nn.Module, size: tuple[int, int], images: int, autocast: Any = None) -> Cost:
    """The cost of a pass over ``images`` of ``size`` (height, width), told from three small ones.

    Cost = c + images x (a + b x pixels), by each of the counted quantities; ``seconds`` are those of a pass that is
    not counted, in proportion to its pixels.

    Raises:
        ValueError: as :func:`dry_pass`.
    """
    small, large = dry_pass(task, SMALL, 1, autocast), dry_pass(task, LARGE, 1, autocast)
    two = dry_pass(task, SMALL, 2, autocast)
    pixels = size[0] * size[1]

    def extended(quantity: str) -> float:
        one, more, twice = (float(getattr(cost, quantity)) for cost in (small, large, two))
        slope = max(more - one, 0.0) / (LARGE**2 - SMALL**2)
        each = max(twice - one, 0.0) - slope * SMALL**2
        fixed = max(2 * one - twice, 0.0)
        return fixed + images * max(each + slope * pixels, 0.0)

    return Cost(extended("forward"), extended("total"), extended("memory"), large.seconds * images * pixels / LARGE**2)


@dataclass(frozen=True)
class Memory:
    """Bytes that one process needs at most, by what they are for; libraries' own workspace comes on top.

    Attributes:
        weights: of what learns, and buffers.
        teacher: weights of the teacher.
        gradients: with the copy that several processes exchange.
        optimizer: momentum, or both moments of AdamW.
        average: moving average of the student.
        maps: what one pass keeps for its backward pass, and works on.
    """

    weights: int
    teacher: int
    gradients: int
    optimizer: int
    average: int
    maps: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.teacher + self.gradients + self.optimizer + self.average + self.maps


def memory_of_a_step(task: nn.Module, student: nn.Module, maps: float, kind: str, ema: bool, processes: int) -> Memory:
    """Everything that has to be in memory at once.

    Args:
        task: a detector or a Distiller, not wrapped.
        student: the detector that learns.
        maps: bytes of a pass, see :func:`cost_of_a_pass`.
        kind: of optimiser.
        ema: whether an average is kept.
        processes: that train together.
    """
    own = size_of((*task.parameters(), *task.buffers()))
    learning = size_of(p for p in task.parameters() if p.requires_grad)
    return Memory(
        weights=own,
        teacher=size_of(everything(task)) - own,
        gradients=learning * (2 if processes > 1 else 1),
        optimizer=learning * (2 if kind == "adamw" else 1),
        average=size_of((*student.parameters(), *student.buffers())) if ema else 0,
        maps=int(maps),
    )


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of some tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
