"""``pkdzoo report``: writes the report of runs again, also of several side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from pkdzoo.cli.common import Parser, Verb, show


def report_arguments(parser: Parser) -> None:
    """Add the arguments of ``report``."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="(default: report.html in the first folder, or with several runs here)",
    )
    parser.add_argument("--no-images", action="store_true", help="leave the validation images out")


def report_run(args: argparse.Namespace) -> int:
    """Write the report, and print its path."""
    from pkdzoo.training.report.page import REPORT, write_report
    from pkdzoo.utils.files import check_target

    target = args.output or (Path(REPORT) if len(args.runs) > 1 else None)
    if target is not None:
        check_target(target)
    path = write_report(args.runs, target, pictures=not args.no_images)
    show(args, path, {"output": str(path), "bytes": path.stat().st_size})
    return 0


REPORT_VERB = Verb(
    "write the report of runs as one HTML file: numbers, curves, errors and images",
    ("pkdzoo report runs/rtmdet_tiny-photos", "pkdzoo report runs/a runs/b --output both.html"),
    report_arguments,
    report_run,
)
