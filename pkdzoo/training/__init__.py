"""Training runs: recipes, the loop, checkpoints, logs, evaluation and publishing. loop.py is the place to start."""

from pkdzoo.training.recipe import Data, Distill, Logging, Mix, Optim, Recipe, Schedule, Warmup, override
from pkdzoo.training.recipe_files import load_recipe, load_recipes

__all__ = [
    "Data",
    "Distill",
    "Logging",
    "Mix",
    "Optim",
    "Recipe",
    "Schedule",
    "Warmup",
    "load_recipe",
    "load_recipes",
    "override",
]
