"""The command line ``pkdzoo``: one function per verb, one table of verbs.

Results go to stdout (as JSON with ``--json``), everything else to stderr. Exit codes: 0 for success, 1 for an error, 2
for invalid arguments. An error is one line; ``--debug`` shows the traceback.

The files of this package import torch and the parts of pkdzoo that need it inside their functions, so that ``--help``,
``list`` and ``info`` answer at once.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from pkdzoo.cli.app import APP
from pkdzoo.cli.common import Verb
from pkdzoo.cli.compare import COMPARE
from pkdzoo.cli.convert import CONVERT
from pkdzoo.cli.data import CHECK, LABEL, PREVIEW
from pkdzoo.cli.data import CONVERT as CONVERT_DATA
from pkdzoo.cli.distill import DISTILL
from pkdzoo.cli.doctor import DOCTOR
from pkdzoo.cli.evaluate import EVAL
from pkdzoo.cli.export import EXPORT
from pkdzoo.cli.models import INFO, LIST
from pkdzoo.cli.predict import PREDICT
from pkdzoo.cli.push import PUSH
from pkdzoo.cli.report import REPORT_VERB
from pkdzoo.cli.train import TRAIN
from pkdzoo.hub.errors import DownloadError, UploadError
from pkdzoo.utils.option_types import refuse_empty
from pkdzoo.utils.text import ESCAPED, printable
from pkdzoo.version import __version__

VERBS: dict[str, Verb | dict[str, Verb]] = {
    "distill": DISTILL,
    "train": TRAIN,
    "list": LIST,
    "info": INFO,
    "predict": PREDICT,
    "eval": EVAL,
    "compare": COMPARE,
    "report": REPORT_VERB,
    "convert": CONVERT,
    "export": EXPORT,
    "push": PUSH,
    "app": APP,
    "doctor": DOCTOR,
    "data": {"check": CHECK, "convert": CONVERT_DATA, "preview": PREVIEW, "label": LABEL},
}
EXPECTED = (ValueError, OSError, ImportError, DownloadError, UploadError)  # their messages need no traceback
GROUPS = {"data": "check, convert, preview and label data sets"}


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs; it stores the chosen one as ``verb``."""
    parser = argparse.ArgumentParser(
        prog="pkdzoo",
        description="A model zoo of distilled object detectors.",
        epilog="pkdzoo VERB --help describes a verb and shows examples",
    )
    parser.add_argument("--version", action="version", version=f"pkdzoo {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    _add_verbs(parser, VERBS, common)
    return parser


def _add_verbs(
    parser: argparse.ArgumentParser, verbs: dict[str, Verb | dict[str, Verb]], common: argparse.ArgumentParser
) -> None:
    subparsers = parser.add_subparsers(metavar="VERB", required=True)
    for name, verb in verbs.items():
        if isinstance(verb, dict):
            group = subparsers.add_parser(name, help=GROUPS[name], description=GROUPS[name])
            _add_verbs(group, {**verb}, common)
            continue
        subparser = subparsers.add_parser(
            name,
            help=verb.help,
            description=verb.help,
            epilog="example:\n" + "\n".join(f"  {line}" for line in verb.examples),
            parents=[common],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.arguments(subparser)
        subparser.set_defaults(verb=verb)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: arguments after ``pkdzoo``; None means those of the process.

    Returns:
        The exit code.

    Raises:
        SystemExit: with code 2 for invalid arguments, with code 0 after ``--help``.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    parser = build_parser()
    refuse_empty(parser, words)
    args = parser.parse_args(words)
    args.words = words
    verb: Verb = args.verb
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8" if args.json else None, errors=ESCAPED)  # JSON is UTF-8 everywhere
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read by the Hub's client when it is imported
    try:
        code = verb.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    except BrokenPipeError:  # the reader of the pipe has closed it, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if args.debug:
            raise
        expected = isinstance(error, EXPECTED) and not isinstance(error, UnicodeError)
        kind = "" if expected else f"{type(error).__name__}: "
        return _failed(f"{kind}{error}{_advice(error)}" + ("" if expected else " (--debug shows the traceback)"), 1)


def _advice(error: Exception) -> str:
    """What to do about an error whose message does not say it; an empty text for others."""
    if "operator torchvision::" in str(error):  # the extension of torchvision was not loaded
        return ". torch and torchvision do not fit each other: install both in one command, from the same index"
    return ""


def _failed(message: str, code: int) -> int:
    print("pkdzoo:", printable(" ".join(message.split())), file=sys.stderr)
    return code
