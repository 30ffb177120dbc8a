"""What the verbs of the command line share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pkdzoo.models._factory import create_detector
from pkdzoo.models._loading import load_checkpoint
from pkdzoo.models.detector import Detector
from pkdzoo.training.evaluate import open_detector as open_trained

Parser = argparse.ArgumentParser
# File names need not be UTF-8; what is not stands as \udcXX, which is how JSON escapes it, too.
ESCAPED = "backslashreplace"
WHICH = "a name out of 'pkdzoo list', a folder that holds a detector or a run, or hf-hub:ORG/NAME"


@dataclass(frozen=True)
class Verb:
    """One thing to do.

    Attributes:
        help: in one sentence.
        examples: command lines.
        arguments: adds its own to a parser that has ``--json`` and ``--debug``.
        run: does it, and returns the exit code.
    """

    help: str
    examples: tuple[str, ...]
    arguments: Callable[[Parser], None]
    run: Callable[[argparse.Namespace], int]


def show(args: argparse.Namespace, text: object, content: Any) -> None:
    """Print a result: ``text`` for people, ``content`` after ``--json``."""
    print(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) if args.json else text)


def note(message: str) -> None:
    """Say something that is no result."""
    print(f"pkdzoo: {message}", file=sys.stderr)


def count(text: str) -> int:
    """A whole number from 1 up."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 up")
    return number


def share(text: str) -> float:
    """A number from 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} does not lie in 0..1")
    return number


def words(text: str) -> tuple[str, ...]:
    """Words between commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def add_detector(parser: Parser, more: str = "", device: bool = True) -> None:
    """Arguments that choose a detector; :func:`open_detector` reads them.

    Args:
        parser: of the verb.
        more: what else the first word may be.
        device: the verb runs on one device, and asks which.
    """
    parser.add_argument("model", help=WHICH + more)
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights of one's own (.safetensors, .pth)")
    add_labels(parser, "with --checkpoint: class names")
    if device:
        parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto takes a GPU if there is one")


def add_labels(parser: Parser, told: str) -> None:
    """``--labels``, which :func:`named` reads."""
    told += " between commas, a text file with one a line, or coco (the default)"
    parser.add_argument("--labels", metavar="NAMES", help=told)


def open_detector(args: argparse.Namespace, device: torch.device | None = None) -> Detector:
    """The detector that the arguments name, with weights, in eval mode, on its device.

    Raises:
        ValueError: for an unknown name, weights that do not fit or that cannot be had.
    """
    if args.checkpoint is None:
        if args.labels is not None:
            raise ValueError("--labels belongs to --checkpoint; published weights bring their own names")
        model = open_trained(args.model)
    else:
        name = f"local-dir:{args.model}" if Path(args.model).is_dir() else args.model
        model = load_checkpoint(create_detector(name, label_names=named(args.labels or "coco")), args.checkpoint)
    return model.to(device or device_of(args.device))


def device_of(text: str) -> torch.device:
    """The device behind ``--device``.

    Raises:
        ValueError: there is none of that name, or not here.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if text == "auto" else text)
    except RuntimeError:
        raise ValueError(f"--device {text}: write cpu, cuda, cuda:1 or mps") from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch that was built without it
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(f"--device {text} cannot be used here ({reason}): write --device cpu") from None
    return device


def named(text: str) -> str | tuple[str, ...]:
    """Class names out of ``--labels``."""
    if Path(text).is_file():
        return tuple(line.strip() for line in Path(text).read_text(encoding="utf-8").splitlines() if line.strip())
    return text if text == "coco" else words(text)
