"""``pkdzoo push``: a detector to the Hub, with its card."""

from __future__ import annotations

import argparse
import tempfile

from pkdzoo.cli.common import Parser, Verb, note, show
from pkdzoo.hub.upload import README, listing, push_folder
from pkdzoo.training.publish import prepare

WORDS = (
    "arch",
    "license",
    "teacher_license",
    "data",
    "data_license",
    "image",
)  # of ``prepare``, where they are given


def push_arguments(parser: Parser) -> None:
    """Arguments of ``push``."""
    parser.add_argument("source", help="a run's folder, a registered name, or a checkpoint file (with --arch)")
    parser.add_argument("--repo", required=True, metavar="ORG/NAME", help="repository; made when missing")
    parser.add_argument(
        "--dry-run", nargs="?", const="", metavar="FOLDER", help="send nothing: print the card, or write the folder"
    )
    parser.add_argument("--arch", metavar="NAME", help="of a checkpoint file: which detector it is")
    parser.add_argument(
        "--license", metavar="ID", help="of the weights, e.g. Apache-2.0; a registered name has its own"
    )
    parser.add_argument("--teacher-license", metavar="ID", help="of the teacher's weights")
    parser.add_argument("--data", metavar="NAME", help="data set it was trained on")
    parser.add_argument("--data-license", metavar="ID", help="of the data set")
    parser.add_argument("--image", metavar="FILE", help="photograph that the card shows with what is found on it")
    parser.add_argument("--private", action="store_true", default=None, help="of a new repository")


def push_run(args: argparse.Namespace) -> int:
    """Prepare, show, send."""
    given = {word: getattr(args, word) for word in WORDS if getattr(args, word) is not None}
    with tempfile.TemporaryDirectory() as place:
        folder = prepare(args.source, args.dry_run or place, args.repo, **given)
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        note(listing(folder))
        card = (folder / README).read_text(encoding="utf-8")
        address = push_folder(folder, args.repo, private=args.private) if args.dry_run is None else None
    told = {"repository": args.repo, "files": files, "folder": args.dry_run or None, "address": address}
    show(args, address or args.dry_run or card, told)
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
