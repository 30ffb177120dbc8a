"""``pkdzoo distill``: from a folder of labeled images to a distilled detector."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import redirect_stdout

from pkdzoo.cli.common import COMMON, Parser, Verb, show
from pkdzoo.training.own_data.arguments import DistillArguments, add_distill_arguments


def distill_arguments(parser: Parser) -> None:
    """Add the arguments of ``distill``."""
    add_distill_arguments(parser)


def distill_run(args: argparse.Namespace) -> int:
    """Distill; with ``--json`` everything that is printed on the way goes to stderr."""
    from pkdzoo.training.command import run_on_processes
    from pkdzoo.training.own_data.distill import distill_command
    from pkdzoo.training.signals import RunStopped

    own = DistillArguments(**{key: value for key, value in vars(args).items() if key not in COMMON})
    code = run_on_processes(own, [sys.executable, "-m", "pkdzoo", *args.words])
    if code is not None:
        return code
    try:
        with redirect_stdout(sys.stderr if args.json else sys.stdout):
            run = distill_command(own)
    except RunStopped as stop:
        return stop.exit_code
    if args.json and os.environ.get("RANK", "0") == "0":  # after the run Accelerate has forgotten its processes
        show(args, "", {"output": str(run.folder), "metrics": run.metrics})
    return 0


DISTILL = Verb(
    "from a folder of labeled images to a distilled detector; on all GPUs: accelerate launch -m pkdzoo distill ...",
    (
        "pkdzoo distill --data photos --student rtmdet_tiny",
        "pkdzoo distill --data photos --student retina_r50 --teacher runs/big --baseline --time 30m",
        "pkdzoo distill --data photos/data.yaml --student rtmdet_tiny --teacher rtmdet_m --init none",
    ),
    distill_arguments,
    distill_run,
)
