"""PKD's loss compared with its usual form, on the pyramid of images of 2 x 3 x 800 x 1344."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from pkdzoo.losses import pearson
from pkdzoo.losses.correlation import EPS
from recipes.benchmarks.measure import Row, Settings, difference, in_turns, peak_memory, ratios, unmeasured, wait

STRIDES = (8, 16, 32, 64, 128)
NAME, AGAINST = "PKD loss, forward and backward", "normalize both maps, then MSE"
SHARE = "PKD loss, share of copy bandwidth on a GPU"
NEAR = 0.1  # standard deviation of the noise in each of two maps that nearly agree
Form = Callable[[Tensor, Tensor], Tensor]


def literature(student: Tensor, teacher: Tensor) -> Tensor:
    """PKD as papers and their code write it: normalize every channel of both maps over the batch, then half the MSE."""

    def norm(maps: Tensor) -> Tensor:
        rows = maps.transpose(0, 1).flatten(1)
        rows = (rows - rows.mean(dim=-1, keepdim=True)) / (rows.std(dim=-1, keepdim=True) + EPS)
        return rows.view(maps.shape[1], maps.shape[0], *maps.shape[2:]).transpose(0, 1)

    return F.mse_loss(norm(student), norm(teacher)) / 2


def maps_of(
    size: tuple[int, int], channels: int, seed: int, device: torch.device, dtype: torch.dtype, own: float = 1.0
) -> list[Tensor]:
    """Maps of two images at all strides; maps of different seeds correlate by ``1 / (1 + own**2)``."""
    maps = []
    for level, stride in enumerate(STRIDES):
        shape = (2, channels, -(-size[0] // stride), -(-size[1] // stride))
        common = torch.randn(shape, generator=torch.Generator().manual_seed(level))
        alone = torch.randn(shape, generator=torch.Generator().manual_seed(100 * seed + level))
        maps.append((common + own * alone).to(device, dtype))
    return maps


def rows(settings: Settings) -> Iterator[Row]:
    """Maps as different as those of student and teacher, and maps that nearly agree."""
    size, channels = ((200, 336), 64) if settings.quick else ((800, 1344), 256)
    if settings.device.type == "cuda":
        yield from on_a_gpu(settings, size, channels)
        return
    yield from loss_rows(settings, size, channels, torch.float32, want=4.0)
    yield unmeasured(1, f"{NAME}, bf16 on a GPU", AGAINST, 3.0, "no GPU")
    yield unmeasured(1, SHARE, "a copy", 0.6, "no GPU")


def on_a_gpu(settings: Settings, size: tuple[int, int], channels: int) -> Iterator[Row]:
    """In bf16, eager and compiled, and compared with the memory bandwidth."""
    # torch keeps eight programs per function by default; each level needs one, and another one in float32
    torch._dynamo.config.cache_size_limit = max(32, torch._dynamo.config.cache_size_limit)
    compiled = torch.compile(pearson, fullgraph=True, dynamic=False) if settings.compiled else None
    forms = {"compiled": compiled} if compiled else {}
    yield from loss_rows(settings, size, channels, torch.bfloat16, want=3.0, more=forms)
    student, teacher = pair_of(size, channels, settings.device, torch.bfloat16)
    for name, form in {"": pearson, **{f", {name}": form for name, form in forms.items()}}.items():
        times = in_turns({"ours": pass_of(form, student, teacher)}, settings, warmup=2)
        yield bandwidth(f"{SHARE}{name}", student, times["ours"].wall)


def loss_rows(
    settings: Settings,
    size: tuple[int, int],
    channels: int,
    dtype: torch.dtype,
    want: float,
    more: Mapping[str, Form] | None = None,
) -> Iterator[Row]:
    """Time, memory, equality and the effect of a large mean; for maps that nearly agree, time and equality.

    Args:
        settings: device and rounds.
        size: (height, width) of the images.
        channels: of the maps.
        dtype: of the maps.
        want: target of the ratio on maps of student and teacher.
        more: other versions of our loss, by name.
    """
    device, forms = settings.device, {"ours": pearson, "theirs": literature, **(more or {})}
    kind = "" if dtype == torch.float32 else f", {str(dtype).removeprefix('torch.')}"
    wider = {} if dtype == torch.float32 else {"gradients": 1e-2}  # gradients are rounded to dtype
    for likeness, own, aim in (("", 1.0, want), (f", maps that nearly agree (r {1 / (1 + NEAR**2):.2f})", NEAR, None)):
        student, teacher = pair_of(size, channels, device, dtype, own)
        times = in_turns({key: pass_of(form, student, teacher) for key, form in forms.items()}, settings, warmup=2)
        for key in [key for key in forms if key != "theirs"]:
            differences = errors(forms[key], student, teacher)
            if not likeness:
                differences["value, mean of 1,000 deviations"] = far_from_zero(forms[key], channels, device)
            if wider:
                exact = pair_of((200, 336), channels, device, torch.float32, own)
                differences |= {f"{what}, float32": error for what, error in errors(forms[key], *exact).items()}
            name = f"{NAME}{kind}{likeness}" + ("" if key == "ours" else f", {key}")
            yield Row(1, name, AGAINST, want=aim, differences=differences, wider=wider, **ratios(times, key))
        if not likeness:
            yield extra_memory(student, teacher, device)


def pair_of(
    size: tuple[int, int], channels: int, device: torch.device, dtype: torch.dtype, own: float = 1.0
) -> tuple[list[Tensor], list[Tensor]]:
    """Maps of a student, which require a gradient, and of a teacher."""
    student, teacher = (maps_of(size, channels, seed, device, dtype, own) for seed in (1, 2))
    return [level.requires_grad_() for level in student], teacher


def pass_of(form: Form, student: list[Tensor], teacher: list[Tensor]) -> Callable[[], list[Tensor]]:
    """Forward and backward through all levels: the loss and the gradients."""

    def run() -> list[Tensor]:
        for level in student:
            level.grad = None
        loss = torch.stack([form(s, t) for s, t in zip(student, teacher)]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return [loss, *(s.grad for s in student if s.grad is not None)]

    return run


def errors(form: Form, student: list[Tensor], teacher: list[Tensor]) -> dict[str, float]:
    """Relative differences of value and gradients from the usual form in float64."""
    wide = [s.detach().double().requires_grad_() for s in student]
    exact, *exact_grads = pass_of(literature, wide, [t.double() for t in teacher])()
    loss, *grads = pass_of(form, student, teacher)()
    gaps = [difference(g, w) for g, w in zip(grads, exact_grads, strict=True)]
    return {"value": difference(loss, exact), "gradients": max(gaps)}


def extra_memory(student: list[Tensor], teacher: list[Tensor], device: torch.device) -> Row:
    """Memory beyond that of the gradients, which both sides need."""
    gradients = sum(s.numel() * s.element_size() for s in student) / 2**20

    def extra(form: Form) -> float:
        run = pass_of(form, student, teacher)

        def run_and_free() -> None:
            run()
            for level in student:
                level.grad = None

        return peak_memory(run_and_free, device) - gradients

    ours, theirs = extra(pearson), extra(literature)
    ratio = theirs / max(ours, 0.1)
    return Row(1, "PKD loss, extra peak memory", AGAINST, ratio, want=2.0, ours=ours, theirs=theirs, unit="MB")


def far_from_zero(form: Form, channels: int, device: torch.device) -> float:
    """Relative error of the loss in float32 between maps whose mean is 1,000 times their deviation."""
    student, teacher = (maps_of((200, 336), channels, seed, device, torch.float32)[0] + 1400.0 for seed in (1, 2))
    return difference(form(student, teacher), literature(student.double(), teacher.double()))


def bandwidth(name: str, student: list[Tensor], seconds: list[float]) -> Row:
    """Necessary bytes (both maps read in both passes, the gradient written) per second, compared with a copy."""
    size = sum(s.numel() * s.element_size() for s in student)
    # at least 256 MB: smaller copies stay in a GPU's cache, which is faster than its memory
    source = torch.empty(max(size, 1 << 28), dtype=torch.uint8, device=student[0].device)
    target = torch.empty_like(source)
    target.copy_(source)
    wait(source.device)
    start = time.perf_counter()
    for _ in range(20):
        target.copy_(source)
    wait(source.device)
    copied = 2 * source.numel() * 20 / (time.perf_counter() - start)
    moved = 5 * size / sorted(seconds)[len(seconds) // 2]
    return Row(1, name, "a copy", moved / copied, want=0.6)
