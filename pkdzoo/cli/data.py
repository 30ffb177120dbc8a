"""``pkdzoo data``: look over, convert and show data sets in COCO's, Pascal VOC's or YOLO's format."""

from __future__ import annotations

import argparse
from pathlib import Path

from pkdzoo.cli.common import Parser, Verb, count, share, show
from pkdzoo.data.formats.read import FORMATS
from pkdzoo.dataset_tools.check import check
from pkdzoo.dataset_tools.convert import convert
from pkdzoo.dataset_tools.preview import preview


def _add_folder(parser: Parser) -> None:
    parser.add_argument("folder", type=Path, help="a data set in COCO's, VOC's or YOLO's layout, or a data.yaml")


def _add_splits(parser: Parser) -> None:
    parser.add_argument("--split", action="append", metavar="NAME", help="only this one; may be repeated")


def check_arguments(parser: Parser) -> None:
    """Arguments of ``data check``."""
    _add_folder(parser)
    _add_splits(parser)
    parser.add_argument("--headers", action="store_true", help="read images' headers only: faster, misses cut files")


def check_run(args: argparse.Namespace) -> int:
    """Counts and findings; exit code 1 where training or evaluation would stumble."""
    report = check(args.folder, args.split, decode=not args.headers, progress=True)
    show(args, report, report.to_dict())
    return 1 if report.errors else 0


CHECK = Verb(
    "look over a data set: counts, suspicious boxes, broken images, images that splits share",
    ("pkdzoo data check bccd", "pkdzoo data check my/data.yaml --split train --json"),
    check_arguments,
    check_run,
)


def convert_arguments(parser: Parser) -> None:
    """Arguments of ``data convert``."""
    _add_folder(parser)
    parser.add_argument("target", type=Path, help="a new folder")
    parser.add_argument("--to", required=True, choices=FORMATS, help="format to write")
    _add_splits(parser)
    parser.add_argument("--link", action="store_true", help="make symbolic links to the images instead of copies")
    parser.add_argument(
        "--hold-out", type=share, default=0.0, metavar="SHARE", help="of train, to become val where there is none"
    )


def convert_run(args: argparse.Namespace) -> int:
    """Another format, and what it has no place for."""
    report = convert(args.folder, args.target, args.to, args.split, args.link, progress=True, hold_out=args.hold_out)
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
    """Arguments of ``data preview``."""
    _add_folder(parser)
    told = "(default: %(default)s)"
    sheet = Path("preview.png")
    parser.add_argument("--split", default="train", metavar="NAME", help=f"split to draw from {told}")
    parser.add_argument("--output", type=Path, default=sheet, metavar="FILE", help=f"image to write {told}")
    parser.add_argument("--count", type=count, default=12, metavar="N", help=f"images {told}")
    parser.add_argument("--columns", type=count, default=4, metavar="N", help=f"images in a row {told}")
    parser.add_argument("--tile", type=count, default=400, metavar="N", help=f"pixels of a longer side {told}")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help=f"of the choice {told}")


def preview_run(args: argparse.Namespace) -> int:
    """A contact sheet."""
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
