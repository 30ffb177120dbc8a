"""The whole story in minutes, with no data and no GPU: one student learns alone, one from a teacher, on equal budgets.

    accelerate launch recipes/train.py recipes/demo.py

Draws its own images (pkdzoo/data/shapes.py). The teacher, FCOS on a narrow ResNet-18, comes with the package;
recipes/supervised/fcos_r18w24_shapes.py trained it. Prints a table of the three and writes weights, numbers and
predictions.png to runs/demo.
"""

from dataclasses import replace

from pkdzoo.training import Data, Distill, Logging, Optim, Recipe, Schedule, Warmup

SHAPES = {"train": 600, "val": 150, "size": (128, 160)}

PLAIN = Recipe(
    "plain",
    "fcos_r10w16",
    model_args={"tricks": True},
    data=Data(short=128, long=160, batch_size=16, eval_batch_size=16, workers=1, min_image_size=0, generate=SHAPES),
    optim=Optim("adamw", lr=2e-3, weight_decay=0.05, clip=10.0),
    schedule=Schedule(epochs=16, decay="cosine", warmup=Warmup(steps=50)),
    logging=Logging(log_every=38, eval_every=16),
)
DISTILLED = replace(PLAIN, name="distilled", distill=Distill("fcos_r18w24.shapes", {"pkd": {}}))

RECIPES = [PLAIN, DISTILLED]
