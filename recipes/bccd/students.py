"""BCCD's students: RetinaNet on ResNet-18 from scratch, alone and with PKD, 6 epochs each.

accelerate launch recipes/train.py recipes/bccd/students.py --data bccd/ --output runs/bccd/students

Train recipes/bccd/teacher.py first; it has to lie in runs/bccd/teacher.
Measured: AP 35.3 alone, 36.2 with PKD (seed 0).
"""

from dataclasses import replace

from pkdzoo.training import Data, Distill, Optim, Recipe, Schedule, Warmup, Watch

PLAIN = Recipe(
    "bccd_retina_r18",
    "retina_r18",
    {"norm": "gn", "frozen_stages": 0, "width": 128, "depth": 2, "head_norm": "gn"},
    data=Data(short=192, long=256, batch=4, test_batch=4, workers=1),
    optim=Optim(lr=0.01, batch=4, clip=10.0),
    schedule=Schedule(epochs=6, milestones=(4, 5.5), warmup=Warmup(steps=100)),
    watch=Watch(evaluate=2, log=20),
)
PKD = replace(
    PLAIN, name="bccd_retina_r18_pkd_gfl_r18", distill=Distill("local-dir:runs/bccd/teacher/best", {"pkd": {}})
)
RECIPES = [PLAIN, PKD]
