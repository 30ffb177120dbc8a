"""Recipes: typed fields, overrides with helpful errors, files, and the round trip through JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pkdzoo.training import Data, Distill, Recipe, Schedule, Warmup, load_recipe, load_recipes, override

RECIPE = Recipe(
    name="tiny",
    model="retina_r10w16",
    model_args={"num_classes": 3},
    data=Data(short=(64, 96), long=128, mode="range", batch_size=4),
    schedule=Schedule(epochs=2, milestones=(1.5,), warmup=Warmup("constant", 1 / 3, 5)),
    distill=Distill("fcos_r50", {"pkd": {"weight": 10.0, "pair": "index"}}, freeze=("backbone",)),
    expect={"AP": 40.8, "source": "nowhere"},
)


def test_json_round_trip_is_exact() -> None:
    again = Recipe.from_dict(json.loads(json.dumps(RECIPE.to_dict())))
    assert again == RECIPE
    plain = replace(RECIPE, distill=None, schedule=Schedule(warmup=None))
    assert Recipe.from_dict(plain.to_dict()) == plain


@pytest.mark.parametrize(
    ("assignment", "read", "expected"),
    [
        ("optim.lr=0.02", lambda r: r.optim.lr, 0.02),
        ("optim.lr=1", lambda r: r.optim.lr, 1.0),
        ("optim.lr=.5", lambda r: r.optim.lr, 0.5),
        ("optim.clip=none", lambda r: r.optim.clip, None),
        ("optim.clip=35", lambda r: r.optim.clip, 35.0),
        ("optim.scale_lr=true", lambda r: r.optim.scale_lr, True),
        ("optim.no_decay=norm,bias", lambda r: r.optim.no_decay, ("norm", "bias")),
        ("optim.kind=adamw", lambda r: r.optim.kind, "adamw"),
        ("data.short=320", lambda r: r.data.short, 320),
        ("data.short=320,352", lambda r: r.data.short, (320, 352)),
        ("data.crop=64,96", lambda r: r.data.crop, (64, 96)),
        ("schedule.milestones=8,11", lambda r: r.schedule.milestones, (8, 11)),
        ("schedule.milestones=8", lambda r: r.schedule.milestones, (8,)),
        ("schedule.milestones=[]", lambda r: r.schedule.milestones, ()),
        ("schedule.warmup=none", lambda r: r.schedule.warmup, None),
        ("schedule.warmup.steps=7", lambda r: r.schedule.warmup.steps, 7),
        ("model_args.norm=gn", lambda r: r.model_args, {"num_classes": 3, "norm": "gn"}),
        ("model_args.frozen_stages=0", lambda r: r.model_args["frozen_stages"], 0),
        ("distill.methods.pkd.weight=4", lambda r: r.distill.methods["pkd"], {"weight": 4, "pair": "index"}),
        ("distill=none", lambda r: r.distill, None),
        ("distill.methods.pkd.levels=none", lambda r: r.distill.methods["pkd"]["levels"], None),
        ("distill.methods.pkd.weight=Null", lambda r: r.distill.methods["pkd"]["weight"], None),
        ("model_args.norm=none", lambda r: r.model_args["norm"], None),
        ("init=imagenet", lambda r: r.init, "imagenet"),
        ("name=007", lambda r: r.name, "007"),
    ],
)
def test_override(assignment: str, read, expected: object) -> None:
    assert read(override(RECIPE, [assignment])) == expected


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("optim.lrr=1", r"no field 'optim.lrr'.*lr"),
        ("optm.lr=1", r"no field 'optm'.*optim"),
        ("optim.lr=fast", r"optim.lr='fast': write a number"),
        ("optim.kind=adam", r"'sgd', 'adamw'"),
        ("data.batch_size=2.5", r"data.batch_size=2.5: write a whole number"),
        ("data.batch_size=true", r"a whole number"),
        ("data.batch_size=0", r"data.batch_size=0: write 1 or more images"),
        ("data.short=0", r"data.short=0: write the length"),
        ("optim.lr=inf", r"optim.lr=inf: write"),
        ("optim.weight_decay=nan", r"optim.weight_decay=nan: write"),
        ("schedule.gamma=10", r"schedule.gamma=10.0: write a factor above 0, up to 1"),
        ("schedule.gamma=0", r"schedule.gamma=0.0: write"),
        ("schedule.warmup.factor=-1", r"schedule.warmup.factor=-1.0: write a factor between 0 and 1"),
        ("schedule.warmup.factor=2", r"schedule.warmup.factor=2.0: write"),
        ("schedule.warmup.steps=-1", r"schedule.warmup.steps=-1: write 0 or more"),
        ("logging.patience=0", r"logging.patience=0: write"),
        ("data.crop=64", r"data.crop=\[64\]: write 2 values"),
        ("optim.scale_lr=1", r"true or false"),
        ("schedule.milestones.a=1", r"schedule.milestones"),
        ("distill.methods.pkd=5", r"distill.methods.pkd=5"),
        ("optim.lr", r"write a field, an equals sign"),
        ("schedule.milestones=", r"'schedule.milestones=' has no value: write one"),
        ("name=a/b", r"name for the run's folder"),
    ],
)
def test_bad_override_says_what_to_write(assignment: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        override(RECIPE, [assignment])


def test_override_below_an_absent_part_is_refused() -> None:
    with pytest.raises(ValueError, match=r"distill is not set in this recipe"):
        override(replace(RECIPE, distill=None), ["distill.teacher=retina_r50"])


def test_from_dict_names_unknown_fields() -> None:
    with pytest.raises(ValueError, match=r"'data.batchsize'.*batch"):
        Recipe.from_dict({"name": "a", "model": "b", "data": {"batchsize": 3}})
    with pytest.raises(ValueError, match="model"):
        Recipe.from_dict({"name": "a"})


def test_files(tmp_path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(RECIPE.to_dict()))
    assert load_recipe(tmp_path / "run.json") == RECIPE
    header = "from pkdzoo.training import Recipe\n"
    (tmp_path / "one.py").write_text(header + "RECIPE = Recipe('one', 'retina_r18')\n")
    assert load_recipe(tmp_path / "one.py", ["seed=3"]) == Recipe("one", "retina_r18", seed=3)
    (tmp_path / "two.py").write_text(header + "RECIPES = [Recipe(n, 'retina_r18') for n in 'ab']\n")
    assert [r.name for r in load_recipes(tmp_path / "two.py")] == ["a", "b"]
    with pytest.raises(ValueError, match="holds 2 recipes: a, b"):
        load_recipe(tmp_path / "two.py")
    (only,) = load_recipes(tmp_path / "two.py", ["seed=3"], only="b")
    assert (only.name, only.seed) == ("b", 3)
    with pytest.raises(ValueError, match=r"holds no recipe 'c'\. Known names: a, b"):
        load_recipes(tmp_path / "two.py", only="c")


def test_bad_files(tmp_path) -> None:
    (tmp_path / "none.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="defines no RECIPE"):
        load_recipes(tmp_path / "none.py")
    with pytest.raises(ValueError, match=r"Did you mean none\.py"):
        load_recipes(tmp_path / "nome.py")
    (tmp_path / "twice.py").write_text(
        "from pkdzoo.training import Recipe\nRECIPES = [Recipe('a', 'retina_r18') for _ in 'ab']\n"
    )
    with pytest.raises(ValueError, match="two recipes with the same name"):
        load_recipes(tmp_path / "twice.py")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        load_recipes(tmp_path / "broken.json")


def test_recipes_folder_is_importable_from_a_recipe(tmp_path) -> None:
    folder = tmp_path / "recipes" / "deep"
    folder.mkdir(parents=True)
    (tmp_path / "recipes" / "shared_by_two.py").write_text("SEED = 11\n")
    (folder / "a.py").write_text(
        "from pkdzoo.training import Recipe\nfrom recipes.shared_by_two import SEED\n"
        "RECIPE = Recipe('a', 'x', seed=SEED)\n"
    )
    assert load_recipe(folder / "a.py").seed == 11
