"""README and docs/ are true: tables come from the registry, code blocks run, named files exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.scripts import ROOT
from PIL import Image

import pkdzoo
from pkdzoo.cli import build_parser
from pkdzoo.data import make_shapes
from pkdzoo.data.synthetic import CLASSES
from pkdzoo.dataset_tools.convert import convert
from pkdzoo.maintain import pages
from pkdzoo.models._registry import find

README, OWN_DATA, DETECT = ROOT / "README.md", ROOT / "docs" / "own_data.md", ROOT / "docs" / "detect.md"
DISTILL = ROOT / "docs" / "distill.md"
OTHER_LIBRARIES = ROOT / "docs" / "other_libraries.md"
UNLABELED = ROOT / "docs" / "unlabeled_images.md"
MEASURED_UNLABELED = ROOT / "recipes" / "experiments" / "unlabeled_images.md"
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "recipes" / "benchmark_results" / "README.md",
    MEASURED_UNLABELED,
]
GENERATED = [ROOT / "recipes" / name for name in ("README.md", "MIGRATING.md", "experiments/README.md")]
SECTIONS = (
    "Install",
    "Detect objects",
    "Distill on your own data",
    "Try the demo, run the tests",
    "Results",
    "Detectors and methods",
    "More",
    "License and citation",
)


def blocks(path: Path, language: str) -> list[str]:
    """Fenced blocks of one language on a page; those without a language are ""."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [content for name, content in fenced if name == language]


def commands(path: Path) -> list[list[str]]:
    """Words of every command on a page, without comments."""
    lines = "".join(blocks(path, "bash")).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("path", pages.PAGES)
def test_tables_are_generated(path: str) -> None:
    assert (ROOT / path).read_text() == pages.page(path, ROOT), "run `python -m pkdzoo.maintain pages`"


def test_a_page_without_markers_is_refused() -> None:
    assert pages.with_parts("a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb", {"x": "new\n"}).splitlines()[2] == "new"
    with pytest.raises(ValueError, match=r"no markers <!-- x:begin --> and <!-- x:end -->"):
        pages.with_parts("text", {"x": ""})


