"""Target 1: PKD's loss against the form of the literature, on a pyramid of 2 x 3 x 800 x 1344 pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from pkdzoo.losses.mimic import EPS, pearson
from recipes.benchmarks.measure import Row, Settings, difference, in_turns, peak_memory, ratios, unmeasured, wait

STRIDES = (8, 16, 32, 64, 128)
NAME, AGAINST = "PKD loss, forward and backward", "normalise both maps, then MSE"


def literature(student: Tensor, teacher: Tensor) -> Tensor:
    """As papers and their code write it: every channel of both maps normalised over the batch, then half the MSE."""

    def norm(maps: Tensor) -> Tensor:
        rows = maps.transpose(0, 1).flatten(1)
        rows = (rows - rows.mean(dim=-1, keepdim=True)) / (rows.std(dim=-1, keepdim=True) + EPS)
        return rows.view(maps.shape[1], maps.shape[0], *maps.shape[2:]).transpose(0, 1)

    return F.mse_loss(norm(student), norm(teacher)) / 2


def maps_of(size: tuple[int, int], channels: int, seed: int, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Maps of two pictures at all strides, correlated between seeds as a student's and a teacher's are."""
    found = []
    for level, stride in enumerate(STRIDES):
        shape = (2, channels, -(-size[0] // stride), -(-size[1] // stride))
        common = torch.randn(shape, generator=torch.Generator().manual_seed(level))
        own = torch.randn(shape, generator=torch.Generator().manual_seed(100 * seed + level))
        found.append((common + own).to(device, dtype))
    return found


def rows(settings: Settings) -> Iterator[Row]:
    """Time, memory, equality, and what a large mean does."""
    size, channels = ((200, 336), 64) if settings.quick else ((800, 1344), 256)
    device = settings.device
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    student = [m.requires_grad_() for m in maps_of(size, channels, 1, device, dtype)]
    teacher = maps_of(size, channels, 2, device, dtype)

    def run(form: object) -> list[Tensor]:
        for level in student:
            level.grad = None
        loss = torch.stack([form(s, t) for s, t in zip(student, teacher)]).sum()  # type: ignore[operator]
        loss.backward()
        return [loss, *(s.grad for s in student if s.grad is not None)]

    def and_forget(form: object) -> None:
        run(form)
        for level in student:
            level.grad = None

    wide_s = [s.detach().double().requires_grad_() for s in student]
    exact = torch.stack([literature(s, t.double()) for s, t in zip(wide_s, teacher)]).sum()
    exact.backward()  # type: ignore[no-untyped-call]
    loss, *grads = run(pearson)
    found = {"value": difference(loss, exact)}
    found["gradients"] = max(difference(g, w.grad) for g, w in zip(grads, wide_s) if w.grad is not None)
    found["value, mean of 1,000 deviations"] = far_from_zero(channels, device)
    forms = {"ours": pearson, "theirs": literature}
    runs = {name: lambda form=form: run(form) for name, form in forms.items()}
    want = 3.0 if device.type == "cuda" else 4.0
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    times = in_turns(runs, settings, warmup=2)
    yield Row(1, NAME, AGAINST, want=want, differences=found, tolerance=tolerance, **ratios(times))

    memory = {name: peak_memory(lambda form=form: and_forget(form), device) for name, form in forms.items()}
    held = sum(s.numel() * s.element_size() for s in student) / 2**20  # the gradients, which both have to make
    ours, theirs = memory["ours"] - held, memory["theirs"] - held
    ratio = theirs / max(ours, 0.1)
    yield Row(1, "PKD loss, extra peak memory", AGAINST, ratio, want=2.0, ours=ours, theirs=theirs, unit="MB")
    if device.type == "cuda":
        yield bandwidth(student, times["ours"].wall)
    else:
        yield unmeasured(1, f"{NAME}, bf16 on a GPU", AGAINST, 3.0, "no GPU")
        yield unmeasured(1, "PKD loss, share of copy bandwidth on a GPU", "a copy", 0.6, "no GPU")


def far_from_zero(channels: int, device: torch.device) -> float:
    """Relative error of the loss between maps whose mean is 1,000 times their deviation, in float32."""
    student, teacher = (maps_of((200, 336), channels, seed, device, torch.float32)[0] + 1400.0 for seed in (1, 2))
    return difference(pearson(student, teacher), literature(student.double(), teacher.double()))


def bandwidth(student: list[Tensor], seconds: list[float]) -> Row:
    """Bytes that must move (both maps read in each direction, the gradient written) over time, against a copy."""
    size = sum(s.numel() * s.element_size() for s in student)
    source = torch.empty(size, dtype=torch.uint8, device=student[0].device)
    target = torch.empty_like(source)
    target.copy_(source)
    wait(source.device)
    start = time.perf_counter()
    for _ in range(20):
        target.copy_(source)
    wait(source.device)
    copied = 2 * size * 20 / (time.perf_counter() - start)
    moved = 5 * size / sorted(seconds)[len(seconds) // 2]
    return Row(1, "PKD loss, share of copy bandwidth on a GPU", "a copy", moved / copied, want=0.6)
