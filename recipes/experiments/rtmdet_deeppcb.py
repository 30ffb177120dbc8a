"""DeepPCB, 1,000 images of defects on circuit boards, in full resolution: a narrow RTMDet learns from a wider one.

python recipes/experiments/run.py recipes/experiments/rtmdet_deeppcb.py --data deeppcb/ -- --cache-images 2
accelerate launch recipes/train.py recipes/experiments/rtmdet_deeppcb.py --data deeppcb/ --only rtmdet_deeppcb_plain

The detectors, methods and seeds of rtmdet_bccd.py on other data: everything is trained from scratch on crops of
320 x 320 pixels of the images of 640 x 640, at scales of 0.75 to 1.25, and judged on whole images. There is no mosaic:
a crop holds several objects already. ``plain_twice`` has twice the epochs and shows whether they are needed.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from pkdzoo.training import Logging, Mix, Recipe

BCCD = runpy.run_path(str(Path(__file__).with_name("rtmdet_bccd.py")))
EPOCHS = 24
DATA = replace(
    BCCD["PLAIN"].data,
    test=(640, 640),
    eval_batch_size=4,
    mix=Mix((1.5, 2.5), colors=(0.0, 0.0, 20.0), mosaic=0.0, mixup=0.0),  # scale 2 is the size of the image
)


def renamed(text: str) -> str:
    return text.replace("_bccd", "_deeppcb")


def on_boards(recipe: Recipe) -> Recipe:
    """A recipe of rtmdet_bccd.py or gfl_bccd.py with this data and as many times its epochs."""
    distill = recipe.distill and replace(recipe.distill, teacher=renamed(recipe.distill.teacher))
    epochs = EPOCHS * recipe.schedule.epochs // BCCD["EPOCHS"]
    return replace(
        recipe,
        name=renamed(recipe.name),
        data=DATA,
        schedule=replace(recipe.schedule, epochs=epochs),
        logging=Logging(eval_every=6, log_every=25),
        distill=distill,
    )


RECIPES = [on_boards(recipe) for recipe in BCCD["RECIPES"]]
RUNS = (*((tuple(map(renamed, names)), seeds) for names, seeds in BCCD["RUNS"]), (("rtmdet_deeppcb_norm_cwd",), 3))
