"""``pkdzoo export``: a detector as a file that runs without pkdzoo."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pkdzoo.cli.common import NMS_HELP, Parser, Verb, add_detector, detector_from_args, note, positive_int, share, show

if TYPE_CHECKING:
    from pkdzoo.export import What

# Suffix and default of --what by --format.
FORMATS: dict[str, tuple[str, What]] = {"onnx": (".onnx", "detections"), "torch": (".pt2", "features")}
WHAT = ("features", "dense", "detections")  # as pkdzoo.export.WHAT


def export_arguments(parser: Parser) -> None:
    """Add the arguments of ``export``."""
    add_detector(parser)
    parser.add_argument(
        "--format", choices=FORMATS, default="onnx", help="torch: a program of torch.export, .pt2 (default: onnx)"
    )
    parser.add_argument(
        "--what",
        choices=WHAT,
        help="output: features of the pyramid, dense boxes and scores before non-maximum suppression (one-stage "
        "detectors only), or detections (default: detections for onnx, features for torch)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="(default: NAME.onnx or NAME.pt2)")
    parser.add_argument("--threshold", type=share, help="minimum score of a detection (default: the detector's)")
    parser.add_argument("--nms-threshold", type=share, help=NMS_HELP)
    parser.add_argument("--max-detections", type=positive_int, help="maximum number of detections per image")


def export_run(args: argparse.Namespace) -> int:
    """Write the file, and print its path and size."""
    from pkdzoo.export import export_onnx, export_program
    from pkdzoo.export.onnx_file import check_onnx

    suffix, default = FORMATS[args.format]
    what: What = args.what or default
    if what != "detections" and not (args.threshold is args.nms_threshold is args.max_detections is None):
        raise ValueError(
            f"--threshold, --nms-threshold and --max-detections have no effect with --what {what}: add --what "
            "detections"
        )
    if args.format == "onnx":
        check_onnx()
    model = detector_from_args(args)
    path = args.output or Path(f"{Path(args.model).name}{suffix}")
    note(f"exporting {what} of {args.model} to {path}, this takes about a minute")
    write = export_onnx if args.format == "onnx" else export_program
    write(model, path, what, args.threshold, args.nms_threshold, args.max_detections)
    size = path.stat().st_size
    content = {"path": str(path), "format": args.format, "what": what, "bytes": size}
    show(args, f"{path}  {size / 1e6:.1f} MB", content)
    return 0


EXPORT = Verb(
    "export a detector as an ONNX file or a program of torch.export",
    (
        "pkdzoo export retina_r50_pkd_swin --threshold 0.3",
        "pkdzoo export runs/mine/best --what dense --output mine.onnx",
        "pkdzoo export retina_r50 --format torch",
    ),
    export_arguments,
    export_run,
)
