"""BCCD's teacher: GFL on ResNet-18 from scratch, blood cells at 192 x 256, 16 epochs.

accelerate launch recipes/train.py recipes/bccd/teacher.py --data bccd/ --output runs/bccd/teacher

Measured: AP 43.4 on the 87 validation pictures (seed 0, one CPU thread, 11 minutes).
"""

from pkdzoo.training import Data, Optim, Recipe, Schedule, Warmup, Watch

RECIPE = Recipe(
    "bccd_gfl_r18",
    "gfl_r18",
    {"norm": "gn", "frozen_stages": 0, "width": 128, "depth": 2},
    data=Data(short=192, long=256, batch=4, test_batch=4, workers=1),
    optim=Optim(lr=0.01, batch=4, clip=10.0),
    schedule=Schedule(epochs=16, milestones=(12, 15), warmup=Warmup(steps=100)),
    watch=Watch(evaluate=4, log=20),
)
