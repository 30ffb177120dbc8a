"""README says what is true: its tables come from the registry, its code runs, its files exist.

python tests/test_readme.py      # writes the generated parts anew
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import pkdzoo

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def generated() -> dict[str, str]:
    """The parts between markers, by name."""
    return {"zoo": pkdzoo.results("*.coco*").to_markdown()}


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
    for command in "\n".join(blocks("")).splitlines():
        for word in shlex.split(command, comments=True):
            if word.startswith("recipes/") and word.endswith(".py"):
                assert (ROOT / word).exists(), word


def test_the_recipe_loads(tmp_path: Path) -> None:
    from pkdzoo.training import load_recipe

    code = next(block for block in blocks("python") if "RECIPE = " in block)
    (tmp_path / "my_recipe.py").write_text(code)
    recipe = load_recipe(tmp_path / "my_recipe.py")
    assert recipe.distill is not None
    assert pkdzoo.is_detector(recipe.distill.teacher)
    assert pkdzoo.is_detector(recipe.model)


def test_prediction_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 48), (90, 120, 30)).save("street.jpg")
    code = next(block for block in blocks("python") if "street.jpg" in block)
    smaller = code.replace('"retina_r50_pkd_swin", pretrained=True', '"retina_r10w16"')
    assert smaller != code
    exec(smaller, {})
    assert Image.open("street_out.png").size == (64, 48)


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
