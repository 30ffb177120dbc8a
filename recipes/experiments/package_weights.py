"""Turn the student of a run into a file of the package, in float16, if this costs at most 0.1 AP.

    python recipes/experiments/package_weights.py runs/experiments/bccd/pkd-0/last --data bccd/ --name ARCH.bccd

Writes ``pkdzoo/weights/NAME.safetensors`` (with the dot of the name as an underscore) and prints the row for the file
of the family. The same run gives the same bytes. The weights, evaluated in the precision of the training, must have the
AP of the training. Then the AP of the float16 weights as a user loads them, converted to float32 again, must be that of
the float32 weights. Each may differ by 0.1. The row has the metrics of the file.
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
from pkdzoo.training import build, loaders
from pkdzoo.training.errors import describe_error
from pkdzoo.training.evaluate import evaluate, open_detector
from pkdzoo.training.provenance import numbers_of, read_json_object
from pkdzoo.utils.files import sha256_of_file
from pkdzoo.utils.option_types import positive_int

LIMIT = 8_000_000  # bytes of tensors
LOSS = 0.1  # largest difference of two APs that should be the same
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating-point tensors in float16, the others unchanged.

    Raises:
        ValueError: if a tensor has a value that is too large for float16.
    """
    small = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    large = [key for key, value in small.items() if value.is_floating_point() and not value.isfinite().all()]
    if large:
        raise ValueError(f"{', '.join(large[:5])}: values too large for float16")
    return small


def measured(model: Detector, data: Path, precision: str = "no") -> dict[str, Any]:
    """COCO's metrics on the validation images, with a batch size of 1, in float32 or a ``--mixed-precision``."""
    dataset = build.val_dataset(find_split(data, "val"), model.resize, model.label_names, True, model.letterbox)
    with torch.autocast("cpu", AUTOCAST.get(precision), enabled=precision in AUTOCAST):
        return evaluate(model, loaders.val_loader(dataset, 1, 0), dataset, Accelerator(cpu=True))


def precision_of(folder: Path) -> str:
    """The ``--mixed-precision`` of the run that a folder belongs to; ``no`` without a run."""
    about = folder.parent / "run.json"
    return str(read_json_object(about).get("precision", "no")) if about.is_file() else "no"


def check(aps: Mapping[str, float]) -> None:
    """Compare two APs that should be the same.

    Raises:
        ValueError: if they differ by more than ``LOSS``.
    """
    if max(aps.values()) - min(aps.values()) > LOSS:
        listed = ", ".join(f"{value:.2f} {name}" for name, value in aps.items())
        raise ValueError(f"AP is {listed}: more than {LOSS} apart, nothing was written")
    print(", ".join(f"AP {value:.2f} {name}" for name, value in aps.items()))


def row(tag: str, path: Path, metrics: Mapping[str, Any]) -> str:
    """The row of the registry, as text."""
    numbers: dict[str, Any] = {key: round(metrics[key], 1) for key in METRICS if metrics[key] is not None}
    numbers["per_class"] = {name: round(value, 1) for name, value in metrics["per_class"].items()}
    return f'Weights("{tag}", file="{path.name}", sha256="{sha256_of_file(path)}", metrics={numbers}, ...)'


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the student: last/ or best/ of a run")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--name", required=True, help="the new name, ARCH.TAG")
    parser.add_argument(
        "--output", type=Path, default=PACKAGED, help="folder of the file (default: that of the package)"
    )
    parser.add_argument("--threads", type=positive_int, help="CPU threads (default: all cores)")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        arch, _, tag = args.name.partition(".")
        if not arch.isidentifier() or not tag.isidentifier():
            raise ValueError(f"--name {args.name}: write ARCH.TAG, e.g. gfl_r10w16_crosskd_cspnext_tiny.bccd")
        trained, model = numbers_of(args.folder), open_detector(args.folder)
        small, again = halved(model.state_dict()), measured(model, args.data, precision_of(args.folder))
        check({"in training": trained["AP"], "measured again": again["AP"]})
        whole = measured(model, args.data)["AP"]
        metrics = measured(load_checkpoint(model, small), args.data)
        check({"in float32": whole, "in float16": metrics["AP"]})
        path = args.output / f"{arch}_{tag}.safetensors"
        size = sum(value.numel() * value.element_size() for value in small.values())
        if size > LIMIT:
            raise ValueError(f"{size / 1e6:.1f} MB of tensors; the limit of the package is {LIMIT / 1e6:.0f} MB")
        save_safetensors(small, path)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {describe_error(error)}")
    print(f"{path} {path.stat().st_size:,} bytes\n{row(tag, path, metrics)}")


if __name__ == "__main__":
    main()
