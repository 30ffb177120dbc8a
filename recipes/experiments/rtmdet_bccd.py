"""A small RTMDet on BCCD, plain, with normalized CWD and with PKD: equal budgets, a teacher of twice the width.

    python recipes/train.py recipes/experiments/rtmdet_bccd.py --data bccd/ --only rtmdet_bccd_teacher
    python recipes/train.py recipes/experiments/rtmdet_bccd.py --data bccd/ --only rtmdet_bccd_plain

The last one is repeated with rtmdet_bccd_norm_cwd and rtmdet_bccd_pkd. Everything is trained from scratch at 256 x 256
with random scales and colors, without mosaic and mixup, which runs this short do not gain from; one seed each.
"""

from dataclasses import replace
from typing import Any

from pkdzoo.training import Data, Distill, Logging, Mix, Optim, Recipe, Schedule, Warmup

SCALES = Mix((0.8, 1.25), mosaic=0.0, mixup=0.0)
TEACHER_EPOCHS, EPOCHS = 20, 12
TEACHER = Recipe(
    "rtmdet_bccd_teacher",
    "rtmdet_tiny_yolo",
    {"width": 0.25, "depth": 0.167},
    data=Data(short=256, long=256, batch_size=4, eval_batch_size=8, workers=0, mix=SCALES),
    optim=Optim(
        "adamw", lr=0.003, base_batch_size=4, weight_decay=0.05, bias_decay_mult=0.0, norm_decay_mult=0.0,
        ema=0.99, ema_warmup=100,
    ),
    schedule=Schedule(TEACHER_EPOCHS, decay="flat_cosine", final=0.05, warmup=Warmup("linear", 1e-5, 100)),
    logging=Logging(eval_every=4, log_every=52),
)  # fmt: skip
PLAIN = replace(
    TEACHER,
    name="rtmdet_bccd_plain",
    model_args={"width": 0.125, "depth": 0.167},
    schedule=replace(TEACHER.schedule, epochs=EPOCHS),
)


def distilled(name: str, methods: dict[str, Any]) -> Recipe:
    return replace(
        PLAIN, name=f"rtmdet_bccd_{name}", distill=Distill("local-dir:runs/rtmdet_bccd_teacher/best", methods)
    )


RECIPES = [
    TEACHER,
    PLAIN,
    distilled("norm_cwd", {"norm_cwd": {"stop_epoch": EPOCHS - 2}}),
    distilled("pkd", {"pkd": {"where": "before_norm", "adapter": True, "stop_epoch": EPOCHS - 2}}),
]
