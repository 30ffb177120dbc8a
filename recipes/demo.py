"""A demonstration without data or a GPU: a plain student and one with a teacher, on equal budgets.

    accelerate launch recipes/train.py recipes/demo.py

The images are generated (pkdzoo/data/synthetic.py). The teacher, FCOS on a narrow ResNet-18, is part of the package;
recipes/supervised/fcos_r18w24_shapes.py trained it. The run prints a table of the three detectors and writes weights,
metrics and predictions.png to runs/demo.
"""

from dataclasses import replace

from pkdzoo.training import Data, Distill, Logging, Optim, Recipe, Schedule, Warmup

SHAPES = {"train": 560, "val": 150, "size": (128, 160)}

PLAIN = Recipe(
    "plain",
    "fcos_r10w16",
    model_args={"tricks": True},
    data=Data(short=128, long=160, batch_size=8, eval_batch_size=16, workers=1, min_image_size=0, generate=SHAPES),
    optim=Optim("adamw", lr=2e-3, base_batch_size=8, weight_decay=0.05, clip=10.0),
    schedule=Schedule(epochs=6, decay="cosine", warmup=Warmup(steps=50)),
    logging=Logging(log_every=75, eval_every=6),
)
DISTILLED = replace(PLAIN, name="distilled", distill=Distill("fcos_r18w24.shapes", {"pkd": {}}))

RECIPES = [PLAIN, DISTILLED]
