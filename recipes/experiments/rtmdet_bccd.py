"""BCCD, 205 images of blood cells at half size, 60 epochs: a narrow RTMDet learns from a wider one.

python recipes/experiments/run.py recipes/experiments/rtmdet_bccd.py --data bccd/ -- --cache-images 1
accelerate launch recipes/train.py recipes/experiments/rtmdet_bccd.py --data bccd/ --only rtmdet_bccd_plain

Everything is trained from scratch at 320 x 320 (images are 640 x 480), with RTMDet's mosaic, mixup and colors; the last
fifth of the epochs has neither. In ``pkd_fading`` the weight of PKD falls to 0. ``_twice`` and ``_four_times`` have so
many times the epochs, as has the teacher of ``pkd_twice`` and ``mse_twice``. gfl_bccd.py has the same for a GFL.
"""

from dataclasses import replace
from typing import Any

from pkdzoo.training import Data, Distill, Logging, Mix, Optim, Recipe, Schedule, Warmup

EPOCHS, NAME = 60, "rtmdet_bccd_{}".format
MIX = Mix((0.6, 1.6), mosaic=0.7, mixup=0.2, last_epochs=EPOCHS // 5)
PLAIN = Recipe(
    "rtmdet_bccd_plain",
    "rtmdet_w12",
    data=Data(short=320, long=320, batch_size=8, eval_batch_size=8, workers=0, mix=MIX),
    optim=Optim("adamw", lr=0.004, base_batch_size=8, weight_decay=0.05, bias_decay_mult=0.0, norm_decay_mult=0.0,
                ema=0.995, ema_warmup=200),
    schedule=Schedule(EPOCHS, decay="flat_cosine", final=0.05, warmup=Warmup("linear", 1e-5, 100)),
    logging=Logging(eval_every=10, log_every=26),
)  # fmt: skip
TEACHER = replace(PLAIN, name="rtmdet_bccd_w24", model="rtmdet_tiny")


def longer(recipe: Recipe, name: str, times: int) -> Recipe:
    """A recipe with so many times the epochs, those without mosaic and mixup among them."""
    data = replace(recipe.data, mix=replace(MIX, last_epochs=times * EPOCHS // 5))
    return replace(recipe, name=name, data=data, schedule=replace(recipe.schedule, epochs=times * EPOCHS))


TWICE = longer(PLAIN, NAME("plain_twice"), 2)


def distilled(name: str, methods: dict[str, Any], plain: Recipe = PLAIN, teacher: str = "w24") -> Recipe:
    folder = f"local-dir:runs/experiments/rtmdet_bccd/{teacher}-0/best"
    return replace(plain, name=NAME(name), distill=Distill(folder, methods))


RECIPES = [
    TEACHER,
    PLAIN,
    distilled("pkd", {"pkd": {"adapter": True}}),
    distilled("pkd_fading", {"pkd": {"adapter": True, "schedule": "decay"}}),
    distilled("mse", {"mse": {}}),
    distilled("norm_cwd", {"norm_cwd": {}}),
    distilled("norm_kl", {"norm_kl": {"adapter": True}}),
    distilled("fgd", {"fgd": {}}),
    TWICE,
    longer(PLAIN, NAME("plain_four_times"), 4),
    longer(TEACHER, NAME("w24_twice"), 2),
    distilled("pkd_twice", {"pkd": {"adapter": True}}, TWICE, "w24_twice"),
    distilled("mse_twice", {"mse": {}}, TWICE, "w24_twice"),
]
ONCE = ("norm_cwd", "norm_kl", "fgd", "plain_twice", "plain_four_times", "pkd_twice", "mse_twice")
RUNS = ((tuple(map(NAME, ("plain", "pkd", "pkd_fading", "mse"))), 3), (tuple(map(NAME, ONCE)), 1))
