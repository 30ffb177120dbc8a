"""Optimizer, learning rate schedule and moving average of a recipe, in optimizer steps.

Parameter groups follow mmengine's ``DefaultOptimWrapperConstructor``: the factors of biases do not apply to the biases
of norm layers. The warm-up follows its schedulers: of 500 steps, step 499 is the first at the full rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pkdzoo.layers.norm import FrozenBatchNorm2d
from pkdzoo.models.detector import Detector
from pkdzoo.training.recipe import Optim, Schedule

NORM_LAYERS = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm, FrozenBatchNorm2d)


def param_groups(model: nn.Module, optim: Optim, lr: float) -> list[dict[str, Any]]:
    """The trainable parameters, grouped by learning rate and weight decay, in an order that only depends on the model.

    Raises:
        ValueError: if every parameter is frozen.
    """
    groups: dict[tuple[float, float], list[Tensor]] = {}
    seen: set[int] = set()  # shared parameters are listed once
    for prefix, layer in model.named_modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            rate, decay = lr, optim.weight_decay
            if isinstance(layer, NORM_LAYERS):
                decay *= optim.norm_decay_mult
            elif name == "bias":
                rate *= optim.bias_lr_mult
                decay *= optim.bias_decay_mult
            if any(part in f"{prefix}.{name}" for part in optim.no_decay):
                decay = 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    if not groups:
        raise ValueError("nothing to train: every parameter is frozen; lower frozen_stages or distill.freeze")
    return [{"params": tensors, "lr": rate, "weight_decay": decay} for (rate, decay), tensors in groups.items()]


def build_optimizer(model: nn.Module, optim: Optim, batch: int) -> torch.optim.Optimizer:
    """The optimizer of a recipe.

    Args:
        model: its trainable parameters are optimized.
        optim: see Optim.
        batch: images per optimizer step, for ``optim.scale_lr``.
    """
    # Not fused, which would save 1.5 % of a step of FCOS-R50. On a CPU, the fused kernel pairs weights and momentum by
    # memory order, which differs in a run that is resumed with --channels-last and began without, and then computes
    # wrong updates. It also skips the steps of a gradient scaler internally, where Accelerate does not notice them.
    lr = optim.lr * batch / optim.base_batch_size if optim.scale_lr else optim.lr
    groups = param_groups(model, optim, lr)
    if optim.kind == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=optim.betas, weight_decay=optim.weight_decay)
    return torch.optim.SGD(groups, lr=lr, momentum=optim.momentum, weight_decay=optim.weight_decay)


def lr_factor(schedule: Schedule, steps_per_epoch: int) -> Callable[[int], float]:
    """The factor of the learning rate at each optimizer step, counted from 0."""
    milestones = [math.ceil(epoch * steps_per_epoch) for epoch in schedule.milestones]
    warmup, steps = schedule.warmup, planned_steps(schedule, steps_per_epoch)

    def factor(step: int) -> float:
        if schedule.decay != "step":
            flat = steps / 2 if schedule.decay == "flat_cosine" else 0.0
            done = min(max(step - flat, 0.0) / (steps - flat), 1.0)
            decayed = schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * done)) / 2
        else:
            decayed = schedule.gamma ** sum(step >= milestone for milestone in milestones)
        if warmup is None or step >= warmup.steps - 1:
            return decayed
        ramp = step / (warmup.steps - 1) if warmup.kind == "linear" else 0.0
        return decayed * (warmup.factor + (1 - warmup.factor) * ramp)

    return factor


def build_schedule(optimizer: torch.optim.Optimizer, schedule: Schedule, steps_per_epoch: int) -> LambdaLR:
    """The learning rate schedule, stepped once per optimizer step.

    Do not let Accelerate prepare it: a prepared scheduler steps once for every process, unless the Accelerator has
    ``step_scheduler_with_optimizer=False``, and on eight processes the warm-up would end after an eighth of its steps.
    """
    return LambdaLR(optimizer, lr_factor(schedule, steps_per_epoch))


def planned_steps(schedule: Schedule, steps_per_epoch: int) -> int:
    """Optimizer steps of the whole run."""
    steps = schedule.epochs * steps_per_epoch
    return steps if schedule.max_steps is None else min(steps, schedule.max_steps)


def build_average(student: Detector, decay: float | None, warmup: int | None = None) -> AveragedModel | None:
    """An exponential moving average of the student's parameters and buffers, or None without a decay.

    Args:
        student: not wrapped.
        decay: share of the average that a step keeps, in the long run.
        warmup: steps in which the average follows the student closely, see ``Optim.ema_warmup``.
    """
    if decay is None:
        return None
    rule: Any = get_ema_multi_avg_fn(decay) if warmup is None else warmed_up(decay, warmup)  # type: ignore[no-untyped-call]
    averaged = AveragedModel(student, multi_avg_fn=rule, use_buffers=True)
    averaged.requires_grad_(False)
    return averaged


Tensors = tuple[Tensor, ...] | list[Tensor]


def warmed_up(decay: float, warmup: int) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """A rule for AveragedModel: mmdetection's ExpMomentumEMA, whose average begins close to the student."""

    @torch.no_grad()
    def update(averages: Tensors, values: Tensors, count: Tensor | int) -> None:
        share = (1 - decay) + decay * math.exp(-(1 + int(count)) / warmup)
        for average, value in zip(averages, values):
            if average.is_floating_point():
                average.lerp_(value.to(average.device), share)
            else:
                average.copy_(value)  # e.g. the number of batches that a norm has seen

    return update
