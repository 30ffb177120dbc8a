"""The ranges of a recipe's fields."""

from __future__ import annotations

import math
from operator import attrgetter
from typing import Any

from pkdzoo.evaluation import METRICS


def range_rules(recipe: Any) -> list[tuple[str, bool, str]]:
    """Dotted name of each field that has a range, whether its value lies in it, and what to write otherwise."""
    data, optim, schedule, logging = recipe.data, recipe.optim, recipe.schedule, recipe.logging
    shorts = data.short if isinstance(data.short, tuple) else (data.short,)
    warmup, save_every, patience = optim.ema_warmup, logging.save_every, logging.patience
    unlabeled = recipe.distill.unlabeled if recipe.distill is not None else None
    return [
        ("data.batch_size", data.batch_size >= 1, "1 or more images per step"),
        ("data.eval_batch_size", data.eval_batch_size >= 1, "1 or more images per pass"),
        ("data.short", min(shorts, default=0) >= 1, "the length of the short side in pixels, 1 or more"),
        ("data.long", data.long >= 1, "the largest length of the long side in pixels, 1 or more"),
        ("data.flip", 0 <= data.flip <= 1, "a probability between 0 and 1"),
        ("data.zoom", 0 <= data.zoom <= 1, "a probability between 0 and 1"),
        ("data.workers", data.workers >= 0, "0 (loads in the training process itself) or more"),
        ("optim.lr", 0 < optim.lr < math.inf, "a learning rate above 0"),
        ("optim.momentum", 0 <= optim.momentum < 1, "0 or more, below 1"),
        ("optim.weight_decay", 0 <= optim.weight_decay < math.inf, "0 or more"),
        ("optim.base_batch_size", optim.base_batch_size >= 1, "the total batch that lr was published for, 1 or more"),
        ("optim.accumulate", optim.accumulate >= 1, "1 (does not accumulate) or more"),
        ("optim.clip", optim.clip is None or optim.clip > 0, "a norm above 0, or none"),
        ("optim.ema", optim.ema is None or 0 < optim.ema < 1, "a decay between 0 and 1, or none"),
        (
            "optim.ema_warmup",
            warmup is None or (optim.ema is not None and warmup >= 1),
            "1 or more steps, beside optim.ema, or none",
        ),
        ("schedule.gamma", 0 < schedule.gamma <= 1, "a factor above 0, up to 1"),
        ("schedule.final", 0 <= schedule.final <= 1, "a factor between 0 and 1"),
        ("schedule.epochs", schedule.epochs >= 1, "1 or more"),
        ("schedule.max_steps", schedule.max_steps is None or schedule.max_steps >= 1, "1 or more"),
        ("logging.log_every", logging.log_every >= 1, "1 (logs every step) or more"),
        ("logging.eval_every", logging.eval_every >= 1, "1 (evaluates after every epoch) or more"),
        ("logging.best", logging.best in METRICS, f"one of {', '.join(METRICS)}"),
        ("logging.save_every", save_every is None or save_every >= 1, "1 or more, or none"),
        ("logging.patience", patience is None or patience >= 1, "1 or more, or none"),
        ("logging.keep", logging.keep >= 1, "1 or more checkpoints"),
        *(
            []
            if schedule.warmup is None
            else [
                ("schedule.warmup.factor", 0 <= schedule.warmup.factor <= 1, "a factor between 0 and 1"),
                ("schedule.warmup.steps", schedule.warmup.steps >= 0, "0 or more steps"),
            ]
        ),
        *(
            []
            if unlabeled is None
            else [
                ("distill.unlabeled.folder", bool(unlabeled.folder), "a folder of images"),
                (
                    "distill.unlabeled.ratio",
                    0 < unlabeled.ratio < math.inf,
                    "unlabeled images per labeled one, above 0",
                ),
                ("distill.unlabeled.weight", 0 <= unlabeled.weight < math.inf, "0 or more"),
            ]
        ),
        (
            "name",
            bool(recipe.name) and not set(recipe.name) & set("/\\"),
            "a name for the run's folder, without slashes",
        ),
    ]


def check_ranges(recipe: Any) -> None:
    """Check the range of every field.

    Raises:
        ValueError: naming the field, its value and what to write instead.
    """
    for where, valid, meaning in range_rules(recipe):
        if not valid:
            raise ValueError(f"recipe {recipe.name!r}: {where}={attrgetter(where)(recipe)!r}: write {meaning}")
