"""BCCD, 205 images of blood cells: a small student, plain, with PKD, with MSE, and with other teachers and settings.

python recipes/experiments/run.py recipes/experiments/bccd.py --data bccd/
accelerate launch recipes/train.py recipes/experiments/bccd.py --data bccd/ --only bccd_plain

Everything is trained from scratch at 192 x 256. A student takes 12 epochs (2,460 images), two to four minutes on one
core.
"""

from dataclasses import replace
from typing import Any

from pkdzoo.training import Data, Distill, Logging, Optim, Recipe, Schedule, Warmup

DATA = Data(short=192, long=256, batch_size=4, eval_batch_size=4, workers=0)
OPTIM = Optim(lr=0.01, base_batch_size=4, clip=10.0)
WARMUP = Warmup(steps=100)

TEACHER = Recipe(
    "bccd_gfl_r18w64",
    "gfl_r18",
    {"norm": "gn", "frozen_stages": 0, "width": 64, "depth": 2},
    data=DATA,
    optim=OPTIM,
    schedule=Schedule(epochs=18, milestones=(14, 17), warmup=WARMUP),
    logging=Logging(eval_every=6, log_every=26),
)
PLAIN = Recipe(
    "bccd_plain",
    "retina_r10w16",
    data=DATA,
    optim=OPTIM,
    schedule=Schedule(epochs=12, milestones=(9, 11), warmup=WARMUP),
    logging=Logging(eval_every=3, log_every=26),
)

TEACHER_FOLDER = "local-dir:runs/experiments/bccd/gfl_r18w64-0/best"


def distilled(name: str, methods: dict[str, Any], teacher: str = TEACHER_FOLDER) -> Recipe:
    return replace(PLAIN, name=f"bccd_{name}", distill=Distill(teacher, methods))


RECIPES = [
    TEACHER,
    PLAIN,
    distilled("pkd", {"pkd": {}}),
    distilled("mse", {"mse": {}}),
    distilled("pkd_weight_3", {"pkd": {"weight": 3.0}}),
    distilled("pkd_weight_30", {"pkd": {"weight": 30.0}}),
    distilled("norm_kl", {"norm_kl": {}}),
    distilled("pkd_from_shapes", {"pkd": {}}, "fcos_r18w24.shapes"),  # a teacher of other classes and images
]
RUNS = (
    (("bccd_plain", "bccd_pkd"), 5),
    (("bccd_mse",), 5),
    (("bccd_pkd_weight_3", "bccd_pkd_weight_30", "bccd_norm_kl", "bccd_pkd_from_shapes"), 1),
)
