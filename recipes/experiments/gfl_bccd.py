"""BCCD, 205 images of blood cells at half size, 60 epochs: a narrow GFL learns from one on RTMDet's backbone.

python recipes/experiments/run.py recipes/experiments/gfl_bccd.py --data bccd/ -- --cache-images 1
accelerate launch recipes/train.py recipes/experiments/gfl_bccd.py --data bccd/ --only gfl_bccd_plain

Data, augmentation and schedule are those of rtmdet_bccd.py. The student takes 0.49 billion multiply-adds, the RTMDet
there 0.50, and half its parameters. Both pyramids have five levels and 52 channels. ``plain_twice`` has twice the
epochs: they are needed, so gfl_bccd_120.py compares the methods. Here are weights of PKD and MSE, 10 by default.
"""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

from pkdzoo.training import Distill, Recipe

RTMDET = runpy.run_path(str(Path(__file__).with_name("rtmdet_bccd.py")))
NAME = "gfl_bccd_{}".format
PLAIN: Recipe = replace(RTMDET["PLAIN"], name=NAME("plain"), model="gfl_r10w16", model_args={"norm": "bn", "width": 52})
TEACHER = replace(
    PLAIN,
    name=NAME("cspnext"),
    model="gfl_cspnext_s",
    model_args={"backbone": "cspnext_tiny", "neck": "fpn", "depth": 2, "width": 52},
)
METHODS: dict[str, dict[str, Any]] = {
    "pkd": {"pkd": {}},
    "pkd_fading": {"pkd": {"schedule": "decay"}},
    "pkd_weight_1": {"pkd": {"weight": 1.0}},
    "mse": {"mse": {}},
    **{f"mse_weight_{w}": {"mse": {"weight": float(w)}} for w in ("1", "0.1", "0.01")},
    "ld": {"ld": {}},
}


def distilled(name: str, methods: dict[str, Any]) -> Recipe:
    return replace(
        PLAIN, name=NAME(name), distill=Distill("local-dir:runs/experiments/gfl_bccd/cspnext-0/best", methods)
    )


RECIPES = [
    TEACHER,
    PLAIN,
    *(distilled(name, methods) for name, methods in METHODS.items()),
    RTMDET["longer"](PLAIN, NAME("plain_twice"), 2),
]
RUNS = (((NAME("plain"),), 3), (tuple(map(NAME, (*METHODS, "plain_twice"))), 1))
