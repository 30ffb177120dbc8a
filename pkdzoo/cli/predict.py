"""``pkdzoo predict``: detects objects in images and videos; memory does not grow with their number."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pkdzoo.cli.common import (
    NMS_HELP,
    Parser,
    Verb,
    add_detector,
    comma_list,
    detector_from_args,
    exported_from_args,
    is_exported,
    note,
)
from pkdzoo.inference.options import DEFAULT_THRESHOLD, OVERLAP
from pkdzoo.utils.option_types import natural_int, positive_int, share
from pkdzoo.utils.text import printable

if TYPE_CHECKING:
    from pkdzoo.inference.result import Result

# Fields of pkdzoo.inference.PredictOptions, each an argument of the same name.
PREDICT_OPTIONS = (
    "threshold",
    "nms_threshold",
    "max_detections",
    "classes",
    "batch_size",
    "flip",
    "sizes",
    "tiles",
    "overlap",
    "workers",
)


def sides(text: str) -> tuple[int, ...]:
    """Parse short sides in pixels, separated by commas."""
    return tuple(positive_int(part) for part in comma_list(text))


def threshold(text: str) -> float | Literal["none"]:
    """Parse a number from 0 to 1, or ``none`` for the detector's own threshold."""
    try:
        return "none" if text.lower() == "none" else share(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, or none") from None


def predict_arguments(parser: Parser) -> None:
    """Add the arguments of ``predict``."""
    add_detector(parser, "; or a file of 'pkdzoo export' (.onnx, .xml)")
    images = "image files, folders, videos, http(s) links, and wildcards in quotes ('**' includes subfolders)"
    parser.add_argument("images", nargs="+", help=images)
    parser.add_argument(
        "--threshold",
        type=threshold,
        metavar="SCORE",
        help=f"minimum score; 'none' is the detector's own, which eval uses (default: {DEFAULT_THRESHOLD})",
    )
    parser.add_argument("--nms-threshold", type=share, help=NMS_HELP)
    parser.add_argument("--max-detections", type=positive_int, help="maximum number of detections per image")
    parser.add_argument("--classes", type=comma_list, metavar="NAMES", help="these classes only, separated by commas")
    parser.add_argument("--batch-size", type=positive_int, default=1, metavar="N", help="images per batch (default: 1)")
    parser.add_argument(
        "--flip", action="store_true", help="detect in the mirrored image as well and merge the results"
    )
    parser.add_argument("--sizes", type=sides, metavar="PIXELS", help="detect at several short sides: 640,800,960")
    tiles = "detect large images in tiles of this side, e.g. 640 (default: the whole image at once)"
    parser.add_argument("--tiles", type=positive_int, metavar="PIXELS", help=tiles)
    overlap = f"with --tiles: overlap of neighbors, as a share of a tile (default: {OVERLAP})"
    parser.add_argument("--overlap", type=share, metavar="SHARE", help=overlap)
    workers = "threads that decode the next images during the forward pass (default: 1)"
    parser.add_argument("--workers", type=natural_int, default=1, metavar="N", help=workers)
    parser.add_argument("--every", type=positive_int, default=1, metavar="N", help="use every N-th frame of a video")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write annotated images and videos here")
    parser.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="write detections: FILE.jsonl with one image per line, or FILE.json in COCO's format with scores",
    )


