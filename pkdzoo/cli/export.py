"""``pkdzoo export``: a detector for where there is no pkdzoo."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from pkdzoo.cli.common import Parser, Verb, add_detector, count, note, open_detector, share, show
from pkdzoo.export import WHAT, What, export_onnx, export_program

FORMATS: dict[str, tuple[Callable[..., Path], str, What]] = {
    "onnx": (export_onnx, ".onnx", "detections"),
    "torch": (export_program, ".pt2", "features"),
}


def export_arguments(parser: Parser) -> None:
    """Arguments of ``export``."""
    add_detector(parser)
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="torch is a program of torch.export (.pt2)")
    parser.add_argument(
        "--what",
        choices=WHAT,
        help="what comes out: the pyramid's features, boxes and scores everywhere without suppression (one-stage "
        "detectors), or detections; onnx: detections, torch: features",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: NAME.onnx or NAME.pt2")
    parser.add_argument("--threshold", type=share, help="lowest score of a detection; default: the detector's own")
    parser.add_argument(
        "--nms-threshold", type=share, help="overlap above which a worse box of the same class is dropped"
    )
    parser.add_argument("--max-detections", type=count, help="detections an image at most")


def export_run(args: argparse.Namespace) -> int:
    """Write the file and say what is in it."""
    write, suffix, usual = FORMATS[args.format]
    what: What = args.what or usual
    if what != "detections" and not (args.threshold is args.nms_threshold is args.max_detections is None):
        raise ValueError(
            f"--threshold, --nms-threshold and --max-detections belong to detections, and --what is {what}: add "
            "--what detections"
        )
    model = open_detector(args)
    path = args.output or Path(f"{Path(args.model).name}{suffix}")
    note(f"writing {what} of {args.model} to {path}, which takes a minute")
    write(model, path, what, args.threshold, args.nms_threshold, args.max_detections)
    size = path.stat().st_size
    content = {"path": str(path), "format": args.format, "what": what, "bytes": size}
    show(args, f"{path}  {size / 1e6:.1f} MB", content)
    return 0


EXPORT = Verb(
    "write a detector as an ONNX file or a program of torch.export",
    (
        "pkdzoo export retina_r50_pkd_swin --threshold 0.3",
        "pkdzoo export runs/mine/best --what dense --output mine.onnx",
        "pkdzoo export retina_r50 --format torch",
    ),
    export_arguments,
    export_run,
)
