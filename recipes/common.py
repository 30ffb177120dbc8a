"""The published schedules, as fields that a recipe spreads: ``Recipe(NAME, MODEL, init="imagenet", **ONE_X, ...)``.

From mmdetection's configs and those of the methods' authors, which share: 16 images a step, SGD with momentum 0.9 and
weight decay 1e-4 (AdamW for Swin), the rate divided by 10 twice, images without a box left out, half of them
mirrored, 1333 x 800 in the test. "1x" is 12 epochs of COCO, "2x" 24, "3x" 36; "ms" is training at several sizes.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pkdzoo.training import Data, Optim, Schedule, Warmup

Fields = dict[str, Any]
FINER = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def published(
    source: str, ap: float | tuple[float, ...] | None = None, rows: Sequence[str] = (), **others: float
) -> dict[str, Any]:
    """What a recipe should reach on COCO val2017, in percent, as somebody printed it.

    Args:
        source: who.
        ap: AP; or AP, AP50, AP75, APs, APm, APl.
        rows: names of the results in tests/golden/recipes.json, which this recipe repeats.
        others: AP of ``teacher`` and ``plain`` student; finer numbers by name.
    """
    numbers = ap if isinstance(ap, tuple) else () if ap is None else (ap,)
    named = {**dict(zip(FINER, numbers, strict=False)), **others, "source": source}
    return {**named, "rows": list(rows)} if rows else named


# Linear warm-up from a thousandth over 500 steps, the short side at 800, no clipping: the rest says where it differs.
ONE_X: Fields = {"data": Data(), "optim": Optim(lr=0.01), "schedule": Schedule(12, (8, 11))}
TWO_X: Fields = {"data": Data(), "optim": Optim(lr=0.01), "schedule": Schedule(24, (16, 22))}
MS_TWO_X: Fields = {**TWO_X, "data": Data(short=(480, 800), mode="range")}

# Faster R-CNN alone was published with 0.02.
ONE_X_LR02: Fields = {**ONE_X, "optim": Optim(lr=0.02)}
TWO_X_LR02: Fields = {**TWO_X, "optim": Optim(lr=0.02)}

# FGD clips gradients in all of its configs.
ONE_X_CLIPPED: Fields = {**ONE_X, "optim": Optim(lr=0.01, clip=35.0)}
TWO_X_CLIPPED: Fields = {**TWO_X, "optim": Optim(lr=0.01, clip=35.0)}
TWO_X_LR02_CLIPPED: Fields = {**TWO_X, "optim": Optim(lr=0.02, clip=35.0)}

# FCOS: biases learn at twice the rate and do not decay. Plain, the first 500 steps stay at a third of the rate.
PLAIN_FCOS = Optim(lr=0.01, bias_lr_mult=2.0, bias_decay_mult=0.0, clip=35.0)
THIRD = Warmup("constant", 1 / 3, 500)
FCOS_ONE_X: Fields = {"data": Data(), "optim": PLAIN_FCOS, "schedule": Schedule(12, (8, 11), warmup=THIRD)}
FCOS_MS_TWO_X: Fields = {
    "data": Data(short=(640, 800)),
    "optim": PLAIN_FCOS,
    "schedule": Schedule(24, (16, 22), warmup=THIRD),
}
# FCOS with tricks: the rate rises from a third, and nothing is clipped.
TRICKS = replace(PLAIN_FCOS, clip=None)
FROM_THIRD = Warmup("linear", 1 / 3, 500)
FCOS_TRICKS_ONE_X: Fields = {"data": Data(), "optim": TRICKS, "schedule": Schedule(12, (8, 11), warmup=FROM_THIRD)}
FCOS_TRICKS_MS_TWO_X: Fields = {
    "data": Data(short=(640, 800)),
    "optim": TRICKS,
    "schedule": Schedule(24, (16, 22), warmup=FROM_THIRD),
}
FCOS_TRICKS_MS_TWO_X_CLIPPED: Fields = {**FCOS_TRICKS_MS_TWO_X, "optim": PLAIN_FCOS}

# Mask R-CNN on Swin: AdamW; norms and the tables of relative positions do not decay. 3x was trained in half precision.
ADAMW = Optim("adamw", lr=1e-4, weight_decay=0.05, norm_decay_mult=0.0, no_decay=("bias_table",))
SLOW_START = Warmup("linear", 0.001, 1000)
SWIN_ONE_X: Fields = {
    "data": Data(masks=True),
    "optim": ADAMW,
    "schedule": Schedule(12, (8, 11), warmup=SLOW_START),
}
SWIN_THREE_X: Fields = {
    "data": Data(short=tuple(range(480, 801, 32)), zoom=0.5, masks=True),
    "optim": ADAMW,
    "schedule": Schedule(36, (27, 33), warmup=SLOW_START),
}
