"""Where the files of the published recipes are, and which detectors they train, without torch."""

from __future__ import annotations

import re
from pathlib import Path

NO_RECIPES = ("benchmarks", "experiments")  # folders of other programs, as in setup.py
TRAINS = r'Recipe\(\s*"(\w+)",\s*"{}"'  # the first two arguments are the names of the recipe and of the detector


def published_files() -> dict[str, Path]:
    """The files of the published recipes by name, without ``.py``; in a clone, those below ``recipes/``."""
    package = Path(__file__).parents[1]
    folder = next((path for path in (package / "recipes", package.parent / "recipes") if path.is_dir()), package)
    files = [folder / "demo.py", *sorted(folder.glob("*/*.py"))]
    return {file.stem: file for file in files if file.parent.name not in NO_RECIPES and file.is_file()}


def recipes_of(arch: str) -> list[str]:
    """Names of the published recipes that train a detector or, of a distilled one, that it was trained by.

    Recipes that a table makes are not found: their files are read, and not executed.

    Example:
        >>> from pkdzoo.training.published_files import recipes_of
        >>> recipes_of("gfl_r34"), recipes_of("retina_r50_pkd_swin")
        (['gfl_r34_ld_r101'], ['retina_r50_pkd_swin'])
    """
    files = published_files()
    if arch in files:
        return [arch]
    written = re.compile(TRAINS.format(re.escape(arch)))
    return sorted({name for file in files.values() for name in written.findall(file.read_text(encoding="utf-8"))})
