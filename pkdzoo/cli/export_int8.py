"""``pkdzoo export --int8``: measures what quantization costs, and writes the file only if that is little."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pkdzoo.cli.common import Parser, note
from pkdzoo.utils.files import atomic_path
from pkdzoo.utils.option_types import percent, positive_int
from pkdzoo.utils.text import counted, install_line

if TYPE_CHECKING:
    from pkdzoo.data import CocoDataset
    from pkdzoo.export import ExportedDetector
    from pkdzoo.structures import Batch

IMAGES, MAX_DROP = 200, 1.0
FEW = 20  # images below which ranges of activations are hardly measured
PARTS = {"none": "all layers", "predictors": "all layers but the last predictors", "head": "backbone and neck"}


@dataclass(frozen=True)
class Measured:
    """What a file is like.

    Attributes:
        ap: COCO's AP in percent.
        milliseconds: per image, one at a time, without decoding and resize.
        megabytes: of the file.
    """

    ap: float
    milliseconds: float
    megabytes: float

    def __str__(self) -> str:
        return f"AP {self.ap:.1f}, {self.milliseconds:.1f} ms per image, {self.megabytes:.1f} MB"


def int8_arguments(parser: Parser) -> None:
    """Add the arguments of ``--int8``."""
    parser.add_argument(
        "--int8", action="store_true", help="quantize to int8 with images of --data, and measure the AP that it costs"
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="with --int8: data set with train and val")
    images = f"with --int8: training images that measure the ranges of activations (default: {IMAGES})"
    parser.add_argument("--images", type=positive_int, metavar="N", help=images)
    drop = f"with --int8: AP that may be lost, in percent; else nothing is written (default: {MAX_DROP})"
    parser.add_argument("--max-drop", type=percent, metavar="AP", help=drop)


def check_int8(args: argparse.Namespace, what: str) -> None:
    """Refuse arguments that do not go with ``--int8``.

    Raises:
        ValueError: naming them, and for data without training or validation images.
        ImportError: without the packages that the format needs.
    """
    if not args.int8:
        for name in ("data", "images", "max_drop"):
            if getattr(args, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} belongs to --int8: add it, or leave both out")
        return
    if args.data is None:
        raise ValueError("--int8 needs --data: a folder with training and validation images of the detector's classes")
    if args.format not in ("onnx", "openvino") or what != "detections" or args.half:
        raise ValueError(
            "--int8 is for detections as onnx or openvino: leave another --format, --what, --no-nms and --half out"
        )
    from pkdzoo.data import find_split

    if args.format == "openvino" and importlib.util.find_spec("nncf") is None:
        raise ImportError(f"--int8 as openvino needs nncf: {install_line('nncf')}")

    for split in ("train", "val"):
        find_split(args.data, split)


def write_int8(args: argparse.Namespace, plain: Path, path: Path) -> dict[str, Any]:
    """Quantize an exported file.

    Args:
        args: of the command line.
        plain: the float32 file.
        path: the file to write.

    Returns:
        What was measured, by name.

    Raises:
        ValueError: when every choice of layers loses more than ``--max-drop``; nothing is written.
    """
    from accelerate import Accelerator

    from pkdzoo.data import find_split
    from pkdzoo.export import ExportedDetector, quantize_onnx, quantize_openvino
    from pkdzoo.export.quantize import KEPT
    from pkdzoo.training import build

    detector, quantize = ExportedDetector(plain), quantize_openvino if plain.suffix == ".xml" else quantize_onnx
    shape = (detector.resize, detector.label_names, False, detector.letterbox, detector.canvas)
    train, val = (build.val_dataset(find_split(args.data, split), *shape) for split in ("train", "val"))
    count = args.images or IMAGES
    if min(count, len(train)) < FEW:
        note(
            f"{counted(min(count, len(train)), 'image')} cannot measure the ranges of activations well: "
            "give some hundred"
        )
    accelerator = Accelerator(cpu=True)
    before = measure(detector, val, accelerator, plain)
    note(f"float32: {before}")
    limit, tried = MAX_DROP if args.max_drop is None else args.max_drop, []
    with tempfile.TemporaryDirectory() as folder:
        for kept, parts in KEPT.items():
            quantized = quantize(plain, Path(folder) / f"int8{plain.suffix}", spread(train, count), parts)
            after = measure(ExportedDetector(quantized), val, accelerator, quantized)
            note(f"int8, {PARTS[kept]}: {after}")
            if before.ap - after.ap <= limit:
                copy_exported(quantized, path)
                return {"layers": PARTS[kept], "float32": vars(before), "int8": vars(after)}
            tried.append(f"{PARTS[kept]} {after.ap - before.ap:+.1f}")
    raise ValueError(
        f"int8 loses more than {limit:g} AP ({'; '.join(tried)}), nothing is written: give more --images, a larger "
        "--max-drop, or a detector with batch norms that fold into its convolutions"
    )


def copy_exported(source: Path, target: Path) -> None:
    """Copy an exported file, and the weights that OpenVINO keeps beside it; both are whole or not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".bin", ".xml") if source.suffix == ".xml" else (source.suffix,):
        with atomic_path(target.with_suffix(suffix) if suffix == ".bin" else target) as temporary:
            shutil.copyfile(source.with_suffix(suffix), temporary)


def spread(dataset: CocoDataset, count: int) -> Iterator[Batch]:
    """Batches of one image each, evenly spread over a data set."""
    from pkdzoo.data.batching import collate

    count = min(count, len(dataset))
    return (collate([dataset[number * len(dataset) // count]]) for number in range(count))


def measure(detector: ExportedDetector, dataset: CocoDataset, accelerator: Any, path: Path) -> Measured:
    """AP, latency and size of an exported file."""
    from pkdzoo.training import loaders
    from pkdzoo.training.evaluate import evaluate, time_images

    loader = accelerator.prepare(loaders.val_loader(dataset, detector.batch or 1, 0))
    ap = evaluate(detector, loader, dataset, accelerator)["AP"]
    if ap is None:
        raise ValueError(f"{dataset.json_path} has no object of the detector's classes: AP cannot be measured")
    speed = time_images(detector, dataset, accelerator)
    return Measured(ap, speed["ms_per_image"], file_size(path) / 1e6)


def file_size(path: Path) -> int:
    """Bytes of an exported file, with the weights that OpenVINO keeps beside it."""
    weights = path.with_suffix(".bin")
    return path.stat().st_size + (weights.stat().st_size if path.suffix == ".xml" else 0)
