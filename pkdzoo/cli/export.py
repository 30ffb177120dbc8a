"""``pkdzoo export``: a detector as a file that runs without pkdzoo."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pkdzoo.cli.common import NMS_HELP, Parser, Verb, add_detector, detector_from_args, note, show
from pkdzoo.cli.export_int8 import check_int8, file_size, int8_arguments, write_int8
from pkdzoo.utils.files import check_target
from pkdzoo.utils.option_types import positive_int, share

if TYPE_CHECKING:
    from pkdzoo.export import What
    from pkdzoo.models.detector import Detector

# Suffix and default of --what by --format.
FORMATS: dict[str, tuple[str, What]] = {
    "onnx": (".onnx", "detections"),
    "openvino": (".xml", "detections"),
    "litert": (".tflite", "dense"),
    "torch": (".pt2", "features"),
}
MAX_SIDE = 16384  # pixels
WHAT = ("features", "dense", "detections")  # as pkdzoo.export.WHAT


def export_arguments(parser: Parser) -> None:
    """Add the arguments of ``export``."""
    add_detector(parser)
    formats = (
        "openvino: .xml and .bin; litert: .tflite, of one size and without NMS; torch: a program of torch.export, .pt2 "
        "(default: onnx)"
    )
    parser.add_argument("--format", choices=FORMATS, default="onnx", help=formats)
    parser.add_argument(
        "--what",
        choices=WHAT,
        help="output: features of the pyramid, dense boxes and scores before non-maximum suppression (one-stage "
        "detectors only), or detections (default: detections; dense for litert, features for torch)",
    )
    parser.add_argument(
        "--no-nms", action="store_true", help="the same as --what dense, for runtimes with suppression of their own"
    )
    parser.add_argument(
        "--size",
        type=pixels,
        metavar="PIXELS",
        help="take images of one size only, 640 or WIDTHxHEIGHT, rounded up to multiples of 32 (default: any size)",
    )
    parser.add_argument("--batch", type=positive_int, metavar="N", help="with --size: number of images (default: 1)")
    parser.add_argument(
        "--half", action="store_true", help="store weights in float16: half the file, computed in float32 on a CPU"
    )
    int8_arguments(parser)
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="(default: NAME.onnx, NAME.xml, NAME.tflite, NAME.pt2)"
    )
    parser.add_argument("--threshold", type=share, help="minimum score of a detection (default: the detector's)")
    parser.add_argument("--nms-threshold", type=share, help=NMS_HELP)
    parser.add_argument("--max-detections", type=positive_int, help="maximum number of detections per image")


def export_run(args: argparse.Namespace) -> int:
    """Write the file, and print its path and size."""
    from pkdzoo.export.program import check_suffix

    suffix, default = FORMATS[args.format]
    what: What = args.what or ("dense" if args.no_nms else default)
    check_arguments(args, what)
    path = args.output or Path(f"{Path(os.path.abspath(args.model)).name}{suffix}")  # "." is a folder with a name
    check_suffix(path, suffix)
    check_target(path)
    model = detector_from_args(args)
    note(f"exporting {what} of {args.model} to {path}, this takes about a minute")
    content: dict[str, Any] = {"path": str(path), "format": args.format, "what": what}
    if args.int8:
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / f"float32{suffix}"
            write(args, model, plain, what)
            content |= write_int8(args, plain, path)
    else:
        write(args, model, path, what)
    size = file_size(path)
    content["bytes"] = size
    show(args, f"{path}  {size / 1e6:.1f} MB", content)
    return 0


def check_arguments(args: argparse.Namespace, what: What) -> None:
    """Refuse arguments that exclude each other, before the detector is built.

    Raises:
        ValueError: naming them.
        ImportError: without the packages that the format needs.
    """
    from pkdzoo.export.litert_file import check_litert
    from pkdzoo.export.onnx_file import check_onnx
    from pkdzoo.export.sessions import import_package

    check_int8(args, what)
    if args.no_nms and what != "dense":
        raise ValueError(f"--no-nms gives dense boxes and scores: leave --what {what} out")
    if what != "detections" and not (args.threshold is args.nms_threshold is args.max_detections is None):
        raise ValueError(
            f"--threshold, --nms-threshold and --max-detections have no effect with --what {what}: add --what "
            "detections"
        )
    if args.batch is not None and args.size is None:
        raise ValueError("--batch belongs to --size: a graph of any size takes any number of images")
    if args.half and args.format in ("torch", "litert"):
        raise ValueError("--half is for onnx and openvino: leave it out")
    if args.format == "litert":
        check_litert(what)
        if args.size is None:
            raise ValueError("--format litert needs --size: the format has no open sizes; write e.g. --size 640")
        import_package("litert_torch", "litert")
    if args.format in ("onnx", "openvino"):
        check_onnx()
    if args.format == "openvino":
        import_package("openvino", "openvino")


def write(args: argparse.Namespace, model: Detector, path: Path, what: What) -> None:
    """Write the file in the format of the arguments."""
    from pkdzoo.export import FixedSize, export_litert, export_onnx, export_openvino, export_program
    from pkdzoo.export.program import round_up

    fixed = None
    if args.size is not None:
        width, height = (round_up(side) for side in args.size)
        if (width, height) != args.size:
            note(f"the size is rounded up to {width} x {height} pixels, multiples of 32")
        fixed = FixedSize(height, width, args.batch or 1)
    limits = (args.threshold, args.nms_threshold, args.max_detections)
    if args.format == "torch":
        export_program(model, path, what, *limits, fixed)
    elif args.format == "litert":
        assert fixed is not None  # see check_arguments
        export_litert(model, path, fixed, what)
    else:
        export = export_onnx if args.format == "onnx" else export_openvino
        export(model, path, what, *limits, fixed, args.half)


def pixels(text: str) -> tuple[int, int]:
    """Parse ``640`` or ``640x480`` as (width, height)."""
    parts = text.lower().split("x")
    sides = [int(part) for part in parts if part.strip().isdecimal()]
    if len(sides) < len(parts) or len(sides) > 2 or min(sides) < 1 or max(sides) > MAX_SIDE:
        raise argparse.ArgumentTypeError(f"{text}: write one side or WIDTHxHEIGHT, of at most {MAX_SIDE} pixels")
    return sides[0], sides[-1]


EXPORT = Verb(
    "export a detector to ONNX, OpenVINO, LiteRT or torch.export",
    (
        "pkdzoo export retina_r50_pkd_swin --threshold 0.3",
        "pkdzoo export runs/mine/best --what dense --output mine.onnx",
        "pkdzoo export rtmdet_tiny_kd_s --size 640 --format openvino --half",
        "pkdzoo export runs/mine/best --size 640 --int8 --data cells",
        "pkdzoo export retina_r50 --format torch",
    ),
    export_arguments,
    export_run,
)
