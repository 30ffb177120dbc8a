"""``pkdzoo data``: checks, converts, previews and labels data sets."""

from __future__ import annotations

import argparse
from pathlib import Path

from pkdzoo.cli.common import LAYOUTS, Parser, Verb, add_detector, comma_list, detector_from_args, note, show
from pkdzoo.inference.options import LABEL_THRESHOLD
from pkdzoo.utils.option_types import natural_int, positive_int, share

FORMATS = ("coco", "voc", "yolo")  # to write, as pkdzoo.data.formats.read.FORMATS


def _add_folder(parser: Parser) -> None:
    parser.add_argument("folder", type=Path, help=f"folder of a data set ({LAYOUTS}), or a data.yaml")


def _add_splits(parser: Parser) -> None:
    parser.add_argument("--split", action="append", metavar="NAME", help="this split only; may be repeated")


def check_arguments(parser: Parser) -> None:
    """Add the arguments of ``data check``."""
    _add_folder(parser)
    _add_splits(parser)
    parser.add_argument(
        "--headers", action="store_true", help="read the headers of images only: faster, but misses truncated files"
    )


def check_run(args: argparse.Namespace) -> int:
    """Print counts and findings; exit code 1 if a finding breaks training or evaluation."""
    from pkdzoo.dataset_tools.check import check

    report = check(args.folder, args.split, decode=not args.headers, progress=True)
    show(args, report, report.to_dict())
    return 1 if report.errors else 0


CHECK = Verb(
    "check a data set: counts, suspicious boxes, unreadable images, images in several splits",
    ("pkdzoo data check bccd", "pkdzoo data check my/data.yaml --split train --json"),
    check_arguments,
    check_run,
)


def convert_arguments(parser: Parser) -> None:
    """Add the arguments of ``data convert``."""
    _add_folder(parser)
    parser.add_argument("target", type=Path, help="a new folder")
    parser.add_argument("--to", required=True, choices=FORMATS, help="format to write")
    _add_splits(parser)
    parser.add_argument("--link", action="store_true", help="make symbolic links to the images instead of copies")
    parser.add_argument(
        "--follow-links", action="store_true", help="copy what symbolic links among the images point to"
    )
    parser.add_argument(
        "--hold-out",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="share of train that becomes val, if there is no val",
    )


def convert_run(args: argparse.Namespace) -> int:
    """Convert, and print what the new format cannot store."""
    from pkdzoo.dataset_tools.convert import convert

    report = convert(
        args.folder,
        args.target,
        args.to,
        args.split,
        args.link,
        progress=True,
        hold_out=args.hold_out,
        follow_links=args.follow_links,
    )
    show(args, report, report.to_dict())
    return 0


CONVERT = Verb(
    "write a data set in another format",
    (
        "pkdzoo data convert VOC2007 coco --to coco --link",
        "pkdzoo data convert my/data.yaml my_coco --to coco --hold-out 0.2",
    ),
    convert_arguments,
    convert_run,
)


def preview_arguments(parser: Parser) -> None:
    """Add the arguments of ``data preview``."""
    _add_folder(parser)
    default = "(default: %(default)s)"
    sheet = Path("preview.png")
    parser.add_argument("--split", default="train", metavar="NAME", help=f"split to draw from {default}")
    parser.add_argument("--output", type=Path, default=sheet, metavar="FILE", help=f"image to write {default}")
    parser.add_argument("--count", type=positive_int, default=12, metavar="N", help=f"number of images {default}")
    parser.add_argument("--columns", type=positive_int, default=4, metavar="N", help=f"images per row {default}")
    parser.add_argument(
        "--tile", type=positive_int, default=400, metavar="N", help=f"longer side of an image in pixels {default}"
    )
    parser.add_argument(
        "--seed", type=natural_int, default=0, metavar="N", help=f"random seed of the selection {default}"
    )


def preview_run(args: argparse.Namespace) -> int:
    """Write a contact sheet."""
    from pkdzoo.dataset_tools.preview import preview
    from pkdzoo.utils.files import check_target

    check_target(args.output)
    sheet = preview(args.folder, args.split, args.count, args.columns, args.tile, args.seed)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(args.output)
    show(args, args.output, {"output": str(args.output), "width": sheet.width, "height": sheet.height})
    return 0


PREVIEW = Verb(
    "draw a contact sheet of annotated images",
    ("pkdzoo data preview bccd --split val --output sheet.png",),
    preview_arguments,
    preview_run,
)


def label_arguments(parser: Parser) -> None:
    """Add the arguments of ``data label``."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of images, subfolders included")
    add_detector(parser, option=True)
    parser.add_argument(
        "--threshold",
        type=share,
        default=LABEL_THRESHOLD,
        metavar="SCORE",
        help="minimum score of a box (default: %(default)s)",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="COCO annotation file to write; it must not exist"
    )
    parser.add_argument("--classes", type=comma_list, metavar="NAMES", help="these classes only, separated by commas")
    parser.add_argument("--batch-size", type=positive_int, default=1, metavar="N", help="images per batch (default: 1)")


def label_run(args: argparse.Namespace) -> int:
    """Write the file; exit code 1 if an image could not be read."""
    from pkdzoo.dataset_tools.label import check_output, label

    check_output(args.output)  # before the detector is loaded
    report = label(
        args.folder,
        detector_from_args(args),
        args.output,
        args.threshold,
        args.model,
        args.classes,
        args.batch_size,
        progress=True,
    )
    for line in report.unreadable:
        note(line)
    show(args, report, report.to_dict())
    return 1 if report.unreadable else 0


LABEL = Verb(
    "label a folder of images with a detector: its detections become a COCO annotation file",
    (
        "pkdzoo data label photos/images --model runs/teacher --output photos/annotations/instances_train.json",
        "pkdzoo data label street --model rtmdet_m --threshold 0.6 --classes person,car --output street.json",
    ),
    label_arguments,
    label_run,
)
