"""``pkdzoo push``: uploads a detector with its card to the Hub."""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

from pkdzoo.cli.common import Parser, Verb, add_labels, note, read_labels, show
from pkdzoo.utils.files import check_target

PREPARE_OPTIONS = (
    "arch",
    "license",
    "teacher_license",
    "init_license",
    "data",
    "data_license",
    "image",
    "baseline",
    "images_allowed",
)  # arguments of prepare()


def push_arguments(parser: Parser) -> None:
    """Add the arguments of ``push``."""
    parser.add_argument("source", help="the folder of a run, a registered name, or a checkpoint file (with --arch)")
    parser.add_argument("--repo", required=True, metavar="ORG/NAME", help="repository, created if it is missing")
    parser.add_argument(
        "--dry-run",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="upload nothing: print the card, and write FOLDER if it is given",
    )
    parser.add_argument(
        "--space", metavar="ORG/NAME", help="with --dry-run FOLDER: write a Space around the published detector instead"
    )
    parser.add_argument("--arch", metavar="NAME", help="architecture of a checkpoint file")
    add_labels(parser, "for a checkpoint file: class names", "those in the file, else the architecture's")
    parser.add_argument(
        "--license",
        metavar="ID",
        help="license of the weights, e.g. Apache-2.0 (default: the one of a registered name)",
    )
    parser.add_argument("--teacher-license", metavar="ID", help="license of the teacher's weights")
    parser.add_argument(
        "--init-license", metavar="ID", help="license of the weights that the training started from, if they state none"
    )
    parser.add_argument("--data", metavar="NAME", help="name of the training data set, e.g. coco")
    parser.add_argument("--data-license", metavar="ID", help="license of the data set")
    parser.add_argument("--image", metavar="FILE", help="image that the card shows with predictions")
    parser.add_argument("--baseline", metavar="RUN", help="run of the plain student, which the card compares with")
    parser.add_argument(
        "--images-allowed", action="store_true", help="show validation images, because they may be published"
    )
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")


def push_run(args: argparse.Namespace) -> int:
    """Write the folder, list its files and upload it."""
    from pkdzoo.hub.card_licenses import UnknownLicense
    from pkdzoo.hub.card_text import render
    from pkdzoo.hub.upload import README, listing, push_folder
    from pkdzoo.training.publish import prepare

    dry = args.dry_run is not None
    if args.space is not None:
        return write_a_space(args)
    options = {name: getattr(args, name) for name in PREPARE_OPTIONS if getattr(args, name) is not None}
    if args.labels is not None:
        if args.arch is None:
            raise ValueError("--labels belongs to a checkpoint file with --arch NAME: leave it out")
        options["label_names"] = read_labels(args.labels)
    if args.dry_run:
        check_target(args.dry_run, "--dry-run", folder=True)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            folder = prepare(args.source, args.dry_run or temporary, args.repo, **options)
        except UnknownLicense as error:
            if dry and not args.json:
                show(args, render(error.card, publish=False), None)
            raise
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        note(listing(folder))
        card = (folder / README).read_text(encoding="utf-8")
        address = None if dry else push_folder(folder, args.repo, private=args.private)
    summary: dict[str, Any] = {"repository": args.repo, "files": files, "folder": args.dry_run or None}
    show(args, card if dry else address, {**summary, "address": address, **({"card": card} if dry else {})})
    if dry:
        note(f"nothing was uploaded{f'; the files are in {args.dry_run}' if args.dry_run else ''}")
    return 0


def write_a_space(args: argparse.Namespace) -> int:
    """Write the files of a Space that detects with the detector in ``--repo``."""
    from pkdzoo.app.space import write_space

    if not args.dry_run:
        raise ValueError(
            "--space only writes files: add --dry-run FOLDER, then upload them with "
            f"'hf upload {args.space} FOLDER --repo-type space'"
        )
    folder = write_space(args.dry_run, args.space, args.repo, args.license or "other")
    files = sorted(path.name for path in folder.iterdir())
    show(args, f"{folder}: {', '.join(files)}", {"space": args.space, "repository": args.repo, "files": files})
    note(
        f"nothing was uploaded. Build the wheel, 'pip wheel --no-deps -w {folder} .' in a clone of pkdzoo, then "
        f"'hf upload {args.space} {folder} --repo-type space'"
    )
    return 0


PUSH = Verb(
    "upload a detector with its card to the Hub",
    (
        "pkdzoo push runs/mine --repo me/my-detector --license Apache-2.0 --dry-run preview",
        "pkdzoo push retina_r50_pkd_swin --repo me/retina_r50_pkd_swin --private",
        "pkdzoo push runs/mine --repo me/my-detector --license Apache-2.0 --space me/demo --dry-run space",
    ),
    push_arguments,
    push_run,
)
