"""recipes/visualize.py as a user calls it: on a run, on detectors by name, on logs alone, and on nonsense."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.scripts import script
from PIL import Image

import pkdzoo
from pkdzoo.hub.weights import Distilled
from pkdzoo.models import _registry
from pkdzoo.utils.text import install_line

ALL = ["activations", "channels", "convergence", "magnitudes", "pearson"]
TEACHER = "fcos_r18w24.shapes"  # its weights come with the package


@pytest.fixture(scope="module")
def main() -> Callable[..., None]:
    module = script("visualize")
    return lambda *words: module.main([str(word) for word in words])


def check_figures(folder: Path, names: list[str]) -> None:
    assert sorted(path.stem for path in folder.glob("*.png")) == names
    for name in names:
        image = Image.open(folder / f"{name}.png")
        assert image.width == 1260 and "transparency" not in image.info  # opaque: fit for dark viewers, too
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 10  # something is drawn


@pytest.mark.slow
def test_a_run_without_a_word_more(main, recipe: Path, train, tmp_path: Path, capsys) -> None:
    """The experiment finds its images, its teacher and its logs itself."""
    text = recipe.read_text()
    generated = 'min_image_size=0, generate={"train": 6, "val": 3, "size": (64, 96)}'
    text = text.replace("RECIPE = Recipe", "from dataclasses import replace\n\nPLAIN = Recipe")
    text = (
        text.replace('"retina_r10w16"', '"fcos_r10w16"')
        .replace("min_image_size=0", generated)
        .replace("log_every=3", "log_every=1")
    )
    text = text.replace("epochs=2", "epochs=1")
    text += f'RECIPES = [replace(PLAIN, name="taught", distill=Distill("{TEACHER}")), PLAIN]\n'
    recipe.write_text(text)
    train(recipe, "--output", tmp_path / "run")
    main(tmp_path / "run", "--output", tmp_path / "figures", "--count", 3, "--show", 2)
    check_figures(tmp_path / "figures", ALL)
    assert capsys.readouterr().out.count(str(tmp_path / "figures")) == 6
    numbers = json.loads((tmp_path / "figures" / "figures.json").read_text())
    assert list(numbers["detectors"]) == ["teacher fcos_r18w24", "tiny", "taught"]  # the plain one before the other
    assert len(numbers["images"]) == 3
    taught = next(run for run in numbers["runs"] if run["name"] == "taught")
    assert len(taught["r"]) == 4 and len(taught["r"][0]) == len(taught["steps"]) == 2
    assert taught["epochs"] == [1] and len(numbers["pairs"]["taught"]) == 4
    assert all(-1 <= row["r"] <= 1 for row in numbers["pairs"]["tiny"])


def test_detectors_and_images(main, tmp_path: Path) -> None:
    """By folder and by name, one-stage from two-stage, images of different sizes."""
    pkdzoo.create_detector("retina_r10w16", resize=(64, 96)).save_pretrained(tmp_path / "student")
    pkdzoo.create_detector("faster_rcnn_r10w16", resize=(64, 96)).save_pretrained(tmp_path / "teacher")
    for k, size in enumerate(((96, 64), (64, 96))):
        Image.effect_noise(size, 90).convert("RGB").save(tmp_path / f"{k}.png")
    words = ["--images", tmp_path / "0.png", tmp_path / "1.png", "--levels", 3, "--output", tmp_path / "figures"]
    main(tmp_path / "student", "--teacher", tmp_path / "teacher", *words)
    check_figures(tmp_path / "figures", ["activations", "channels", "magnitudes"])
    numbers = json.loads((tmp_path / "figures" / "figures.json").read_text())
    rows = numbers["pairs"]["student"]
    assert [(row["student"], row["teacher"]) for row in rows] == [("P3", "P2"), ("P4", "P3"), ("P5", "P4")]


def test_a_pair_by_name_knows_its_teacher(main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "_ENTRIES", dict(_registry._ENTRIES))
    pair = Distilled("fcos_r18w24", TEACHER, ("pkd",))
    _registry.register_distilled("fcos_r18w24_pkd_twin", pair, [pkdzoo.get_weights(TEACHER)])
    Image.effect_noise((160, 128), 90).convert("RGB").save(tmp_path / "0.png")
    words = ["--images", tmp_path / "0.png", "--levels", 1, "--output", tmp_path / "figures"]
    main("fcos_r18w24_pkd_twin", *words)
    numbers = json.loads((tmp_path / "figures" / "figures.json").read_text())
    (row,) = numbers["pairs"]["fcos_r18w24_pkd_twin"]
    assert row["r"] == pytest.approx(1, abs=1e-3) and row["magnitude_ratio"] == pytest.approx(1)


def test_logs_alone(main, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run = tmp_path / name
        run.mkdir()
        (run / "recipe.json").write_text(json.dumps({"name": name, "model": "retina_r10w16"}))
        r = '"log/pkd/r0": 0.25, "log/pkd/r1": 0.5'
        (run / "log.jsonl").write_text(f'{{"step": 4, "epoch": 0, {r}}}\n{{"step": 8, "epoch": 2, "AP": 7.0}}\n')
    main(tmp_path / "a", tmp_path / "b", "--curves", "--output", tmp_path / "figures")
    check_figures(tmp_path / "figures", ["convergence", "pearson"])
    runs = json.loads((tmp_path / "figures" / "figures.json").read_text())["runs"]
    assert [run["name"] for run in runs] == ["a", "b"]
    assert all((run["ap"], run["epochs"], run["r"]) == ([7.0], [2], [[0.25], [0.5]]) for run in runs)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["retina_r50x"], "retina_r50"),
        (["{tmp}"], "holds no detector"),
        (["fcos_r18w24.shapes"], "write --teacher"),
        (["fcos_r18w24.shapes", "--teacher", TEACHER], "--images"),
        (["fcos_r18w24.shapes", "--teacher", TEACHER, "--images", "{tmp}/none.png"], "none.png"),
        (["fcos_r18w24.shapes", "--curves"], "none of fcos_r18w24.shapes is the folder of a run"),
    ],
)
def test_what_is_wrong_is_one_line(main, words: list[str], expected: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(*(word.replace("{tmp}", str(tmp_path)) for word in words), "--output", tmp_path / "figures")
    message = str(stopped.value)
    assert message.startswith("error: ") and expected in message and "\n" not in message
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("option", ["--count", "--levels"])
def test_numbers_are_at_least_one(main, option: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main("fcos_r18w24.shapes", option, "0")
    assert f"argument {option}: 0: write a whole number of at least 1" in capsys.readouterr().err


def test_without_matplotlib(main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "pkdzoo.figures.draw", raising=False)
    monkeypatch.delattr("pkdzoo.figures.draw", raising=False)
    with pytest.raises(SystemExit, match=re.escape("figures need matplotlib: " + install_line("viz"))):
        main("fcos_r18w24.shapes")
