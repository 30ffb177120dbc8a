"""The matrix of experiments: budgets, cells that survive being killed, and the statistics by hand."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from scripts import ROOT

FOLDER = ROOT / "recipes" / "experiments"
MATRIX = """
from dataclasses import replace
from pkdzoo.training import Data, Distill, Optim, Recipe, Schedule, Warmup, Watch

TEACHER = Recipe(
    "tiny_teacher", "fcos_r10w16",
    data=Data(short=64, long=96, batch=4, test_batch=5, workers=0, min_size=0),
    optim=Optim(lr=0.01, batch=4, clip=10.0), schedule=Schedule(epochs=1, milestones=(), warmup=Warmup(steps=3)),
)
PLAIN = replace(TEACHER, name="tiny_plain", model="retina_r10w16", schedule=Schedule(2, (1,)), watch=Watch(save=1))
PKD = replace(PLAIN, name="tiny_pkd", distill=Distill("local-dir:runs/experiments/tiny/teacher-0/best", {"pkd": {}}))
RECIPES = [TEACHER, PLAIN, PKD]
WAVES = ((("tiny_plain", "tiny_pkd"), 1),)
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """recipes/experiments/run.py as a module."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return module("run")


@pytest.fixture
def report() -> ModuleType:
    return module("report")


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"experiments_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


# -- statistics ------------------------------------------------------------------------------------------------------


def test_the_quantiles_are_those_of_students_t(report) -> None:
    """0.95 of the area under the density lies between -t and t, for a t that rounds to the table's three digits."""
    for freedom in (1, 2, 4, 9, 29):
        t, areas = report.t_quantile(freedom), []
        for end in (t - 0.0005, t + 0.0005):
            x = torch.linspace(-end, end, 200_001, dtype=torch.float64)
            density = torch.distributions.StudentT(torch.tensor(float(freedom), dtype=torch.float64)).log_prob(x).exp()
            areas.append(float(torch.trapezoid(density, x)))
        assert areas[0] <= 0.95 <= areas[1]
    assert report.t_quantile(100) == report.t_quantile(30) > 1.96
    assert list(report.T_975) == sorted(report.T_975, reverse=True)
    with pytest.raises(ValueError, match="two numbers or more"):
        report.t_quantile(0)


def test_differences_are_paired_by_seed(report) -> None:
    """By hand: 1, 2, 3 have mean 2, deviation 1, and half the interval is 4.303 / sqrt(3)."""
    found = report.paired({0: 11.0, 1: 22.0, 2: 33.0, 7: 99.0}, {0: 10.0, 1: 20.0, 2: 30.0})
    assert (found.count, found.mean, found.deviation) == (3, 2.0, 1.0)
    assert found.half == pytest.approx(4.303 / math.sqrt(3)) and found.low < 0 < found.high
    assert report.verdict(found) == "undecided: the interval holds 0"
    five = report.summarise([1.0, 2.0, 3.0, 4.0, 5.0])  # deviation sqrt(2.5), 2.776 with 4 degrees of freedom
    assert (five.mean, five.low) == (3.0, pytest.approx(3 - 2.776 * math.sqrt(2.5 / 5)))
    assert report.verdict(five) == "seen" and report.interval(five) == "+3.0 [+1.0, +5.0]"
    assert report.verdict(report.paired({0: 1.0, 1: 2.0}, {0: 5.0, 1: 6.1})) == "the opposite was seen"
    one = report.summarise([4.0])
    assert (one.deviation, one.half, report.verdict(one)) == (None, None, "one seed: undecided")
    assert report.paired({0: 1.0}, {1: 1.0}) is None and report.verdict(None) == "not run"


