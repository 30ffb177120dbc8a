"""README says what is true: its tables come from the registry, its code runs, its files exist.

python tests/test_readme.py      # writes the generated parts anew
"""

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

import pkdzoo
from pkdzoo.data import make_shapes
from pkdzoo.data.synthetic import CLASSES
from pkdzoo.dataset_tools.convert import convert
from pkdzoo.maintain.recipes_page import experiments
from recipes.benchmarks.table import recorded

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def generated() -> dict[str, str]:
    """The parts between markers, by name."""
    return {
        "zoo": pkdzoo.results("*.coco*").to_markdown(),
        "package": pkdzoo.results(["*.bccd", "*.shapes"]).to_markdown(),
        "experiments": experiments(ROOT / "recipes"),
        "speed": recorded(),
    }


def with_generated(text: str) -> str:
    for name, content in generated().items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        head, _, rest = text.partition(begin)
        assert rest, f"README has no marker {begin.strip()}"
        text = head + begin + content + end + rest.partition(end)[2]
    return text


def blocks(language: str) -> list[str]:
    """Fenced blocks of a language; "" are the commands."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [content for name, content in found if name == language]


def test_tables_are_generated() -> None:
    text = README.read_text()
    assert text == with_generated(text), "run `python tests/test_readme.py`"


def test_links_and_files_exist() -> None:
    text = README.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target
    for command in "\n".join(blocks("") + blocks("bash")).splitlines():
        for word in shlex.split(command, comments=True):
            if word.startswith("recipes/") and word.endswith(".py"):
                assert (ROOT / word).exists(), word


def own_recipe() -> str:
    return next(block for block in blocks("python") if "RECIPES = " in block)


def test_the_recipe_loads(tmp_path: Path) -> None:
    from pkdzoo.training import load_recipes

    (tmp_path / "cells.py").write_text(own_recipe())
    teacher, student = load_recipes(tmp_path / "cells.py")
    assert pkdzoo.is_detector(teacher.model) and pkdzoo.is_detector(student.model)
    assert teacher.init is not None and pkdzoo.get_weights(teacher.init).has_source
    assert student.distill is not None and student.distill.teacher == f"local-dir:runs/{teacher.name}/best"
    published = re.findall(r'Distill\("([a-z]\w+\.\w+)"\)', README.read_text())
    assert published and all(pkdzoo.get_weights(name).has_source for name in published)


def labelled_photos(folder: Path) -> None:
    """What a labelling tool leaves behind: images, labels, and nobody divided them."""
    shapes = make_shapes(folder / "shapes", train=14, val=1, size=(64, 96))
    convert(shapes, folder / "yolo", "yolo", ["train"])
    for kind in ("images", "labels"):
        (folder / "photos" / kind).mkdir(parents=True)
        for file in (folder / "yolo" / kind / "train").iterdir():
            file.rename(folder / "photos" / kind / file.name)
    (folder / "photos" / "data.yaml").write_text(f"train: images\nnames: {list(CLASSES)}\n")


@pytest.mark.slow
def test_from_photos_to_a_distilled_detector(tmp_path: Path) -> None:
    """Every command of the section as it stands there, on small images and with small detectors."""
    labelled_photos(tmp_path)
    recipe = own_recipe()
    for old, new in (
        ('"gfl_r101"', '"gfl_r10w16"'),
        ('"gfl_r101.coco_ms2x"', "None"),
        ('"imagenet"', "None"),
        ('"retina_r50"', '"retina_r10w16"'),
        ("short=800, long=1333, batch=16", "short=64, long=96, batch=4, workers=0"),
        ("epochs=12, milestones=(8, 11)", "epochs=1"),
    ):
        assert old in recipe
        recipe = recipe.replace(old, new)
    (tmp_path / "cells.py").write_text(recipe)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    around = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    commands = [block for block in blocks("bash") if "photos" in block or "cells.py" in block]
    assert len(commands) == 2
    for command in commands:
        done = subprocess.run(
            ["bash", "-e", "-c", command], cwd=tmp_path, env=around, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["AP"] is not None
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 14
    assert (tmp_path / "sheet.png").is_file() and (tmp_path / "figures" / "activations.png").is_file()


def test_prediction_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (640, 480), (90, 120, 30)).save("street.jpg")
    code = next(block for block in blocks("python") if "street.jpg" in block)
    smaller = code.replace('"retina_r50_pkd_swin", pretrained=True', '"retina_r10w16"')
    assert smaller != code
    exec(smaller, {})
    assert Image.open("street_out.png").size == (640, 480)


@pytest.mark.slow
def test_torchvision_as_a_teacher() -> None:
    code = next(block for block in blocks("python") if "fasterrcnn_resnet50_fpn" in block)
    code = code.replace('weights="DEFAULT"', "weights=None, weights_backbone=None")
    target = pkdzoo.Instances(torch.tensor([[10.0, 10.0, 60.0, 50.0]]), torch.tensor([3]))
    names: dict[str, Any] = {
        "pkdzoo": pkdzoo,
        "batch": pkdzoo.Batch(torch.rand(1, 3, 96, 128) * 255, [(96, 128)], [target]),
    }
    exec(code, names)
    assert set(names["losses"]) == {"loss_cls", "loss_box", "loss_pkd"}
    assert torch.stack(list(names["losses"].values())).isfinite().all()


if __name__ == "__main__":
    README.write_text(with_generated(README.read_text()))
