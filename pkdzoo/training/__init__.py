"""Training runs: recipes, the loop, checkpoints, logs, evaluation and publishing. loop.py is the place to start.

Names are imported at first use: the command line needs the options of a run (arguments.py) without importing torch.
"""

from typing import TYPE_CHECKING

from pkdzoo.utils.lazy import lazy_attributes

if TYPE_CHECKING:
    from pkdzoo.training.recipe import Data, Distill, Logging, Mix, Optim, Recipe, Schedule, Unlabeled, Warmup, override
    from pkdzoo.training.recipe_files import load_recipe, load_recipes

__all__ = [
    "Data",
    "Distill",
    "Logging",
    "Mix",
    "Optim",
    "Recipe",
    "Schedule",
    "Unlabeled",
    "Warmup",
    "load_recipe",
    "load_recipes",
    "override",
]

if not TYPE_CHECKING:  # a type checker would take every name of the package for existing
    _RECIPE, _FILES = "pkdzoo.training.recipe", "pkdzoo.training.recipe_files"
    __getattr__ = lazy_attributes(__name__, {name: _FILES if name.startswith("load_") else _RECIPE for name in __all__})