def test_every_row_of_the_zoo_names_its_data_set() -> None:
    assert [pages.data_set(name) for name in ("a.coco_2x", "a.bccd", "a.shapes")] == [
        "COCO", "BCCD", "generated shapes",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"a\.voc07: add the data set of tag 'voc07' to DATA_SETS"):
        pages.data_set("a.voc07")
    zoo = (ROOT / "docs" / "zoo.md").read_text()
    assert all(f"| [{name}](../hub_cards/{name}.md) | " in zoo for name in pkdzoo.list_detectors(pretrained=True))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_files_exist(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target
    text = "\n".join(blocks(path, "") + blocks(path, "bash")).replace("\\\n", " ")
    for command in text.splitlines():
        if path.name != "CONTRIBUTING.md":
            for word in shlex.split(command, comments=True):
                if word.startswith("recipes/") and word.endswith(".py"):
                    assert (ROOT / word).exists(), word


def headings(path: Path) -> set[str]:
    """Addresses that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    plain = [
        re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", line) for line in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    ]
    return {re.sub(r"[^\w -]", "", line.strip().lower()).replace(" ", "-") for line in plain}


@pytest.mark.parametrize("path", [*DOCUMENTS, *GENERATED], ids=lambda path: str(path.relative_to(ROOT)))
def test_linked_headings_exist(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", path.read_text())
    pages = [(path.parent / page if page else path, heading) for page, heading in links]
    assert [(page.name, heading) for page, heading in pages if heading not in headings(page)] == []


def test_every_page_is_reached_from_the_table_of_pages() -> None:
    """Pages of single methods are listed on the page of all methods."""
    table = ROOT / "docs" / "README.md"
    linked = {(table.parent / link).resolve() for link in re.findall(r"\]\(([^)#]+)", table.read_text())}
    pages = {*DOCUMENTS, *(ROOT / "recipes").glob("*.md"), ROOT / "recipes" / "experiments" / "README.md", table}
    assert {path for path in pages if path.parent.name != "methods"} - linked == {table}


def test_the_readme_is_short_and_in_order() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 150
    assert [line.removeprefix("## ") for line in lines if line.startswith("## ")] == list(SECTIONS)
    demo = README.read_text().partition("## Try the demo")[2].partition("\n## ")[0]
    two = [line for line in demo.splitlines() if line.startswith("python3 -m venv .venv && ")]
    assert two[0].endswith("accelerate launch recipes/train.py recipes/demo.py")
    assert two[1].endswith("python -m pytest") and len(two) == 2


def test_the_first_screen_installs_detects_and_distills() -> None:
    """Without scrolling: what pkdzoo is, how to install it, one prediction and one distillation."""
    screen = "\n".join(README.read_text().splitlines()[:32])
    expected = (
        "model zoo of distilled object detectors",
        "\npip install -e .\n",
        "model.predict(",
        "\npkdzoo distill --data ",
    )
    assert [words for words in expected if words not in screen] == []


def test_the_readme_names_every_family_and_method() -> None:
    box = README.read_text().partition("## Detectors and methods")[2].partition("\n## ")[0]
    families = {find(name)[0].family for name in pkdzoo.list_detectors()}
    named = set(re.findall(r"`(\w+)`", box))
    assert named >= families | set(pkdzoo.list_methods())


def test_the_weights_that_need_no_network_are_named() -> None:
    packaged = [name for name in pkdzoo.list_detectors(pretrained=True) if pkdzoo.get_weights(name).file]
    for page in (README, ROOT / "docs" / "hub.md"):
        text = page.read_text()
        assert packaged and all(f"`{name}`" in text for name in packaged)


def test_measured_numbers_of_the_readme_stand_in_the_table() -> None:
    rows = [line for line in pages.experiments_table(ROOT).splitlines() if ": pkd (" in line]
    gains = [re.search(r"\+([\d.]+) \[\+([\d.]+), \+([\d.]+)\] \|$", row) for row in rows]
    (blood, boards) = (gain.groups() for gain in gains if gain is not None)
    text = " ".join(README.read_text().split())
    assert "{} AP (95 % interval {} to {}) to a small student".format(*blood) in text
    assert "on circuit boards {} ({} to {})".format(*boards) in text


def test_the_readme_counts_the_architectures_that_have_reference_numbers() -> None:
    """The others share their family with one of these, as the README says."""
    compared = {path.stem for path in (ROOT / "tests" / "golden" / "mmdet").glob("*.json")}
    others = len(list((ROOT / "tests" / "golden" / "mmyolo").glob("*.json")))
    said = "{} architectures are tested against reference numbers of the original programs ({} mmdetection, {} MMYOLO)"
    assert said.format(len(compared) + others, len(compared), others) in README.read_text()
    family = {name: find(name)[0].family for name in pkdzoo.list_detectors()}
    assert set(family.values()) == {family[name] for name in compared}


# -- code blocks -----------------------------------------------------------------------------------------------------


def own_recipe() -> str:
    return next(block for block in blocks(OWN_DATA, "python") if "RECIPES = " in block)


def test_every_code_block_is_tested() -> None:
    """A new Python block needs a test below; the others are covered by the tests that read them."""
    found = {path: len(blocks(path, "python")) for path in DOCUMENTS if path.name != "CONTRIBUTING.md"}
    expected = {README: 1, DETECT: 2, OWN_DATA: 2, OTHER_LIBRARIES: 4, DISTILL: 2, UNLABELED: 1, MEASURED_UNLABELED: 1}
    assert {path: count for path, count in found.items() if count} == expected


def test_the_blocks_on_other_libraries_run() -> None:
    from pkdzoo.distill.adapters import is_of_other_library
    from pkdzoo.training import Recipe

    for block in blocks(OTHER_LIBRARIES, "python"):
        names: dict[str, object] = {}
        exec(block, names)
        recipe = names.get("RECIPE")
        if isinstance(recipe, Recipe) and recipe.distill is not None:
            teacher = recipe.distill.teacher
            assert is_of_other_library(recipe.model) != is_of_other_library(teacher)
            assert pkdzoo.is_detector(recipe.model) or pkdzoo.is_detector(teacher)


def test_the_recipes_on_unlabeled_images_are_recipes() -> None:
    """How such a recipe trains is tested in tests/recipes/test_unlabeled.py."""
    found: list[Any] = []
    for block in blocks(UNLABELED, "python") + blocks(MEASURED_UNLABELED, "python"):
        names: dict[str, Any] = {}
        exec(block, names)
        found += names.get("RECIPES") or [names["RECIPE"]]
    assert all(pkdzoo.is_detector(recipe.model) for recipe in found)
    taught = [recipe.distill for recipe in found if recipe.distill is not None]
    teachers = [distill.teacher for distill in taught]
    assert all(name.startswith("local-dir:runs/") or pkdzoo.is_detector(name) for name in teachers)
    assert [distill.unlabeled and distill.unlabeled.folder for distill in taught] == ["more_photos", None, "rest"]


def test_the_readme_repeats_the_guide_to_distillation() -> None:
    """Its command and the gain of the sample, with the sentence that limits it."""
    assert commands(README) and all(words in commands(DISTILL) for words in commands(README))
    sample = README.read_text().partition("## Distill on your own data")[2].partition("\n## ")[0]
    assert "distillation added 5.2 AP (95 % interval 3.6 to 6.8, one seed)" in sample
    assert "at the end of longer trainings no gain is shown" in sample
    assert "Distilled minus plain: +5.2, 95 % interval +3.6 to +6.8" in DISTILL.read_text()


def test_the_recipe_loads(tmp_path: Path) -> None:
    from pkdzoo.training import load_recipes

    (tmp_path / "blood.py").write_text(own_recipe())
    teacher, student = load_recipes(tmp_path / "blood.py")
    assert pkdzoo.is_detector(teacher.model) and pkdzoo.is_detector(student.model)
    assert teacher.init is not None and pkdzoo.get_weights(teacher.init).has_source
    assert student.distill is not None and student.distill.teacher == f"local-dir:runs/{teacher.name}/best"
    published = re.findall(r'Distill\("([a-z]\w+\.\w+)"\)', OWN_DATA.read_text())
    assert published and all(pkdzoo.get_weights(name).has_source for name in published)


def test_commands_are_understood() -> None:
    for words in [*commands(DETECT), *commands(OWN_DATA), *commands(DISTILL), *commands(ROOT / "docs" / "hub.md")]:
        if words[0] == "pkdzoo":
            build_parser().parse_args(words[1:])


def labeled_photos(folder: Path) -> None:
    """What a labeling program leaves: images and labels that are not split yet."""
    shapes = make_shapes(folder / "shapes", train=14, val=1, size=(64, 96))
    convert(shapes, folder / "yolo", "yolo", ["train"])
    for kind in ("images", "labels"):
        (folder / "photos" / kind).mkdir(parents=True)
        for file in (folder / "yolo" / kind / "train").iterdir():
            file.rename(folder / "photos" / kind / file.name)
    (folder / "photos" / "data.yaml").write_text(f"train: images\nnames: {list(CLASSES)}\n")


@pytest.mark.slow
def test_from_photos_to_a_distilled_detector(tmp_path: Path) -> None:
    """Every command of the walk-through as it stands there, on small images and with small detectors."""
    labeled_photos(tmp_path)
    recipe = own_recipe()
    for old, new in (
        ('"gfl_r101"', '"gfl_r10w16"'),
        ('"gfl_r101.coco_ms2x"', "None"),
        ('"imagenet"', "None"),
        ('"retina_r50"', '"retina_r10w16"'),
        ("short=800, long=1333, batch_size=16", "short=64, long=96, batch_size=4, workers=0"),
        ("epochs=12, milestones=(8, 11)", "epochs=1"),
    ):
        assert old in recipe
        recipe = recipe.replace(old, new)
    (tmp_path / "blood.py").write_text(recipe)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    steps = blocks(OWN_DATA, "bash")
    assert len(steps) == 2
    for step in steps:
        done = subprocess.run(
            ["bash", "-e", "-c", step], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    metrics = json.loads((tmp_path / "runs" / "student" / "eval_val.json").read_text())
    assert metrics["AP"] is not None
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 14
    assert (tmp_path / "sheet.png").is_file() and (tmp_path / "figures" / "activations.png").is_file()


@pytest.mark.slow
def test_distill_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both blocks of docs/distill.md with small detectors and short times."""
    labeled_photos(tmp_path)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (640, 480), (90, 120, 30)).save("street.jpg")
    first, second = blocks(DISTILL, "python")
    short = 'set=["schedule.max_steps=1"], cpu=True, threads=1'
    for old, new in (('"rtmdet_tiny"', '"retina_r10w16", teacher="fcos_r10w16", init="none"'), ('time="30m"', short)):
        assert old in first
        first = first.replace(old, new)
    exec(first, {})
    assert (tmp_path / "out.png").is_file() and (tmp_path / "runs/retina_r10w16-photos/report.html").is_file()
    for old, new in (
        ('"retina_r18", pretrained=True', '"fcos_r10w16"'),
        ('time="30m"', short),
        ('"photos")["AP50"]', '"split", cpu=True)'),
    ):
        assert old in second
        second = second.replace(old, new)
    convert("photos", "split", "coco", hold_out=0.2)
    exec(second.replace('model.export("photos.onnx")', ""), {})


