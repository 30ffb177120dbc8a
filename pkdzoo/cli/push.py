"""``pkdzoo push``: a detector to the Hub, with its card."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from pkdzoo.cli.common import Parser, Verb, note, show
from pkdzoo.repository import listing, push_folder
from pkdzoo.training.publish import prepare

WORDS = ("arch", "license", "teacher_license", "data", "data_license")  # of ``prepare``, where they are given


def push_arguments(parser: Parser) -> None:
    """Arguments of ``push``."""
    parser.add_argument("source", help="a run's folder, a registered name, or a checkpoint file (with --arch)")
    parser.add_argument("--repo", required=True, metavar="ORG/NAME", help="repository; made when missing")
    parser.add_argument("--dry-run", type=Path, metavar="FOLDER", help="write the folder to look at, send nothing")
    parser.add_argument("--arch", metavar="NAME", help="of a checkpoint file: which detector it is")
    parser.add_argument(
        "--license", metavar="ID", help="of the weights, e.g. Apache-2.0; a registered name has its own"
    )
    parser.add_argument("--teacher-license", metavar="ID", help="of the teacher's weights")
    parser.add_argument("--data", metavar="NAME", help="data set it was trained on")
    parser.add_argument("--data-license", metavar="ID", help="of the data set")
    parser.add_argument("--private", action="store_true", default=None, help="of a new repository")


def push_run(args: argparse.Namespace) -> int:
    """Prepare, show, send."""
    given = {word: getattr(args, word) for word in WORDS if getattr(args, word) is not None}
    with tempfile.TemporaryDirectory() as place:
        folder = prepare(args.source, args.dry_run or place, args.repo, **given)
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        note(listing(folder))
        address = None if args.dry_run else push_folder(folder, args.repo, private=args.private)
    told = {"repository": args.repo, "files": files, "folder": str(args.dry_run or "") or None, "address": address}
    show(args, args.dry_run or address, told)
    return 0


PUSH = Verb(
    "publish a detector on the Hub, with its card",
    (
        "pkdzoo push runs/mine --repo me/my-detector --license Apache-2.0 --dry-run look",
        "pkdzoo push retina_r50_pkd_swin --repo me/retina_r50_pkd_swin --private",
    ),
    push_arguments,
    push_run,
)
