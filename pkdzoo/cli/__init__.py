"""``pkdzoo`` on the command line: one function a verb, one table of verbs.

Results go to stdout (``--json``: for machines), everything else to stderr. Exit codes: 0, 1 for an error, 2 for a
command line that cannot be understood. An error is one line; ``--debug`` shows where it came from.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

import huggingface_hub.utils

from pkdzoo.cli.common import ESCAPED, Verb
from pkdzoo.cli.convert import CONVERT
from pkdzoo.cli.data import CHECK, PREVIEW
from pkdzoo.cli.data import CONVERT as CONVERT_DATA
from pkdzoo.cli.evaluate import EVAL
from pkdzoo.cli.export import EXPORT
from pkdzoo.cli.models import INFO, LIST
from pkdzoo.cli.predict import PREDICT
from pkdzoo.cli.push import PUSH
from pkdzoo.hub.download import DownloadError
from pkdzoo.hub.upload import UploadError
from pkdzoo.version import __version__

VERBS: dict[str, Verb | dict[str, Verb]] = {
    "list": LIST,
    "info": INFO,
    "predict": PREDICT,
    "eval": EVAL,
    "convert": CONVERT,
    "export": EXPORT,
    "push": PUSH,
    "data": {"check": CHECK, "convert": CONVERT_DATA, "preview": PREVIEW},
}
EXPECTED = (ValueError, OSError, ImportError, DownloadError, UploadError)  # these say what to do
GROUPS = {"data": "look over, convert and show data sets"}


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs; the chosen one is at ``verb`` of what it returns."""
    parser = argparse.ArgumentParser(
        prog="pkdzoo",
        description="A model zoo of distilled object detectors.",
        epilog="pkdzoo VERB --help explains a verb and shows an example",
    )
    parser.add_argument("--version", action="version", version=f"pkdzoo {__version__}")
    everywhere = argparse.ArgumentParser(add_help=False)
    everywhere.add_argument("--json", action="store_true", help="print for machines")
    everywhere.add_argument("--debug", action="store_true", help="show where an error came from")
    _add_verbs(parser, VERBS, everywhere)
    return parser


def _add_verbs(
    parser: argparse.ArgumentParser, verbs: dict[str, Verb | dict[str, Verb]], everywhere: argparse.ArgumentParser
) -> None:
    places = parser.add_subparsers(metavar="VERB", required=True)
    for name, verb in verbs.items():
        if isinstance(verb, dict):
            group = places.add_parser(name, help=GROUPS[name], description=GROUPS[name])
            _add_verbs(group, {**verb}, everywhere)
            continue
        mine = places.add_parser(
            name,
            help=verb.help,
            description=verb.help,
            epilog="example:\n" + "\n".join(f"  {line}" for line in verb.examples),
            parents=[everywhere],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.arguments(mine)
        mine.set_defaults(verb=verb)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: words after ``pkdzoo``; None takes those of the process.

    Returns:
        The exit code.

    Raises:
        SystemExit: of code 2 for words that cannot be understood, of code 0 after ``--help``.
    """
    args = build_parser().parse_args(argv)
    verb: Verb = args.verb
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8" if args.json else None, errors=ESCAPED)  # JSON is UTF-8 everywhere
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()  # type: ignore[attr-defined]  # the Hub client's; ours look for themselves
    try:
        code = verb.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if args.debug:
            raise
        expected = isinstance(error, EXPECTED) and not isinstance(error, UnicodeError)
        kind = "" if expected else f"{type(error).__name__}: "
        return _failed(f"{kind}{error}" + ("" if expected else " (--debug shows where)"), 1)


def _failed(message: str, code: int) -> int:
    print("pkdzoo:", " ".join(message.split()), file=sys.stderr)
    return code
