"""Published recipes by name, in a clone and from an installed wheel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.published import every_recipe
from helpers.scripts import ROOT

from pkdzoo.training import load_recipe, load_recipes
from pkdzoo.training.published_files import NO_RECIPES, published_files, recipes_of
from pkdzoo.training.recipe_files import find_published

CODE = """
import json, pkdzoo
from pkdzoo.training import load_recipe, load_recipes
from pkdzoo.training.published_files import published_files
names = ("retina_r50_pkd_swin", "retina_on_fcos_r50")
print(json.dumps({
    "package": pkdzoo.__file__,
    "files": sorted(str(path) for path in published_files().values()),
    "recipes": [load_recipe(name).to_dict() for name in names],
    "demo": [recipe.name for recipe in load_recipes("demo")],
}))
"""


def ask(python_path: Path, folder: Path) -> dict:
    """What the package below ``python_path`` knows of recipes, from another working directory."""
    env = {**os.environ, "PYTHONPATH": str(python_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_recipe_is_found_by_the_name_of_its_file_and_by_its_own_name() -> None:
    one = load_recipe("retina_r50_pkd_swin", ["seed=3"])
    assert one == load_recipe(ROOT / "recipes" / "pkd" / "retina_r50_pkd_swin.py", ["seed=3"]) and one.seed == 3
    table = load_recipes("table_1_frozen_pyramid")
    assert len(table) > 1 and [load_recipe(recipe.name) for recipe in table] == table
    assert load_recipes("table_1_frozen_pyramid", only=table[0].name) == table[:1]


def test_every_published_recipe_has_a_name() -> None:
    files = published_files()
    recipes = [(path, recipe) for path, recipe in every_recipe() if path.parent.name not in NO_RECIPES]
    assert {path for path, _ in recipes} == set(files.values())
    for path, recipe in recipes:
        file, name = find_published(recipe.name)  # each name is one recipe
        assert (file, name or path.stem) == (path, recipe.name)


def test_the_recipes_of_a_detector_are_found_without_running_their_files() -> None:
    trained: dict[str, set[str]] = {}
    for path, recipe in every_recipe():
        if path.parent.name not in NO_RECIPES and "RECIPES" not in path.read_text():
            trained.setdefault(recipe.model, set()).add(recipe.name)
    assert len(trained) > 30
    assert {name: set(recipes_of(name)) for name in trained} == trained


def test_an_unknown_name_suggests_the_closest() -> None:
    with pytest.raises(ValueError, match=r"no recipe 'retina_r50_pkd_swim'.* Did you mean retina_r50_pkd_swin"):
        load_recipe("retina_r50_pkd_swim")
    with pytest.raises(ValueError, match=r"no recipe 'retina_on_fcos_r5'.*retina_on_fcos_r50"):
        load_recipe("retina_on_fcos_r5")
    with pytest.raises(ValueError, match=r"demo holds 2 recipes: plain, distilled\. Write load_recipes\(\)"):
        load_recipe("demo")


def test_a_clone_has_its_recipes_from_any_directory(tmp_path: Path) -> None:
    answer = ask(ROOT, tmp_path)
    assert len(answer["files"]) > 70 and answer["demo"] == ["plain", "distilled"]
    assert answer["recipes"][0] == load_recipe("retina_r50_pkd_swin").to_dict()


@pytest.mark.slow
def test_a_wheel_has_the_recipes_of_the_clone(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    source, wheels, site = tmp_path / "source", tmp_path / "wheels", tmp_path / "site"
    source.mkdir()
    for name in ("pkdzoo", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, source], check=True)
    (wheel,) = wheels.iterdir()
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", site, wheel], check=True)
    assert sorted(path.name for path in site.iterdir() if path.suffix != ".dist-info") == ["bin", "pkdzoo"]
    assert {path.name for path in (site / "pkdzoo" / "training" / "report").glob("page.*")} == {
        "page.css",
        "page.js",
        "page.py",
    }
    here, there = ask(ROOT, tmp_path), ask(site, tmp_path)
    assert there["package"] == str(site / "pkdzoo" / "__init__.py")
    assert (there["recipes"], there["demo"]) == (here["recipes"], here["demo"])
    assert [Path(file).relative_to(site / "pkdzoo") for file in there["files"]] == [
        Path(file).relative_to(ROOT) for file in here["files"]
    ]


def test_a_recipe_imports_the_files_beside_it(tmp_path) -> None:
    """Two folders, each with a file of the same name: each recipe gets its own."""
    for name, rate in (("a", 0.5), ("b", 0.25)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shared_settings.py").write_text(f"RATE = {rate}\n")
        (tmp_path / name / "mine.py").write_text(
            "from pkdzoo.training import Optim, Recipe\nfrom shared_settings import RATE\n"
            "RECIPE = Recipe('mine', 'retina_r50', optim=Optim(lr=RATE))\n"
        )
    path = list(sys.path)
    assert [load_recipe(tmp_path / name / "mine.py").optim.lr for name in "ab"] == [0.5, 0.25]
    assert sys.path == path and "shared_settings" not in sys.modules


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Data(bacth=8)", "mine.py, line 3: Data has no field 'bacth'. Did you mean batch_size, eval_batch_size?"),
        ("Optim(learning_rate=8)", "Optim has no field 'learning_rate'"),
        ("Logging(every=8)", "Did you mean log_every, eval_every, save_every?"),
    ],
)
def test_a_misspelt_field_in_a_file_is_named(text, said, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(
        f"from pkdzoo.training import *\n\nX = {text}\nRECIPE = Recipe('mine', 'm', data=X)\n"
    )
    with pytest.raises(ValueError, match="has no field") as caught:
        load_recipe(tmp_path / "mine.py")
    assert said in str(caught.value)


def test_a_field_without_its_group_is_named_with_it() -> None:
    for assignment, said in (
        ("lr=0.1", "Write optim.lr"),
        ("batch_size=2", "Write data.batch_size"),
        ("epoch=2", "Did you mean schedule.epochs"),
        ("kind=adamw", "Write optim.kind or schedule.warmup.kind"),
    ):
        with pytest.raises(ValueError, match="a recipe has no field") as caught:
            load_recipe("retina_r50_pkd_swin", [assignment])
        assert said in str(caught.value)
