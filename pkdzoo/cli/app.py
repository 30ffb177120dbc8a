"""``pkdzoo app``: detectors side by side in the browser."""

from __future__ import annotations

import argparse

from pkdzoo.cli.common import MODEL_HELP, Parser, Verb, note
from pkdzoo.utils.option_types import positive_int

DEFAULT = "gfl_r10w16_crosskd_cspnext_tiny.bccd"  # packaged weights, so that the demo runs without a network


def app_arguments(parser: Parser) -> None:
    """Add the arguments of ``app``."""
    help = f"{MODEL_HELP}; the folder of a run of 'pkdzoo distill' stands for its teacher and students"
    parser.add_argument("models", nargs="*", metavar="NAME", default=[DEFAULT], help=f"{help} (default: {DEFAULT})")
    parser.add_argument("--port", type=positive_int, default=7860, help="port on this machine (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")


def app_run(args: argparse.Namespace) -> int:
    """Serve the page until it is interrupted."""
    from pkdzoo.app.page import build, load_gradio

    load_gradio()
    from pkdzoo.app.detect import open_all

    detectors = open_all(args.models or [DEFAULT])
    note(f"serving {', '.join(one.title for one in detectors)} on http://{args.host}:{args.port}; Ctrl-C ends it")
    build(detectors).launch(server_name=args.host, server_port=args.port, share=False, quiet=True)
    return 0


APP = Verb(
    "show detectors side by side in the browser: drop an image, move the threshold",
    ("pkdzoo app", "pkdzoo app runs/rtmdet_tiny-photos", "pkdzoo app retina_r50 retina_r50_pkd_swin --port 8000"),
    app_arguments,
    app_run,
)