def cell(arm: str, seed: int, ap: float, distill: Any = None, lr: float = 0.01) -> dict[str, Any]:
    recipe = {"model": "m", "model_args": {}, "init": None, "optim": {"lr": lr}, "distill": distill}
    curve = [{"epoch": 2, "AP": ap / 2}, {"epoch": 4, "AP": ap}]
    return {
        "matrix": "bccd", "arm": arm, "seed": seed, "role": "student", "recipe": recipe, "curve": curve,
        "metrics": {"AP": ap, "AP50": ap + 20, "AP75": ap - 5}, "pearson": {"teacher": "t", "r": [0.5, 0.25]},
    }  # fmt: skip


def test_a_table_compares_with_the_plain_student_of_the_same_rate(report) -> None:
    taught = {"teacher": "t", "methods": {"pkd": {}}}
    cells = [cell("plain", s, ap) for s, ap in enumerate((10.0, 12.0))]
    cells += [cell("plain_fast", s, ap, lr=0.02) for s, ap in enumerate((20.0, 21.0))]
    cells += [cell("pkd", s, ap, taught) for s, ap in enumerate((11.0, 14.0))]
    cells += [cell("pkd_fast", 0, 23.0, taught, lr=0.02)]
    rows = {line.split("|")[1].strip(): line for line in report.table(cells, "bccd").splitlines()[2:]}
    assert list(rows) == ["pkd_fast", "plain_fast", "pkd", "plain"]
    assert "| 2 | 12.5 ± 2.1 |" in rows["pkd"] and "| +1.5 [-4.9, +7.9] |" in rows["pkd"]
    assert "+3.0 (one seed)" in rows["pkd_fast"] and rows["plain"].count("[") == 0
    assert rows["pkd"].endswith("| 0.50, 0.25 |")
    claims = report.claim_rows(cells)
    assert any("bccd: pkd - plain" in row and "+1.5 [-4.9, +7.9], 2 seeds | undecided" in row for row in claims)
    assert any("converges" in row and "+0.8 [-2.4, +3.9], 2 seeds" in row for row in claims)
    assert any(row.endswith("| deeppcb: pkd - mse |  | not run |") for row in claims)


def test_maps_are_measured_by_level(monkeypatch, shapes, tmp_path, report) -> None:
    """Of 64 channels four are the strongest 5 %: three mean squares of 100 and one of 40 hold 340 of all 400."""
    monkeypatch.syspath_prepend(str(FOLDER))
    maps = module("maps")
    found = maps.level_numbers(torch.tensor([1.0] * 30 + [100.0] * 3 + [40.0] + [1.0] * 30))
    assert found == {"rms": pytest.approx(2.5), "strongest": pytest.approx(0.85)}
    maps.main(["fcos_r18w24.shapes", "--data", str(shapes), "--name", "shapes", "--output", str(tmp_path / "maps")])
    (tmp_path / "results").mkdir()
    page = report.write(tmp_path / "results").read_text()
    assert "| shapes, 5 pictures | " in page and "| the table of maps | | numbers only, see there |" in page
    with pytest.raises(SystemExit, match=r"error: .*nothing_here"):
        maps.main(["fcos_r18w24.shapes", "--data", str(tmp_path / "nothing_here"), "--name", "x"])


def test_the_page_is_generated_and_names_no_place(report) -> None:
    text = (FOLDER / "README.md").read_text()
    assert text == report.page(FOLDER / "results"), "python recipes/experiments/run.py --report writes it anew"
    assert all(claim.text in text for claim in report.CLAIMS)
    for path in (FOLDER / "results").glob("*/*.json"):
        numbers = json.loads(path.read_text())
        assert path.stem == f"{numbers['arm']}-{numbers['seed']}" and path.parent.name == numbers["matrix"]
        assert '"/' not in path.read_text() and " /" not in numbers["command"]


# -- cells -----------------------------------------------------------------------------------------------------------


