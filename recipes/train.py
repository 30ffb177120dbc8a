"""Train a detector, with or without a teacher.

    accelerate launch recipes/train.py recipes/demo.py                  # without data or a GPU: minutes on two cores
    accelerate launch recipes/train.py recipes/pkd/retina_r50_pkd_swin.py --data coco/       # on all GPUs
    accelerate launch recipes/train.py retina_r50_pkd_swin --data coco/                # a published recipe by its name
    accelerate launch recipes/train.py RECIPE.py --data DIR --output runs/mine --set optim.lr=0.005
    accelerate launch recipes/train.py RECIPE.py --data DIR --output runs/mine --resume
    accelerate launch recipes/train.py TABLE.py --only NAME --data DIR                 # one of the recipes of a file
    torchrun --nproc_per_node 8 recipes/train.py RECIPE.py --data DIR                  # more lines in recipes/README.md

DIR holds annotations/instances_{train,val}2017.json with train2017/ and val2017/ (COCO's own layout), or
annotations/instances_{train,val}.json with images/. The loop is pkdzoo/training/loop.py; what a recipe holds is
described in pkdzoo/training/recipe.py.
"""

from __future__ import annotations

import sys

from pkdzoo.data import TooManyUnreadable
from pkdzoo.hub.errors import DownloadError
from pkdzoo.training import load_recipes, signals
from pkdzoo.training.arguments import parse_train_arguments
from pkdzoo.training.errors import describe_error
from pkdzoo.training.log import Diverged
from pkdzoo.training.loop import train_recipes


def main(argv: list[str] | None = None) -> None:
    """Train the recipes that the command line names; expected errors end the program with a message."""
    args = parse_train_arguments(argv, __doc__)
    signals.follow_launcher()
    try:
        train_recipes(load_recipes(args.recipe, args.set, args.only), args)
    except (ValueError, OSError, DownloadError, Diverged, TooManyUnreadable) as error:
        sys.exit(f"error: {describe_error(error)}")
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        sys.exit(f"error: {error} Continue with --resume; if memory ran out, set fewer data.workers")


if __name__ == "__main__":
    main()
