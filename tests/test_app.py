"""The demo in the browser: what it computes, what it serves on this machine, and the Space around a detector."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.commands import fails, run
from PIL import Image

import pkdzoo
from pkdzoo.app import detect, page
from pkdzoo.data import make_shapes

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of shapes, which the packaged detector of shapes knows."""
    root = make_shapes(tmp_path_factory.mktemp("shapes"), train=1, val=1, size=(128, 160))
    return min((root / "val2017").iterdir())


@pytest.fixture(scope="module")
def detectors() -> list[detect.Named]:
    names = ("fcos_r18w24.shapes", "gfl_r10w16_crosskd_cspnext_tiny.bccd")
    return detect.open_all(names)


def test_drawings_captions_and_rows_follow_the_threshold(detectors: list[detect.Named], image: Path) -> None:
    found = detect.detect(detectors, np.asarray(Image.open(image)))
    drawings, captions, rows = detect.show(found, 0.3)
    expected = pkdzoo.create_detector("fcos_r18w24.shapes", pretrained=True).predict(str(image), threshold=0.3)
    own = [row for row in rows if row[0] == "fcos_r18w24.shapes"]
    assert len(own) == len(expected) > 0 and [row[1] for row in own] == list(expected.names)
    assert captions[0].startswith(f"fcos_r18w24.shapes: {len(own)} objects, ") and captions[0].endswith(" ms")
    assert [drawing.ndim for drawing in drawings] == [3, 3]
    assert detect.show(found, 0.99)[2] == []


def test_a_run_of_distill_is_its_three_detectors(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for name in ("plain", "distilled", "big"):
        pkdzoo.create_detector("retina_r10w16", label_names=("a",)).save_pretrained(folder / name / "best")
        (folder / name / "recipe.json").write_text("{}")
    teacher = {"distilled": {"distill": {"teacher": f"local-dir:{folder / 'big' / 'best'}"}}}
    (folder / "distill.json").write_text(json.dumps({"recipes": teacher}))
    assert [named.title for named in detect.open_all([str(folder)])] == ["teacher", "plain", "distilled"]
    teacher = {"distilled": {"distill": {"teacher": "torchvision:fcos_resnet50_fpn"}}}
    (folder / "distill.json").write_text(json.dumps({"recipes": teacher}))
    assert [named.title for named in detect.open_all([str(folder)])] == ["plain", "distilled"]
    (folder / "distill.json").write_text("{}")
    with pytest.raises(ValueError, match="is not as pkdzoo distill wrote it"):
        detect.open_all([str(folder)])


def test_without_gradio_the_install_line_is_told(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    assert "the demo needs gradio: `pip install" in fails(capsys, "app", "retina_r10w16")
    assert '".[app]"' in page.how_to_install((3, 10)) and "Pillow below 13" in page.how_to_install((3, 13))


def test_a_space_is_three_files(capsys, tmp_path: Path) -> None:
    words = ("push", "runs/mine", "--repo", "me/cells", "--license", "Apache-2.0", "--space", "me/demo")
    code, out, _ = run(capsys, *words, "--dry-run", tmp_path / "space", "--json")
    assert code == 0 and json.loads(out)["files"] == ["README.md", "app.py", "requirements.txt"]
    front = yaml.safe_load((tmp_path / "space" / "README.md").read_text().split("---")[1])
    assert (front["sdk"], front["app_file"], front["license"]) == ("gradio", "app.py", "apache-2.0")
    assert front["python_version"] == "3.10"  # not a number, which would be 3.1
    assert front["title"] == "demo" and front["models"] == ["me/cells"]
    code_of_app = (tmp_path / "space" / "app.py").read_text()
    ast.parse(code_of_app)
    assert "hf-hub:me/cells" in code_of_app
    assert (tmp_path / "space" / "requirements.txt").read_text().splitlines() == [
        "gradio>=5",
        f"./pkdzoo-{pkdzoo.__version__}-py3-none-any.whl",  # never from an index, where the name may be a stranger's
    ]
    assert "is not empty" in fails(capsys, *words, "--dry-run", tmp_path / "space")
    assert "--space only writes files" in fails(capsys, *words)
    bad = [*words[:-1], 'me/x"); import os', "--dry-run", tmp_path / "b"]
    assert "write ORGANIZATION/NAME" in fails(capsys, *bad) and not (tmp_path / "b").exists()


@pytest.fixture
def served(detectors: list[detect.Named]) -> Iterator[str]:
    pytest.importorskip("gradio")
    blocks = page.build(detectors)
    _, address, _ = blocks.launch(server_name="127.0.0.1", share=False, quiet=True, prevent_thread_lock=True)
    yield address
    blocks.close()


@pytest.mark.browser
def test_the_page_in_a_browser(served: str, image: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as started:
        browser: Any = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        window = browser.new_page(viewport={"width": 1280, "height": 1000})
        problems: list[str] = []
        window.on("pageerror", lambda error: problems.append(str(error)))
        window.goto(served)
        window.set_input_files("#image input[type=file]", str(image))
        window.get_by_text("objects,").first.wait_for(timeout=60_000)
        before = window.locator("#boxes tbody tr").count()
        assert window.get_by_label("Share").count() == 0  # images stay on this machine
        assert before > 0
        window.locator("#threshold input[type=number]").fill("0.95")
        window.locator("#threshold input[type=number]").press("Enter")
        window.get_by_text("gfl_r10w16_crosskd_cspnext_tiny.bccd: 0 objects").first.wait_for(timeout=60_000)
        assert problems == []
        browser.close()
