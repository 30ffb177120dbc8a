"""Options of a run that change how it computes, not what: memory layout, compilation, recomputed activations."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType, parse_flag_from_env
from torch.utils.checkpoint import checkpoint

from pkdzoo.models.backbones import TimmBackbone
from pkdzoo.models.detector import Detector

# Each process holds the whole model. Which of these exist depends on Accelerate's version.
NAMES = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_NPU", "MULTI_MLU", "MULTI_SDAA", "MULTI_MUSA", "MULTI_XPU", "MULTI_HPU")
WHOLE_MODELS = tuple(getattr(DistributedType, name) for name in NAMES if hasattr(DistributedType, name))


def open_processes(cpu: bool) -> PartialState:
    """The group of processes that a launcher started, before there is an ``Accelerator``; it will use the same group.

    ``PartialState`` alone does not read the variable by which ``accelerate launch --cpu`` asks for the CPU, and would
    make each process the only one.

    Args:
        cpu: train on the CPU even if there is a GPU.
    """
    return PartialState(cpu=cpu or parse_flag_from_env("ACCELERATE_USE_CPU"))


@contextmanager
def own_accelerators() -> Iterator[None]:
    """In this block an ``Accelerator`` chooses precision and, of one process, device anew; afterward all is as before.

    Accelerate keeps both for the whole Python process: after a training in bf16 an evaluation would be in bf16, too,
    and another precision an error. It has no public function for this. An ``Accelerator`` from outside stays usable
    after the block. Several processes keep their group.
    """
    several = bool(PartialState._shared_state) and PartialState().num_processes > 1
    states: list[Any] = [AcceleratorState, GradientState, *([] if several else [PartialState])]
    before = [dict(state._shared_state) for state in states]
    for state in states:
        state._shared_state.clear()
    try:
        yield
    finally:
        for state, content in zip(states, before):
            state._shared_state.clear()
            state._shared_state.update(content)


def refuse_sharding() -> None:
    """Refuse Accelerate configurations that split a model over processes; the loop needs whole gradients and weights.

    Raises:
        ValueError: for DeepSpeed, FSDP, Megatron-LM and tensor parallelism.
    """
    kinds = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "TP", "PARALLELISM_CONFIG")
    chosen = [kind for kind in kinds if os.environ.get(f"ACCELERATE_USE_{kind}", "").lower() in ("1", "true", "yes")]
    if chosen:
        raise ValueError(
            f"Accelerate is configured for {', '.join(chosen)}, which pkdzoo cannot train with: its detectors fit on "
            "one GPU. Choose multi-GPU (DistributedDataParallel) in `accelerate config`, or launch with --multi_gpu"
        )


def check_options(accelerator: Accelerator, tracker: str | None) -> None:
    """Raise for options that Accelerate would ignore silently.

    Raises:
        ValueError: for fp16 on a CPU, a tracker whose package is not installed, or a model split over processes.
    """
    if accelerator.distributed_type not in WHOLE_MODELS:
        raise ValueError(f"pkdzoo cannot train with {accelerator.distributed_type.value}: launch with --multi_gpu")
    if accelerator.mixed_precision == "fp16" and accelerator.scaler is None:
        raise ValueError(
            f"--mixed-precision fp16: on {accelerator.device.type} Accelerate would train in full precision "
            "silently; write bf16"
        )
    if tracker and not accelerator.log_with:
        raise ValueError(f"--tracker {tracker}: its package is not installed, pip install {tracker}")


def apply_options(
    student: Detector, channels_last: bool, checkpoint_activations: bool, teacher: Detector | None = None
) -> None:
    """Change how student and teacher compute, without changing their results.

    Args:
        student: not wrapped yet.
        channels_last: keep convolutions in NHWC, faster on tensor cores.
        checkpoint_activations: recompute the backbone's stages in the backward pass instead of keeping their maps.
        teacher: of the task; it is frozen, so its norms are folded into its convolutions.

    Raises:
        ValueError: for a backbone without stages.
    """
    if channels_last:
        student.to(memory_format=torch.channels_last)
    if teacher is not None:
        teacher.optimize(channels_last)
    if checkpoint_activations and isinstance(student.backbone, TimmBackbone):
        student.backbone.set_grad_checkpointing()
    elif checkpoint_activations:
        stages = getattr(student.backbone, "stages", None)
        if not stages:
            raise ValueError(
                f"--checkpoint-activations: {student.name}'s backbone has no stages to recompute; leave the option out"
            )
        for stage in stages:
            # The wrapped forward is an attribute, so the names in the state dict do not change.
            stage.forward = partial(checkpoint, stage.forward, use_reentrant=False)


def compile_pyramid(student: Detector) -> None:
    """Compile backbone and neck in place; shapes in heads and losses change with every batch.

    Torch compiles for the first image size, and at the second one for all sizes. It compiles again for a batch of one
    image, and where a map of the neck has hardly a location (sides of up to 4, or 1).
    """
    student.backbone.compile()
    student.neck.compile()


def describe_compilation(device: torch.device) -> str | None:
    """What to expect of a compiled step on a CPU, as text; None on another device.

    Measured: RetinaNet-R50 at 2 x 320 x 416 took 0.97 to 1.01 times the eager step in float32 and 0.99 times in bf16
    (recipes/benchmark_results), a narrow RTMDet in bf16 and NHWC 1.09 times, after 128 s of compilation.
    """
    if device.type != "cpu":
        return None
    return (
        "minutes before the first step; on a CPU a compiled step took 0.97 to 1.09 times the eager one where measured"
    )


def suggest_bf16(device: torch.device, precision: str) -> str | None:
    """That bf16 is faster on this CPU, as text; None on another device, with another precision, or if it is not known.

    Measured on a CPU with AVX512_BF16: a step of RetinaNet-R50 at 2 x 320 x 416 took half the time of float32
    (recipes/benchmark_results/versions).
    """
    if device.type != "cpu" or precision != "no":
        return None
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch has none
    if not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
        return None
    return "float32; this processor multiplies bf16: --mixed-precision bf16 may take half the time"


def synchronize_norms(student: Detector) -> None:
    """Make the batch norms use the images of all processes, in place.

    Torch would replace timm's batch norms, which can hold an activation, by its own, which have none.
    """
    for name, part in student.named_children():
        if isinstance(part, TimmBackbone):
            part.sync_norms()
        else:
            setattr(student, name, torch.nn.SyncBatchNorm.convert_sync_batchnorm(part))  # type: ignore[no-untyped-call]
