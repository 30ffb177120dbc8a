"""``pkdzoo predict``: images in, detections out, however many there are."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pkdzoo.cli.common import Parser, Verb, add_detector, count, note, open_detector, share, words
from pkdzoo.cli.saving import Drawings, drawing_places, writing
from pkdzoo.inference.options import PredictOptions
from pkdzoo.inference.result import Result
from pkdzoo.inference.sources import files_like, images_in, is_wildcard, iterate_frames
from pkdzoo.inference.video import is_video
from pkdzoo.inference.web import is_link

SCORE = 0.3  # for people; AP is measured down to 0.05


def sides(text: str) -> tuple[int, ...]:
    """Short sides in pixels between commas."""
    return tuple(count(word) for word in words(text))


def predict_arguments(parser: Parser) -> None:
    """Arguments of ``predict``."""
    add_detector(parser)
    told = "files, folders, videos, http(s) links, and wildcards in quotes ('**' goes into folders)"
    parser.add_argument("images", nargs="+", help=told)
    parser.add_argument("--threshold", type=share, default=SCORE, help="lowest score (default: %(default)s)")
    parser.add_argument(
        "--nms-threshold", type=share, help="overlap above which a worse box of the same class is dropped"
    )
    parser.add_argument("--max-detections", type=count, help="detections an image at most")
    parser.add_argument("--classes", type=words, metavar="NAMES", help="only these, between commas")
    parser.add_argument("--batch-size", type=count, default=1, metavar="N", help="images in one pass")
    parser.add_argument("--flip", action="store_true", help="look at the mirror image too, and unite what is found")
    parser.add_argument("--sizes", type=sides, metavar="PIXELS", help="look at these short sides: 640,800,960")
    parser.add_argument("--every", type=count, default=1, metavar="N", help="of a video, each so many-th frame")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write annotated images and videos here")
    parser.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="write detections: FILE.jsonl, one image a line; FILE.json, COCO's format with scores",
    )


def predict_run(args: argparse.Namespace) -> int:
    """Detections of each image, one batch in memory at a time."""
    paths = gather(args.images)
    places = drawing_places(paths, args.output) if args.output else {}
    if args.save is not None and args.save.suffix not in (".json", ".jsonl"):
        raise ValueError(f"--save {args.save}: write a name that ends in .jsonl or .json")
    model = open_detector(args)
    images = images_of(paths, args.every)
    options: PredictOptions = {
        "threshold": args.threshold,
        "nms_threshold": args.nms_threshold,
        "max_detections": args.max_detections,
        "classes": args.classes,
        "batch_size": args.batch_size,
        "flip": args.flip,
        "sizes": args.sizes,
    }
    total = None if any(map(video_file, paths)) else len(paths)
    done = failed = 0
    with ExitStack() as stack:
        writers: list[Any] = [stack.enter_context(writing(args.save, model.label_names))] if args.save else []
        drawings = stack.enter_context(Drawings(places, args.every)) if places else None
        for result in with_bar(model.predict_stream(images, **options), total):
            done += 1
            if args.json:
                print(json.dumps(result.to_json(), ensure_ascii=False), flush=True)
            elif result.error is None:
                print(result, flush=True)
            for writer in writers:
                writer.add(result)
            if result.error is not None:
                failed += 1
                note(result.error)
            elif drawings is not None:
                drawings.add(result)
    if failed:
        note(f"{failed} of {done} images could not be read")
    return 1 if failed else 0


def video_file(path: str) -> bool:
    """Whether it is a video on this disk."""
    return is_video(path) and not is_link(path)


def gather(given: Iterable[str]) -> list[str]:
    """Images and videos behind files, folders, links and wildcards, each once, in the order given.

    Raises:
        ValueError: a name leads to nothing.
    """
    found: list[str] = []
    for text in given:
        if is_link(text):
            found.append(text)
        elif Path(text).is_dir():
            found += map(str, images_in(text))
        elif is_wildcard(text):
            found += map(str, files_like(text))
        elif Path(text).exists():
            found.append(text)
        else:
            raise ValueError(f"{text}: there is no such file or folder")
    return list(dict.fromkeys(found))


def images_of(paths: Iterable[str], every: int) -> Iterator[Any]:
    """Single images; of a video the frames that are wanted."""
    for path in paths:
        if video_file(path):
            yield from iterate_frames(path, every)
        else:
            yield path


def with_bar(results: Iterator[Result], total: int | None) -> Iterable[Result]:
    """A progress bar, where there is a terminal for it that results are not printed on."""
    hidden = not sys.stderr.isatty() or sys.stdout.isatty()
    bar: Iterable[Result] = tqdm(results, total=total, unit="image", disable=hidden)
    return bar


PREDICT = Verb(
    "detect objects in images and videos",
    (
        "pkdzoo predict retina_r50_pkd_swin street.jpg --output annotated",
        "pkdzoo predict retina_r50_pkd_swin photos 'more/**/*.png' --classes person,dog --save found.json",
        "pkdzoo predict runs/mine/best street.mp4 --every 5 --flip --output annotated --save found.jsonl",
        "pkdzoo predict gfl_r50 photos --checkpoint my.safetensors --labels cat,dog --json > found.jsonl",
    ),
    predict_arguments,
    predict_run,
)
