"""Copies the published recipes into the wheel; everything else about the package is in pyproject.toml.

The recipes lie beside the package in ``recipes/``, where a clone runs and edits them, and are ``pkdzoo/recipes`` in a
wheel. An editable install reads ``recipes/`` itself.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

NO_RECIPES = ("benchmarks", "experiments")  # as in pkdzoo/training/published_files.py


class BuildWithRecipes(build_py):
    """The usual build of the Python files, and then the recipe files."""

    def run(self) -> None:
        super().run()
        for source, target in self.recipe_files():
            self.mkpath(str(Path(target).parent))
            self.copy_file(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *(target for _, target in self.recipe_files())]

    def recipe_files(self) -> list[tuple[str, str]]:
        """Source and target of every recipe file."""
        if self.editable_mode:
            return []
        files = [Path("recipes/demo.py"), *sorted(Path("recipes").glob("*/*.py"))]
        return [
            (str(file), str(Path(self.build_lib, "pkdzoo", file)))
            for file in files
            if file.parent.name not in NO_RECIPES
        ]


setup(cmdclass={"build_py": BuildWithRecipes})
