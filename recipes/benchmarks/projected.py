"""Losses behind RTMDet's projector: a 1x1 convolution to the teacher's width, a norm without parameters, the loss.

RTMDet-s (128 channels) learns from RTMDet-m (192) on two images of 640 x 640, at strides 8, 16 and 32, by PKD and by
normalized CWD. The compared forms compute the same from torch's parts, as papers and their code write it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from pkdzoo.losses import cwd, norm_cwd, pearson
from pkdzoo.losses.normalized_cwd import normalize_by_batch
from recipes.benchmarks.loss import literature
from recipes.benchmarks.measure import Row, Settings, difference, in_turns, peak_memory, ratios

STRIDES = (8, 16, 32)
Form = Callable[[Tensor, Tensor], Tensor]
Maps = tuple[list[Tensor], list[Tensor]]


def composed_cwd(student: Tensor, teacher: Tensor) -> Tensor:
    """Normalized CWD from torch's parts, which autograd differentiates."""
    return cwd(normalize_by_batch(student), normalize_by_batch(teacher))


def rows(settings: Settings) -> Iterator[Row]:
    """Time, memory and equality of both losses."""
    images, side, width, wide = (2, 160, 16, 24) if settings.quick else (2, 640, 128, 192)
    torch.manual_seed(0)
    convs = nn.ModuleList(nn.Conv2d(width, wide, 1, bias=False) for _ in STRIDES).to(settings.device)
    sizes = [(images, side // stride, side // stride) for stride in STRIDES]
    student = [torch.randn(n, width, h, w).to(settings.device).requires_grad_() for n, h, w in sizes]
    teacher = [torch.randn(n, wide, h, w).to(settings.device) for n, h, w in sizes]
    pairs: dict[str, tuple[Form, Form, str]] = {
        "PKD": (pearson, literature, "the convolution, normalize both maps, then MSE"),
        "normalized CWD": (norm_cwd, composed_cwd, "the convolution, normalize both maps, then CWD"),
    }
    for name, (ours, theirs, against) in pairs.items():
        title = f"{name} behind RTMDet's projector"
        runs = {"ours": pass_of(ours, convs, (student, teacher)), "theirs": pass_of(theirs, convs, (student, teacher))}
        times = in_turns(runs, settings, warmup=2)
        gaps = zip(runs["ours"](), runs["theirs"](), strict=True)
        largest = {"value and gradients": max(difference(a, b) for a, b in gaps)}
        yield Row(3, f"{title}, forward and backward", against, differences=largest, **ratios(times))
        memory = {key: peak_memory(dropping(run, student, convs), settings.device) for key, run in runs.items()}
        mb, theirs_mb = memory["ours"], memory["theirs"]
        yield Row(3, f"{title}, peak memory", against, theirs_mb / mb, ours=mb, theirs=theirs_mb, unit="MB")


def pass_of(form: Form, convs: nn.ModuleList, maps: Maps) -> Callable[[], list[Tensor]]:
    """Projection, loss and backward through all levels: the loss, and the gradients of maps and convolutions."""
    student, teacher = maps

    def run() -> list[Tensor]:
        clear(student, convs)
        losses = [form(conv(s), t) for conv, s, t in zip(convs, student, teacher, strict=True)]
        loss = torch.stack(losses).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return [loss, *(x.grad for x in (*student, *convs.parameters()) if x.grad is not None)]

    return run


def dropping(run: Callable[[], list[Tensor]], student: list[Tensor], convs: nn.ModuleList) -> Callable[[], None]:
    """The same pass, which then frees its gradients."""

    def free() -> None:
        run()
        clear(student, convs)

    return free


def clear(student: list[Tensor], convs: nn.ModuleList) -> None:
    """Drop the gradients of maps and convolutions."""
    for x in (*student, *convs.parameters()):
        x.grad = None
