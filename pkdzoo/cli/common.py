"""Helpers that several verbs of the command line use."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pkdzoo.utils.text import printable

if TYPE_CHECKING:
    import torch

    from pkdzoo.export import ExportedDetector
    from pkdzoo.models.detector import Detector

Parser = argparse.ArgumentParser
COMMON = ("verb", "words", "json", "debug")  # what a parsed command line has besides the options of its verb
MODEL_HELP = "a name from 'pkdzoo list', the folder of a saved detector or of a run, or hf-hub:ORG/NAME"
LAYOUTS = (
    "COCO, Roboflow, Pascal VOC, YOLO, labelImg, labelme, csv"  # that are read, for people without docs/own_data.md
)

TEXT_LISTS = (".txt", ".names", ".list", ".lst")  # suffixes of files with one name per line
OTHER_LISTS = (".json", ".yaml", ".yml", ".csv", ".xml")  # of other files that name classes
PLACE = re.compile(r"[./~]|[A-Za-z]:[\\/]|.*[\\/].*\.\w+$")  # texts that can only be paths
MAX_PATH = 250  # bytes, below the limit of every file system

NMS_HELP = "IoU above which the lower-scoring of two boxes of one class is dropped (default: the detector's)"


@dataclass(frozen=True)
class Verb:
    """One verb.

    Attributes:
        help: description in one sentence.
        examples: command lines.
        arguments: adds the verb's arguments to a parser that has ``--json`` and ``--debug``.
        run: runs the verb and returns the exit code.
    """

    help: str
    examples: tuple[str, ...]
    arguments: Callable[[Parser], None]
    run: Callable[[argparse.Namespace], int]


def show(args: argparse.Namespace, text: object, content: Any) -> None:
    """Print a result: ``text``, or ``content`` as JSON with ``--json``; control characters are escaped."""
    shown = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) if args.json else str(text)
    print(printable(shown, keep="\n\t"))


def note(message: str) -> None:
    """Print a message that is not part of the result to stderr."""
    print(printable(f"pkdzoo: {message}", keep="\n\t"), file=sys.stderr)


def comma_list(text: str) -> tuple[str, ...]:
    """Parse texts separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def add_detector(parser: Parser, more: str = "", device: bool = True, option: bool = False) -> None:
    """Add the arguments that select a detector; :func:`detector_from_args` reads them.

    Args:
        parser: parser of the verb.
        more: help on further values of the first argument.
        device: add ``--device``.
        option: the detector is ``--model NAME``, because the first argument is something else.
    """
    if option:
        parser.add_argument("--model", required=True, metavar="NAME", help=MODEL_HELP + more)
    else:
        parser.add_argument("model", help=MODEL_HELP + more)
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="load these weights (.safetensors, .pth)")
    add_labels(parser, "with --checkpoint: class names", "those in the file, else coco")
    if device:
        parser.add_argument(
            "--device", default="auto", help="cpu, cuda, cuda:1 or mps (default: auto, a GPU if there is one)"
        )


def add_labels(parser: Parser, help: str, default: str) -> None:
    """Add ``--labels``; :func:`read_labels` reads it. ``default`` says what is taken without it."""
    help += f" separated by commas, a text file with one name per line, or coco (default: {default})"
    parser.add_argument("--labels", metavar="NAMES", help=help)


def is_exported(model: str) -> bool:
    """Whether the first argument is a file of ``pkdzoo export``."""
    return model.endswith((".onnx", ".xml", ".tflite", ".pt2"))  # pkdzoo.export.ExportedDetector refuses the last two


def exported_from_args(args: argparse.Namespace, threads: int | None = None) -> ExportedDetector:
    """The exported file that the first argument names.

    Raises:
        ValueError: for arguments that belong to other detectors, and as :class:`pkdzoo.export.ExportedDetector`.
    """
    from pkdzoo.export import ExportedDetector

    if args.checkpoint is not None or args.labels is not None:
        raise ValueError(f"{args.model} has weights and class names of its own: leave --checkpoint and --labels out")
    if getattr(args, "device", "auto") not in ("auto", "cpu"):
        raise ValueError(f"{args.model} runs on the CPU here: leave --device {args.device} out")
    if getattr(args, "mixed_precision", None) is not None:
        raise ValueError(f"{args.model} has a precision of its own: leave --mixed-precision out")
    return ExportedDetector(args.model, threads)


def detector_from_args(args: argparse.Namespace, device: torch.device | None = None) -> Detector:
    """The selected detector with weights, in eval mode, on its device.

    Raises:
        ValueError: for an unknown name, an exported file, and weights that do not fit or have no source.
    """
    from pkdzoo.models._factory import create_detector
    from pkdzoo.models._loading import load_checkpoint
    from pkdzoo.training.evaluate import open_detector

    if is_exported(args.model):
        raise ValueError(
            f"{args.model} is a file of 'pkdzoo export', which predict and eval take: write the detector it was made of"
        )
    if args.checkpoint is None:
        if args.labels is not None:
            raise ValueError("--labels belongs to --checkpoint: leave it out, published weights have class names")
        model = open_detector(args.model)
    else:
        model = load_checkpoint(
            create_detector(args.model, label_names=labels_for(args.labels, args.checkpoint)), args.checkpoint
        )
    return model.to(device or device_of(args.device))


def device_of(text: str) -> torch.device:
    """The device of ``--device``.

    Raises:
        ValueError: for an unknown device, or one that this machine does not have.
    """
    import torch

    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if text == "auto" else text)
    except RuntimeError:
        raise ValueError(f"--device {text}: write cpu, cuda, cuda:1 or mps") from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch is built without this device
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(f"--device {text} cannot be used here ({reason}): write --device cpu") from None
    return device


def labels_for(text: str | None, checkpoint: Path) -> str | tuple[str, ...]:
    """Class names of ``--labels``; without it those in the checkpoint, else COCO's."""
    from pkdzoo.models._loading import saved_labels

    return read_labels(text) if text is not None else saved_labels(checkpoint) or "coco"


def read_labels(text: str) -> str | tuple[str, ...]:
    """Class names of ``--labels``.

    Raises:
        ValueError: for a file that does not exist or is no list of names, and for no name at all.
    """
    from pkdzoo.data.labels import KNOWN

    if text in KNOWN:
        return text
    path = Path(text)
    is_file = len(text.encode()) <= MAX_PATH and path.is_file()
    if not is_file and "," not in text and (path.suffix.lower() in (*TEXT_LISTS, *OTHER_LISTS) or PLACE.match(text)):
        raise ValueError(f"--labels {text}: there is no such file: check the path, or write names separated by commas")
    if is_file and path.suffix.lower() in OTHER_LISTS:
        raise ValueError(f"--labels {text}: write a text file with one name per line, or names separated by commas")
    try:
        names = tuple(path.read_text(encoding="utf-8-sig").splitlines()) if is_file else comma_list(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"--labels {text} is no text in UTF-8: save it as UTF-8, one name per line") from error
    names = tuple(name.strip() for name in names if name.strip())
    if not names:
        raise ValueError(f"--labels {text}: it has no names: write some, separated by commas or one per line of a file")
    return names
