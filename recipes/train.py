"""Train a detector, with or without a teacher.

    accelerate launch recipes/train.py recipes/demo.py                  # without data or a GPU: minutes on two cores
    accelerate launch recipes/train.py recipes/pkd/retina_r50_pkd_swin.py --data coco/       # on all GPUs
    accelerate launch recipes/train.py retina_r50_pkd_swin --data coco/                # a published recipe by its name
    accelerate launch recipes/train.py RECIPE.py --data DIR --output runs/mine --set optim.lr=0.005
    accelerate launch recipes/train.py RECIPE.py --data DIR --output runs/mine --resume
    accelerate launch recipes/train.py TABLE.py --only NAME --data DIR                 # one of the recipes of a file
    python recipes/train.py RECIPE.py --data DIR --cpu-processes 2                     # two CPU processes
    torchrun --nproc_per_node 8 recipes/train.py RECIPE.py --data DIR                  # more lines in recipes/README.md

An installed package has the same program: ``pkdzoo train``, or ``accelerate launch -m pkdzoo train`` on several GPUs.

The program ends with 0 after the last step, 1 after an error, and 128 plus the signal's number (143 for SIGTERM, 130
for Ctrl-C) if it was stopped, after a checkpoint; launchers report these as errors.

DIR holds annotations/instances_{train,val}2017.json with train2017/ and val2017/ (COCO's own layout), or one of the
other layouts that docs/own_data.md lists. The loop is pkdzoo/training/loop.py; what a recipe holds is
described in pkdzoo/training/recipe.py.
"""

from __future__ import annotations

import sys

from pkdzoo.training.arguments import parse_train_arguments
from pkdzoo.training.command import TrainingFailed, run_on_processes, train_command
from pkdzoo.training.signals import RunStopped


def main(argv: list[str] | None = None) -> None:
    """Train the recipes that the command line names; expected errors end the program with a message.

    Raises:
        SystemExit: with 1 and a message for an error, and with 128 plus the signal's number for a run that was stopped.
    """
    args = parse_train_arguments(argv, __doc__)
    try:
        code = run_on_processes(args, [sys.executable, __file__, *(sys.argv[1:] if argv is None else argv)])
        if code is None:
            train_command(args)
    except TrainingFailed as error:
        sys.exit(f"error: {error}")
    except RunStopped as stop:
        code = stop.exit_code
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