def test_unequal_budgets_and_misspelt_names_are_refused(run, tmp_path) -> None:
    path = tmp_path / "tiny.py"
    path.write_text(MATRIX.replace('distill=Distill("', 'schedule=Schedule(3, (1,)), distill=Distill("'))
    with pytest.raises(ValueError, match=r"unequal budgets: schedule\.epochs: 2 -> 3"):
        run.load_matrix(path)
    path.write_text(MATRIX.replace('WAVES = ((("tiny_plain"', 'WAVES = ((("tiny_plian"'))
    with pytest.raises(ValueError, match="WAVES names tiny_plian, RECIPES has tiny_teacher, tiny_plain, tiny_pkd"):
        run.load_matrix(path)
    path.write_text(MATRIX.partition("WAVES")[0])
    with pytest.raises(ValueError, match="is no matrix: write WAVES"):
        run.load_matrix(path)
    path.write_text(MATRIX)
    with pytest.raises(ValueError, match="has no cell pkd-7; it has teacher-0, plain-0, pkd-0"):
        run.in_order(run.load_matrix(path), ["pkd-7"])


@pytest.mark.parametrize("name", ["bccd", "deeppcb"])
def test_our_matrices_are_matrices(run, name) -> None:
    matrix = run.load_matrix(FOLDER / f"{name}.py")
    cells = run.in_order(matrix, [])
    assert {cell.key for cell in cells} >= {f"{arm}-{seed}" for arm in ("plain", "pkd", "mse") for seed in range(5)}
    for k, each in enumerate(cells):
        teacher = run.compared_with(matrix, each)
        assert teacher in [None, "fcos_r18w24.shapes", *(before.key for before in cells[:k])]
    assert all(cell.recipe.distill is None for cell in matrix.teachers.values())


def test_a_killed_matrix_goes_on_and_finished_cells_stay(run, shapes, tmp_path, monkeypatch) -> None:
    (tmp_path / "tiny.py").write_text(MATRIX)
    words = [sys.executable, FOLDER / "run.py", "tiny.py", "--data", shapes, "--results", "numbers"]
    command = [*map(str, words), "--", "--cpu", "--threads", "1"]
    around = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    runs = tmp_path / "runs" / "experiments" / "tiny"
    running = subprocess.Popen(command, cwd=tmp_path, env=around, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 120
    while not list(runs.glob("pkd-0/checkpoints/step_*/manifest.json")) and time.monotonic() < limit:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    numbers = tmp_path / "numbers" / "tiny"
    assert sorted(path.name for path in numbers.iterdir()) == ["plain-0.json", "teacher-0.json"]
    finished = {path: path.stat().st_mtime_ns for path in numbers.iterdir()}

    done = subprocess.run(command, cwd=tmp_path, env=around, capture_output=True, text=True, check=True, timeout=300)
    assert "resumed from" in done.stdout and "== pkd-0 is there, 3 of 3" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    found = json.loads((numbers / "pkd-0.json").read_text())
    assert found["budget"] == {"steps": 8, "pictures": 26} and [p["epoch"] for p in found["curve"]] == [1, 2]
    assert found["pearson"]["teacher"] == "teacher-0" and len(found["pearson"]["r"]) == 4
    plain = json.loads((numbers / "plain-0.json").read_text())
    assert plain["pearson"]["teacher"] == "teacher-0" and plain["pearson"]["r"] != found["pearson"]["r"]
    assert found["metrics"]["AP"] == found["curve"][-1]["AP"] and len(found["data"]["val"]["annotations_sha256"]) == 64
    assert found["commits"] and found["command"].endswith(
        "recipes/experiments/tiny.py --only tiny_pkd --set seed=0 --cpu --threads 1"
    )
    assert not [word for word in (str(tmp_path), str(ROOT), str(Path.home()) + "/") if word in json.dumps(found)]
    assert "| pkd | 1 |" in done.stdout and "(one seed)" in done.stdout

    (tmp_path / "tiny.py").write_text(MATRIX.replace('{"pkd": {}}', '{"pkd": {"weight": 3.0}}'))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"pkd-0\.json holds another recipe"):
        run.main(["tiny.py", "--data", str(shapes), "--results", "numbers"])