def predict_run(args: argparse.Namespace) -> int:
    """Print and write the detections of each image; one batch at a time is in memory."""
    from pkdzoo.cli.writers import DrawingWriter, drawing_paths, open_detection_writer
    from pkdzoo.utils.files import check_target

    paths = find_inputs(args.images)
    if args.every > 1 and not any(map(is_video_file, paths)):
        raise ValueError(f"--every {args.every} is for videos, and there is none: leave it out")
    outputs = drawing_paths(paths, args.output) if args.output else {}
    if args.save is not None and args.save.suffix not in (".json", ".jsonl"):
        raise ValueError(f"--save {args.save}: write a name that ends in .jsonl or .json")
    if args.save is not None:
        check_target(args.save, "--save")
    model = exported_from_args(args) if is_exported(args.model) else detector_from_args(args)
    given = {name: getattr(args, name) for name in PREDICT_OPTIONS if getattr(args, name) is not None}
    options: dict[str, Any] = {name: None if value == "none" else value for name, value in given.items()}
    total = None if any(map(is_video_file, paths)) else len(paths)
    results = model.predict_stream(images_of(paths, args.every), **options)  # refuses options before a file is made
    done = failed = 0
    with ExitStack() as stack:
        writer = stack.enter_context(open_detection_writer(args.save, model.label_names)) if args.save else None
        drawings = stack.enter_context(DrawingWriter(outputs, args.every)) if outputs else None
        for result in with_progress(results, total):
            done, failed = done + 1, failed + (result.error is not None)
            print_result(args, result)
            if writer is not None:
                writer.add(result)
            if drawings is not None and result.error is None:
                drawings.add(result)
    if failed:
        note(f"{failed} of {done} images could not be read")
    return 1 if failed else 0


def print_result(args: argparse.Namespace, result: Result) -> None:
    """Print the detections of one image, and why it could not be read to stderr."""
    if args.json:
        print(printable(json.dumps(result.to_json(), ensure_ascii=False)), flush=True)
    elif result.error is None:
        print(result, flush=True)
    if result.error is not None:
        note(result.error)


def is_video_file(path: str) -> bool:
    """Whether a path is a local video, not a link."""
    from pkdzoo.inference.video import is_video
    from pkdzoo.inference.web import is_link

    return is_video(path) and not is_link(path)


def find_inputs(arguments: Iterable[str]) -> list[str]:
    """Images and videos of files, folders, links and wildcards, in their order, without duplicates.

    Raises:
        ValueError: for a missing file or folder, and a folder or wildcard without images.
    """
    from pkdzoo.inference.sources import files_like, images_in, is_wildcard
    from pkdzoo.inference.web import is_link

    def inputs_of(text: str) -> list[str]:
        if is_link(text):
            return [text]
        if Path(text).is_dir():
            return [str(path) for path in images_in(text)]
        if is_wildcard(text):
            return [str(path) for path in files_like(text)]
        if not Path(text).exists():
            raise ValueError(f"{text}: there is no such file or folder: write the path of an image")
        return [text]

    return list(dict.fromkeys(chain.from_iterable(map(inputs_of, arguments))))


def images_of(paths: Iterable[str], every: int) -> Iterator[Any]:
    """Image paths, and every ``every``-th frame of videos."""
    from pkdzoo.inference.sources import iterate_frames

    for path in paths:
        if is_video_file(path):
            yield from iterate_frames(path, every)
        else:
            yield path


def with_progress(results: Iterator[Result], total: int | None) -> Iterable[Result]:
    """Show a progress bar if stderr is a terminal and results are not printed on one."""
    from tqdm import tqdm

    hidden = not sys.stderr.isatty() or sys.stdout.isatty()
    bar: Iterable[Result] = tqdm(results, total=total, unit="image", disable=hidden)
    return bar


PREDICT = Verb(
    "detect objects in images and videos",
    (
        "pkdzoo predict retina_r50_pkd_swin street.jpg --output annotated",
        "pkdzoo predict retina_r50_pkd_swin photos 'more/**/*.png' --classes person,dog --save detections.json",
        "pkdzoo predict runs/mine/best street.mp4 --every 5 --flip --output annotated --save detections.jsonl",
        "pkdzoo predict rtmdet_s aerial.png --tiles 640 --output annotated",
        "pkdzoo predict gfl_r50 photos --checkpoint my.safetensors --labels cat,dog --json > detections.jsonl",
    ),
    predict_arguments,
    predict_run,
)
