"""DeepPCB, 1,000 images of defects on circuit boards, in full resolution: a narrow RTMDet learns from a wider one.

python recipes/experiments/run.py recipes/experiments/rtmdet_deeppcb.py --data deeppcb/ -- --cache-images 2
accelerate launch recipes/train.py recipes/experiments/rtmdet_deeppcb.py --data deeppcb/ --only rtmdet_deeppcb_plain

Everything is trained from scratch on crops of 320 x 320 pixels of the images of 640 x 640, at scales of 0.75 to 1.25,
and judged on whole images. There is no mosaic: a crop holds several objects already. ``plain_twice`` has twice the
epochs and shows whether they are needed.
"""

from dataclasses import replace
from typing import Any

from pkdzoo.training import Data, Distill, Logging, Mix, Optim, Recipe, Schedule, Warmup

EPOCHS = 12
PLAIN = Recipe(
    "rtmdet_deeppcb_plain",
    "rtmdet_w12",
    data=Data(
        short=320, long=320, test=(640, 640), batch_size=8, eval_batch_size=4, workers=0,
        mix=Mix((1.5, 2.5), colors=(0.0, 0.0, 20.0), mosaic=0.0, mixup=0.0),  # scale 2 is the size of the image
    ),
    optim=Optim(
        "adamw", lr=0.004, base_batch_size=8, weight_decay=0.05, bias_decay_mult=0.0, norm_decay_mult=0.0,
        ema=0.995, ema_warmup=200,
    ),
    schedule=Schedule(EPOCHS, decay="flat_cosine", final=0.05, warmup=Warmup("linear", 1e-5, 100)),
    logging=Logging(eval_every=6, log_every=25),
)  # fmt: skip
TEACHER = replace(PLAIN, name="rtmdet_deeppcb_w24", model="rtmdet_tiny")
TWICE = replace(
    PLAIN,
    name="rtmdet_deeppcb_plain_twice",
    schedule=replace(PLAIN.schedule, epochs=2 * EPOCHS),
)
TEACHER_FOLDER = "local-dir:runs/experiments/rtmdet_deeppcb/w24-0/best"


def distilled(name: str, methods: dict[str, Any]) -> Recipe:
    return replace(PLAIN, name=f"rtmdet_deeppcb_{name}", distill=Distill(TEACHER_FOLDER, methods))


RECIPES = [
    TEACHER,
    PLAIN,
    distilled("pkd", {"pkd": {"adapter": True}}),
    distilled("mse", {"mse": {}}),
    distilled("norm_cwd", {"norm_cwd": {}}),
    distilled("norm_kl", {"norm_kl": {"adapter": True}}),
    distilled("fgd", {"fgd": {}}),
    TWICE,
]
RUNS = (
    (("rtmdet_deeppcb_plain", "rtmdet_deeppcb_pkd", "rtmdet_deeppcb_mse"), 3),
    (("rtmdet_deeppcb_norm_cwd", "rtmdet_deeppcb_norm_kl", "rtmdet_deeppcb_fgd", "rtmdet_deeppcb_plain_twice"), 1),
)
