"""The published training schedules, as fields for a recipe: ``Recipe(NAME, MODEL, init="imagenet", **ONE_X, ...)``.

Source: mmdetection's configs and those of the methods' authors. They share: 16 images per step, SGD with momentum 0.9
and weight decay 1e-4 (AdamW for Swin), a learning rate divided by 10 twice, no training images without a box,
horizontal flips with probability 0.5, and test images of 1333 x 800 pixels. "1x" is 12 epochs of COCO, "2x" 24,
"3x" 36; "ms" is multi-scale training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pkdzoo.training.recipe import Data, Logging, Mix, Optim, Schedule, Warmup

Fields = dict[str, Any]
COCO_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def published(
    source: str, ap: float | tuple[float, ...] | None = None, rows: Sequence[str] = (), **others: float
) -> dict[str, Any]:
    """The published result of a recipe on COCO val2017, in percent, for the field ``Recipe.expect``.

    Args:
        source: where the numbers were published.
        ap: AP; or AP, AP50, AP75, APs, APm, APl.
        rows: ids of the results in tests/golden/recipes.json that this recipe repeats.
        others: AP of the ``teacher`` and of the ``plain`` student; further metrics by name.

    Returns:
        The given numbers by name, with ``source`` and, if there are any, ``rows``.

    Example:
        >>> from pkdzoo.training.schedules import published
        >>> published("table 2 of the paper", 41.5, teacher=48.2)
        {'AP': 41.5, 'teacher': 48.2, 'source': 'table 2 of the paper'}
    """
    numbers = ap if isinstance(ap, tuple) else () if ap is None else (ap,)
    named = {**dict(zip(COCO_METRICS, numbers, strict=False)), **others, "source": source}
    return {**named, "rows": list(rows)} if rows else named


# Linear warm-up from a thousandth of the rate over 500 steps, short side 800 pixels, no gradient clipping. The
# schedules below state where they differ.
ONE_X: Fields = {"data": Data(), "optim": Optim(lr=0.01), "schedule": Schedule(12, (8, 11))}
TWO_X: Fields = {"data": Data(), "optim": Optim(lr=0.01), "schedule": Schedule(24, (16, 22))}
MS_TWO_X: Fields = {**TWO_X, "data": Data(short=(480, 800), mode="range")}

# Only R-CNNs with a ResNet or ResNeXt were published with a learning rate of 0.02.
ONE_X_LR02: Fields = {**ONE_X, "optim": Optim(lr=0.02)}
TWO_X_LR02: Fields = {**TWO_X, "optim": Optim(lr=0.02)}

# FGD and MGD clip gradients in all of their configurations; so do DeFeat and its port of FGFI.
ONE_X_CLIPPED: Fields = {**ONE_X, "optim": Optim(lr=0.01, clip=35.0)}
TWO_X_CLIPPED: Fields = {**TWO_X, "optim": Optim(lr=0.01, clip=35.0)}
TWO_X_LR02_CLIPPED: Fields = {**TWO_X, "optim": Optim(lr=0.02, clip=35.0)}

# Mask R-CNN with a ResNet or ResNeXt.
MASKS = Data(masks=True)
MASK_ONE_X: Fields = {**ONE_X_LR02, "data": MASKS}
MASK_TWO_X: Fields = {**TWO_X_LR02, "data": MASKS}
MASK_TWO_X_CLIPPED: Fields = {**TWO_X_LR02_CLIPPED, "data": MASKS}

# FCOS: biases have twice the learning rate and no weight decay. Without tricks, the first 500 steps run at a constant
# third of the learning rate.
PLAIN_FCOS = Optim(lr=0.01, bias_lr_mult=2.0, bias_decay_mult=0.0, clip=35.0)
THIRD = Warmup("constant", 1 / 3, 500)
FCOS_ONE_X: Fields = {"data": Data(), "optim": PLAIN_FCOS, "schedule": Schedule(12, (8, 11), warmup=THIRD)}
FCOS_MS_TWO_X: Fields = {
    "data": Data(short=(640, 800)),
    "optim": PLAIN_FCOS,
    "schedule": Schedule(24, (16, 22), warmup=THIRD),
}
# FCOS with tricks: linear warm-up from a third of the learning rate, no gradient clipping.
TRICKS = replace(PLAIN_FCOS, clip=None)
FROM_THIRD = Warmup("linear", 1 / 3, 500)
FCOS_TRICKS_ONE_X: Fields = {"data": Data(), "optim": TRICKS, "schedule": Schedule(12, (8, 11), warmup=FROM_THIRD)}
FCOS_TRICKS_MS_TWO_X: Fields = {
    "data": Data(short=(640, 800)),
    "optim": TRICKS,
    "schedule": Schedule(24, (16, 22), warmup=FROM_THIRD),
}
FCOS_TRICKS_MS_TWO_X_CLIPPED: Fields = {**FCOS_TRICKS_MS_TWO_X, "optim": PLAIN_FCOS}

# Mask R-CNN with Swin: AdamW, no weight decay on norms and relative position bias tables. 3x was trained in fp16.
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

# Students with a backbone of timm: as Swin, without masks. No source publishes a schedule for them.
TIMM_ONE_X: Fields = {"data": Data(), "optim": ADAMW, "schedule": Schedule(12, (8, 11), warmup=SLOW_START)}

# RTMDet: 256 images per step, e.g. 8 GPUs with 32 each. With another batch, scale the rate: --set optim.scale_lr=true.
RTMDET_OPTIM = Optim(
    "adamw",
    lr=0.004,
    base_batch_size=256,
    weight_decay=0.05,
    bias_decay_mult=0.0,
    norm_decay_mult=0.0,
    ema=0.9998,
    ema_warmup=2000,
)


def rtmdet_300e(mix: Mix) -> Fields:
    """RTMDet's 300 epochs: mosaic and mixup in the first 280, the full rate in the first half, then a cosine.

    Differs from mmdetection in the partners of mosaic and mixup, which are drawn from the batch here and from a cache
    of recent images there, and in the evaluations: every tenth epoch, there also each of the last twenty.

    Args:
        mix: mosaic and mixup of this size of RTMDet.
    """
    return {
        "data": Data(short=640, long=640, mix=mix, batch_size=256, workers=10),
        "optim": RTMDET_OPTIM,
        "schedule": Schedule(300, decay="flat_cosine", final=0.05, warmup=Warmup("linear", 1e-5, 1000)),
        "logging": Logging(eval_every=10),
        "sync_norms": True,
    }
