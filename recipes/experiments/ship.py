"""Make a run's student a file of the package: float16, measured again, refused where that costs more than 0.1 AP.

    python recipes/experiments/ship.py runs/experiments/bccd/pkd-0/last --data bccd/ --name ARCH.bccd

Writes ``pkdzoo/weights/NAME.safetensors`` (dot and all other signs as underscores), the same bytes from the same run,
and prints the row for the family's file. Three APs have to lie within 0.1 of each other: what training wrote down, the
float32 weights as they are, and the float16 ones as a user will have them, which are float32 again once loaded.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from pkdzoo.checkpoints.io import save_safetensors
from pkdzoo.data import find_split
from pkdzoo.evaluation import METRICS
from pkdzoo.hub.fetch import PACKAGED
from pkdzoo.models._loading import load_checkpoint
from pkdzoo.models.detector import Detector
from pkdzoo.training import build, machine
from pkdzoo.training.evaluate import evaluate, open_detector
from pkdzoo.training.provenance import numbers_of
from pkdzoo.utils.files import sha256_of_file

LIMIT = 8_000_000  # bytes
LOSS = 0.1  # AP


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating tensors in float16, the others as they are.

    Raises:
        ValueError: naming a tensor that has a value too large for float16.
    """
    found = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    large = [key for key, value in found.items() if value.is_floating_point() and not value.isfinite().all()]
    if large:
        raise ValueError(f"{', '.join(large[:5])}: values beyond float16")
    return found


def measured(model: Detector, data: Path) -> dict[str, Any]:
    """COCO's numbers on the validation images, one at a time."""
    dataset = build.val_dataset(find_split(data, "val"), model.resize, model.label_names, True)
    return evaluate(model, build.val_loader(dataset, 1, 0), dataset, Accelerator(cpu=True))


def check(told: Mapping[str, float]) -> None:
    """Refuse APs that lie apart.

    Raises:
        ValueError: with all of them.
    """
    if max(told.values()) - min(told.values()) > LOSS:
        said = ", ".join(f"{value:.2f} {name}" for name, value in told.items())
        raise ValueError(f"AP is {said}: more than {LOSS} apart, nothing was written")


def row(tag: str, path: Path, metrics: Mapping[str, Any]) -> str:
    """The row of the registry, as text."""
    numbers = {key: round(metrics[key], 1) for key in METRICS if metrics[key] is not None}
    return f'Weights("{tag}", file="{path.name}", sha256="{sha256_of_file(path)}", metrics={numbers}, ...)'


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the student: a run's last/ or best/")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--name", required=True, help="ARCH.TAG it will have")
    parser.add_argument("--output", type=Path, default=PACKAGED, help="folder of the file; the package's without it")
    parser.add_argument("--threads", type=machine.count, help="CPU threads; all cores without it")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        arch, _, tag = args.name.partition(".")
        if not arch.isidentifier() or not tag.isidentifier():
            raise ValueError(f"--name {args.name}: write ARCH.TAG, e.g. retina_r10w16_pkd_gfl_r18.bccd")
        noted, model = numbers_of(args.folder), open_detector(args.folder)
        small = halved(model.state_dict())
        told = {"in training": noted["AP"], "in float32": measured(model, args.data)["AP"]}
        told["in float16"] = measured(load_checkpoint(model, small), args.data)["AP"]
        check(told)
        path = args.output / f"{arch}_{tag}.safetensors"
        size = sum(value.numel() * value.element_size() for value in small.values())
        if size > LIMIT:
            raise ValueError(f"{size / 1e6:.1f} MB of tensors; the package takes {LIMIT / 1e6:.0f} MB")
        save_safetensors(small, path)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {machine.plainly(error)}")
    print(", ".join(f"AP {value:.2f} {name}" for name, value in told.items()))
    print(f"{path} {path.stat().st_size:,} bytes\n{row(tag, path, noted)}")


if __name__ == "__main__":
    main()