@pytest.mark.parametrize("page", [README, DETECT], ids=lambda path: path.name)
def test_prediction_as_shown(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (640, 480), (90, 120, 30)).save("street.jpg")
    code = next(block for block in blocks(page, "python") if "street.jpg" in block)
    smaller = code.replace('"retina_r50_pkd_swin", pretrained=True', '"retina_r10w16"')
    assert smaller != code
    exec(smaller, {})
    assert Image.open("street_out.png").size == (640, 480)


def test_a_detector_as_a_torch_module(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(next(block for block in blocks(DETECT, "python") if "features_only" in block), names)
    assert set(names["losses"]) == {"loss_cls", "loss_box", "loss_centerness"}
    assert set(names["result"].to_dict()) == {"boxes", "scores", "labels"}
    assert names["model"].head.cls.weight.grad is not None
    assert "torch.Size([1, 64, 12, 16])" in capsys.readouterr().out


@pytest.mark.slow
def test_torchvision_as_a_teacher() -> None:
    code = next(block for block in blocks(OWN_DATA, "python") if "fasterrcnn_resnet50_fpn" in block)
    code = code.replace('weights="DEFAULT"', "weights=None, weights_backbone=None")
    names: dict[str, Any] = {}
    exec(code, names)
    assert set(names["losses"]) == {"loss_cls", "loss_box", "loss_pkd"}
    assert names["student"].head.cls.weight.grad is not None
    assert torch.stack(list(names["losses"].values())).isfinite().all()
