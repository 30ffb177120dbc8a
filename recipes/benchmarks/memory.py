"""Main memory of one training step with PKD: what the summary before a run estimates, and what the step takes.

    python -m recipes.benchmarks.memory --images 16 --mixed-precision bf16 --checkpoint-activations

Student and teacher have random weights, the images are gray and have one object each. The peak is that of the resident
memory (VmHWM of Linux), so it is measured in a process of its own and contains what torch keeps for later use.
"""

from __future__ import annotations

import argparse
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

import pkdzoo
from pkdzoo.training import compute
from pkdzoo.training.cost_estimate import estimate_cost, estimate_memory, resident_memory
from pkdzoo.training.optim import build_optimizer
from pkdzoo.training.recipe import Optim
from pkdzoo.utils.option_types import positive_int


def peak_memory() -> int:
    """Highest resident memory of this process so far in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError("this system does not tell the peak of the resident memory: run the measurement on Linux")
    return 1024 * int(found[1])


def batch_of(images: int, height: int, width: int) -> pkdzoo.Batch:
    """Gray images with one object each."""
    box = torch.tensor([[width / 8, height / 8, width / 2, height / 2]])
    objects = pkdzoo.Instances(box, torch.zeros(1, dtype=torch.int64))
    return pkdzoo.Batch(torch.full((images, 3, height, width), 128.0), [(height, width)] * images, [objects] * images)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Estimated and measured peak in bytes, and the losses of the step."""
    student = pkdzoo.create_detector(args.student, num_classes=80).train()
    teacher = pkdzoo.create_detector(args.teacher, num_classes=80)
    task = pkdzoo.Distiller(student, teacher, {"pkd": {}})
    compute.apply_options(student, True, args.checkpoint_activations, teacher)
    precision: AbstractContextManager[Any] = (
        torch.autocast("cpu", torch.bfloat16) if args.mixed_precision == "bf16" else nullcontext()
    )
    resident = resident_memory()
    cost = estimate_cost(task, (args.height, args.width), args.images, precision if args.mixed_precision else None)
    estimated = estimate_memory(task, student, cost.memory, "sgd", False, 1, resident).total
    before = peak_memory()
    optimizer = build_optimizer(task, Optim(lr=0.01), args.images)
    with precision:
        losses = task(batch_of(args.images, args.height, args.width))
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return {
        "estimated": estimated,
        "measured": peak_memory(),
        "peak before the step": before,
        "losses": {name: float(loss.detach()) for name, loss in losses.items()},
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="retina_r50")
    parser.add_argument("--teacher", default="retina_r101")
    parser.add_argument("--images", type=positive_int, default=2, help="of the step (default: 2)")
    parser.add_argument("--height", type=positive_int, default=800)
    parser.add_argument("--width", type=positive_int, default=1344)
    parser.add_argument("--mixed-precision", choices=["bf16"])
    parser.add_argument("--checkpoint-activations", action="store_true", help="recompute the backbone's stages")
    parser.add_argument("--threads", type=positive_int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    found = measure(args)
    print(", ".join(f"{name} {found[name] / 1e9:.2f} GB" for name in ("estimated", "measured", "peak before the step")))
    print(", ".join(f"{name} {value:.4g}" for name, value in found["losses"].items()))


if __name__ == "__main__":
    main()
