"""Runs: what one is, how it starts, and how it survives. The loop itself stands in recipes/train.py."""

from pkdzoo.training.recipe import (
    Data,
    Distill,
    Logging,
    Optim,
    Recipe,
    Schedule,
    Warmup,
    load_recipe,
    load_recipes,
    override,
)

__all__ = [
    "Data",
    "Distill",
    "Logging",
    "Optim",
    "Recipe",
    "Schedule",
    "Warmup",
    "load_recipe",
    "load_recipes",
    "override",
]
