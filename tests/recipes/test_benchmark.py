"""The benchmark's own numbers are no test; that it runs, and that what it compares computes the same, is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from scripts import script

from recipes.benchmarks import ROWS, load
from recipes.benchmarks.measure import Row, Settings, in_turns
from recipes.benchmarks.table import RESULTS, growth_line, line, markdown

SLOW = ("step", "predict")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in ROWS])
def test_a_row_runs_and_both_sides_compute_the_same(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "results" / "quick.json"
    status = script("benchmark").main(["--rows", name, "--quick", "--no-compile", "--output", str(output)])
    found = json.loads(output.read_text())
    assert status == 0, capsys.readouterr().err
    assert found["about"]["torch"] and found["about"]["machine"] and found["quick"]
    measured = [row for row in found["rows"] if row["ratio"] is not None]
    assert measured or found["curves"]
    assert all(row["ratio"] > 0 and row["target"] in range(1, 8) for row in measured)
    assert all(row["note"].startswith("unmeasured: ") for row in found["rows"] if row["ratio"] is None)
    assert markdown(found) in capsys.readouterr().out


def test_a_difference_fails_the_run() -> None:
    assert not Row(1, "a", "b", differences={"value": 2e-5, "gradients": 0.0}).equal
    assert Row(1, "a", "b", differences={"value": 2e-6}).equal
    wider = {"gradients": 1e-3}
    assert Row(1, "a", "b", differences={"value": 2e-6, "gradients": 2e-4}, wider=wider).equal
    assert not Row(1, "a", "b", differences={"value": 2e-4, "gradients": 2e-4}, wider=wider).equal


def test_pictures_of_a_folder_are_compared_too(tmp_path: Path) -> None:
    load.jpegs(tmp_path, 2)
    Image.new("RGB", (640, 480)).save(tmp_path / "2.jpg")  # 1067 columns here, 1066 in torchvision: left out
    (row,) = load.rows(Settings(quick=True, pictures=tmp_path))
    assert row.equal
    assert set(row.differences) == {"pixels", "boxes"}
    assert 0 < row.differences["pixels"] < 2 / 255
    for number in range(2):
        (tmp_path / f"{number}.jpg").unlink()
    with pytest.raises(ValueError, match="nothing to compare"):
        list(load.rows(Settings(quick=True, pictures=tmp_path)))


def test_things_take_turns() -> None:
    order: list[str] = []
    runs = {"ours": lambda: order.append("ours"), "theirs": lambda: order.append("theirs")}
    times = in_turns(runs, Settings(), rounds=2, warmup=0)
    assert order == ["ours", "theirs", "theirs", "ours"]
    assert [len(t.wall) for t in times.values()] == [2, 2]


def test_a_missed_target_is_said() -> None:
    met, missed = (Row(1, "a", "b", ratio, 0.9 * ratio, 1.1 * ratio, want=2.0).to_dict() for ratio in (2.5, 1.5))
    assert "**2.50 (2.25-2.75)**" in line(met)
    assert "1.50 (1.35-1.65), missed" in line(missed)
    curve = {"name": "boxes", "x": [1.0, 500.0], "growth of time": 1.05, "growth of memory": 1.3}
    assert growth_line(curve) == "| boxes | 1 | 500 | 1.05 | 1.30, missed |"


def test_recorded_runs_are_whole() -> None:
    for path in RESULTS.glob("*.json"):
        found = json.loads(path.read_text())
        assert not found["quick"], f"{path.name}: a quick run measures nothing"
        assert all(row["equal"] for row in found["rows"]), path.name
        assert {"torch", "machine", "python", "device"} <= set(found["about"])
