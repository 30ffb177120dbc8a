"""Cards of runs show the report's plots, and validation images only where they may be published."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from helpers.commands import run
from helpers.run_folders import write_comparison
from PIL import Image

from pkdzoo.data import make_shapes
from pkdzoo.hub.upload import PLOTS
from pkdzoo.training.publish import prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own")
    data = make_shapes(root / "photos", train=1, val=4, size=(64, 96))
    folder = root / "runs" / "mine"
    write_comparison(folder, data)
    for name in ("plain", "distilled"):
        command = "/opt/bin/pkdzoo distill --data photos --student retina_r10w16"
        (folder / name / "run.json").write_text(json.dumps({"command": command, "teacher": {"teacher": "big"}}))
    Image.new("RGB", (8, 8)).save(folder / "predictions.png")
    return folder


def published(folder: Path, target: Path, **options: object) -> tuple[list[str], str]:
    licenses = {"license": "Apache-2.0", "teacher_license": "Apache-2.0", "data": "photos", "data_license": "CC-BY-4.0"}
    prepare(str(folder / "distilled"), target, **licenses, **options)  # type: ignore[arg-type]
    return sorted(path.name for path in target.iterdir()), (target / "README.md").read_text()


def test_plots_are_files_of_their_own(folder: Path, tmp_path: Path) -> None:
    files, card = published(folder, tmp_path / "a")
    assert set(PLOTS) <= set(files) and "predictions.png" not in files
    for name in PLOTS:
        drawing = ElementTree.parse(tmp_path / "a" / name).getroot()
        assert drawing.tag.endswith("svg") and "distilled" in (tmp_path / "a" / name).read_text()
        assert f"]({name})" in card
    assert "AP on the validation images by epoch (blue: distilled" in card


@pytest.mark.parametrize("same", [True, False])
def test_the_orange_curve_is_that_of_the_plain_student(folder: Path, tmp_path: Path, same: bool) -> None:
    """Not that of any run without a teacher: here of another schedule."""
    copy = Path(shutil.copytree(folder, tmp_path / "mine"))
    if not same:
        recipe = json.loads((copy / "plain" / "recipe.json").read_text())
        (copy / "plain" / "recipe.json").write_text(json.dumps({**recipe, "schedule": {"epochs": 3}}))
    published(copy, tmp_path / "a")
    for name in PLOTS:
        drawing = (tmp_path / "a" / name).read_text()
        assert (' plain"' in drawing) == same and ' distilled"' in drawing


def test_images_are_shown_where_that_is_allowed(capsys, folder: Path, tmp_path: Path) -> None:
    files, card = published(folder, tmp_path / "a", images_allowed=True)
    assert "predictions.png" in files and "![Predictions](predictions.png)" in card
    words = ("--license", "Apache-2.0", "--teacher-license", "MIT", "--data", "photos", "--data-license", "MIT")
    words = ("push", folder / "distilled", "--repo", "me/x", "--dry-run", tmp_path / "b", *words, "--images-allowed")
    code, _, err = run(capsys, *words)
    assert code == 0, err
    assert (tmp_path / "b" / "predictions.png").is_file()


def test_a_curve_of_other_weights_is_left_out(folder: Path, tmp_path: Path) -> None:
    """The detections are those of the last epoch, and the card is about the best one."""
    copy = Path(shutil.copytree(folder, tmp_path / "mine"))
    for place, step in ((copy / "distilled", 20), (copy / "distilled" / "best", 10)):
        metrics = json.loads((place / "metrics.json").read_text())
        (place / "metrics.json").write_text(json.dumps({**metrics, "step": step}))
    files, card = published(copy, tmp_path / "a")
    assert PLOTS[0] in files and PLOTS[1] not in files and PLOTS[1] not in card


def test_the_launch_line_is_that_of_the_command_line(folder: Path, tmp_path: Path) -> None:
    _, card = published(folder, tmp_path / "a")
    assert "\npkdzoo distill --data photos --student retina_r10w16\n" in card
