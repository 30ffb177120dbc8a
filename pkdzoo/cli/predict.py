"""``pkdzoo predict``: pictures in, detections out, however many there are."""

from __future__ import annotations

import argparse
import glob
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from pkdzoo.cli.common import Parser, Verb, add_detector, count, note, open_detector, share, words
from pkdzoo.data.inputs import pictures_in
from pkdzoo.labels import coco_ids
from pkdzoo.results import Result

DRAWN_AS = (".jpg", ".jpeg", ".png", ".webp")  # other pictures are drawn as PNG
SCORE = 0.3  # for people; AP is measured down to 0.05


def predict_arguments(parser: Parser) -> None:
    """Arguments of ``predict``."""
    add_detector(parser)
    parser.add_argument("pictures", nargs="+", help="files, folders, and wildcards in quotes ('**' goes into folders)")
    parser.add_argument("--score", type=share, default=SCORE, help="lowest score (default: %(default)s)")
    parser.add_argument("--iou", type=share, help="overlap above which a worse box of the same class is dropped")
    parser.add_argument("--top", type=count, help="detections a picture at most")
    parser.add_argument("--classes", type=words, metavar="NAMES", help="only these, between commas")
    parser.add_argument("--batch-size", type=count, default=1, metavar="N", help="pictures in one pass")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write annotated pictures here")
    parser.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="write detections: FILE.jsonl, one picture a line; FILE.json, COCO's format with scores",
    )


def predict_run(args: argparse.Namespace) -> int:
    """Detections of each picture, one batch in memory at a time."""
    paths = gather(args.pictures)
    drawings = drawing_places(paths, args.output) if args.output else {}
    if args.save is not None and args.save.suffix not in (".json", ".jsonl"):
        raise ValueError(f"--save {args.save}: write a name that ends in .jsonl or .json")
    model = open_detector(args)
    found = model.predict_stream(paths, args.score, args.iou, args.top, args.classes, args.batch_size)
    failed = 0
    with ExitStack() as stack:
        writers = [stack.enter_context(writing(args.save, model.label_names))] if args.save else []
        for result, path in zip(with_bar(found, len(paths)), paths):
            if args.json:
                print(json.dumps(result.to_json(), ensure_ascii=False), flush=True)
            elif result.error is None:
                print(result, flush=True)
            for writer in writers:
                writer.add(result)
            if result.error is not None:
                failed += 1
                note(result.error)
            elif drawings:
                result.save(drawings[path], score=0.0)  # the threshold has been applied
    if failed:
        note(f"{failed} of {len(paths)} pictures could not be read")
    return 1 if failed else 0


def gather(given: Iterable[str]) -> list[str]:
    """Picture files behind files, folders and wildcards, each once, in the order given.

    Raises:
        ValueError: a name leads to nothing.
    """
    found: list[str] = []
    for text in given:
        if Path(text).is_dir():
            found += [str(path) for path in pictures_in(text)]
        elif Path(text).exists():
            found.append(text)
        elif glob.has_magic(text):
            matches = sorted(match for match in glob.glob(text, recursive=True) if Path(match).is_file())
            if not matches:
                raise ValueError(f"no file fits {text!r}")
            found += matches
        else:
            raise ValueError(f"{text}: there is no such file or folder")
    return list(dict.fromkeys(found))


def drawing_places(paths: list[str], folder: Path) -> dict[str, Path]:
    """Where each annotated picture goes; the folder is made.

    Raises:
        ValueError: an annotated picture would replace a picture that is read.
    """
    sources = {Path(path).resolve() for path in paths}
    places: dict[str, Path] = {}
    taken: set[str] = set()
    for path in paths:
        stem, suffix = Path(path).stem, Path(path).suffix
        suffix = suffix if suffix.lower() in DRAWN_AS else ".png"
        name, again = f"{stem}{suffix}", 2
        while name.lower() in taken:  # some file systems take A and a for one
            name, again = f"{stem}_{again}{suffix}", again + 1
        taken.add(name.lower())
        places[path] = folder / name
        if places[path].resolve() in sources:
            raise ValueError(f"--output {folder} would overwrite {path}: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    return places


def with_bar(results: Iterator[Result], total: int) -> Iterable[Result]:
    """A progress bar, where there is a terminal for it that results are not printed on."""
    hidden = not sys.stderr.isatty() or sys.stdout.isatty()
    bar: Iterable[Result] = tqdm(results, total=total, unit="picture", disable=hidden)
    return bar


# -- files of detections -----------------------------------------------------------------------------------------


class Lines:
    """One JSON object a picture, one picture a line."""

    def __init__(self, file: TextIO, label_names: tuple[str, ...]) -> None:
        self.file = file

    def add(self, result: Result) -> None:
        """Write a picture's line."""
        self.file.write(json.dumps(result.to_json(), ensure_ascii=False) + "\n")
        self.file.flush()

    def end(self) -> None:
        """Nothing more to write."""


class Coco:
    """A whole COCO file whose annotations have scores; it loads as a data set, and its annotations are results.

    Annotations are written as they come; of each picture only its record is kept until the end.
    """

    def __init__(self, file: TextIO, label_names: tuple[str, ...]) -> None:
        self.file, self.label_names = file, label_names
        self.ids = coco_ids(label_names) or {label: label + 1 for label in range(len(label_names))}
        self.images: list[dict[str, Any]] = []
        self.rows = 0
        file.write('{"annotations": [')

    def add(self, result: Result) -> None:
        """Write a picture's detections; one that could not be read has no size and is left out."""
        if result.error is not None:
            return
        number = len(self.images) + 1
        height, width = result.size
        self.images.append({"id": number, "file_name": result.path, "height": height, "width": width})
        for row in result.to_coco(number, self.ids):
            self.rows += 1
            area = row["bbox"][2] * row["bbox"][3]
            text = json.dumps({"id": self.rows, **row, "area": area, "iscrowd": 0})
            self.file.write(("\n" if self.rows == 1 else ",\n") + text)

    def end(self) -> None:
        """Write pictures and classes."""
        categories = [{"id": self.ids[label], "name": name} for label, name in enumerate(self.label_names)]
        rest = json.dumps({"images": self.images, "categories": categories}, ensure_ascii=False)
        self.file.write(f"\n], {rest[1:]}\n")


@contextmanager
def writing(path: Path, label_names: tuple[str, ...]) -> Iterator[Lines | Coco]:
    """The writer of a file of detections. Lines stand in their file at once; a COCO file appears when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.suffix == ".jsonl"
    beside = path if lines else path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            writer = Lines(file, label_names) if lines else Coco(file, label_names)
            yield writer
            writer.end()
        if not lines:
            os.replace(beside, path)
    finally:
        if not lines:
            beside.unlink(missing_ok=True)


PREDICT = Verb(
    "detect objects in pictures",
    (
        "pkdzoo predict retina_r50_pkd_swin street.jpg --output annotated",
        "pkdzoo predict retina_r50_pkd_swin photos 'more/**/*.png' --classes person,dog --save found.json",
        "pkdzoo predict gfl_r50 photos --checkpoint my.safetensors --labels cat,dog --json > found.jsonl",
    ),
    predict_arguments,
    predict_run,
)
