"""``pkdzoo train``: the program of recipes/train.py, from an installed package.

On several GPUs: ``accelerate launch -m pkdzoo train RECIPE.py --data DIR``, or ``torchrun ... -m pkdzoo train ...``.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout

from pkdzoo.cli.common import Parser, Verb, show
from pkdzoo.training.arguments import add_train_arguments, select_arguments


def train_run(args: argparse.Namespace) -> int:
    """Train; with ``--json`` everything that a run prints goes to stderr, and its numbers to stdout."""
    from pkdzoo.training.command import run_on_processes, train_command
    from pkdzoo.training.signals import RunStopped

    own = select_arguments(args)
    code = run_on_processes(own, [sys.executable, "-m", "pkdzoo", *args.words])
    if code is not None:
        return code
    try:
        with redirect_stdout(sys.stderr if args.json else sys.stdout):
            runs = train_command(own)
    except RunStopped as stop:
        return stop.exit_code
    if args.json and runs[0].accelerator.is_main_process:
        rows = [{"name": run.recipe.name, "output": str(run.output), "metrics": run.metrics} for run in runs]
        show(args, "", rows)
    return 0


def train_arguments(parser: Parser) -> None:
    """Add the options of recipes/train.py."""
    add_train_arguments(parser)


TRAIN = Verb(
    "train a recipe, with or without a teacher; on all GPUs: accelerate launch -m pkdzoo train ...",
    (
        "pkdzoo train retina_r50_pkd_swin --data coco",
        "pkdzoo train my_recipe.py --data photos --output runs/mine --set optim.lr=0.005",
        "pkdzoo train my_recipe.py --data photos --output runs/mine --resume",
    ),
    train_arguments,
    train_run,
)
