"""The matrix of experiments: budgets, cells that survive being killed, and the statistics by hand."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scripts import ROOT

from pkdzoo import Batch, create_detector, load_checkpoint
from pkdzoo.checkpoints import read_state_dict
from pkdzoo.evaluation import write_metrics
from pkdzoo.training.state import sha256
from recipes.experiments import cells as numbers
from recipes.experiments import claims, head_cost, intervals, maps, report, run, ship

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


# -- statistics ------------------------------------------------------------------------------------------------------


def test_the_quantiles_are_those_of_students_t() -> None:
    """0.95 of the area under the density lies between -t and t, for a t that rounds to the table's three digits."""
    for freedom in (1, 2, 4, 9, 29):
        t, areas = intervals.t_quantile(freedom), []
        for end in (t - 0.0005, t + 0.0005):
            x = torch.linspace(-end, end, 200_001, dtype=torch.float64)
            density = torch.distributions.StudentT(torch.tensor(float(freedom), dtype=torch.float64)).log_prob(x).exp()
            areas.append(float(torch.trapezoid(density, x)))
        assert areas[0] <= 0.95 <= areas[1]
    assert intervals.t_quantile(100) == intervals.t_quantile(30) > 1.96
    assert list(intervals.T_975) == sorted(intervals.T_975, reverse=True)
    with pytest.raises(ValueError, match="two numbers or more"):
        intervals.t_quantile(0)


def test_differences_are_paired_by_seed() -> None:
    """By hand: 1, 2, 3 have mean 2, deviation 1, and half the interval is 4.303 / sqrt(3)."""
    found = intervals.paired({0: 11.0, 1: 22.0, 2: 33.0, 7: 99.0}, {0: 10.0, 1: 20.0, 2: 30.0})
    assert (found.count, found.mean, found.deviation) == (3, 2.0, 1.0)
    assert found.half == pytest.approx(4.303 / math.sqrt(3)) and found.low < 0 < found.high
    assert intervals.verdict(found) == "undecided: the interval holds 0"
    five = intervals.summarise([1.0, 2.0, 3.0, 4.0, 5.0])  # deviation sqrt(2.5), 2.776 with 4 degrees of freedom
    assert (five.mean, five.low) == (3.0, pytest.approx(3 - 2.776 * math.sqrt(2.5 / 5)))
    assert intervals.verdict(five) == "seen" and intervals.interval(five) == "+3.0 [+1.0, +5.0]"
    assert intervals.verdict(intervals.paired({0: 1.0, 1: 2.0}, {0: 5.0, 1: 6.1})) == "the opposite was seen"
    one = intervals.summarise([4.0])
    assert (one.deviation, one.half, intervals.verdict(one)) == (None, None, "one seed: undecided")
    assert intervals.paired({0: 1.0}, {1: 1.0}) is None and intervals.verdict(None) == "not run"


SCHEDULE = {"epochs": 12}


def cell(arm: str, seed: int, ap: float, distill: Any = None, lr: float = 0.01, **changed: Any) -> dict[str, Any]:
    """What run.py writes of a student, as far as the page reads it."""
    recipe = {"model": "m", "model_args": {}, "init": None, "data": {}, "schedule": SCHEDULE, "distill": distill}
    curve = [{"epoch": epoch, "AP": ap * epoch / 12} for epoch in (3, 6, 9, 12)]
    return {
        "matrix": "bccd", "arm": arm, "seed": seed, "role": "student", "recipe": {**recipe, "optim": {"lr": lr}},
        "metrics": {"AP": ap, "AP50": ap + 20, "AP75": ap - 5}, "pearson": {"teacher": "t-0", "r": [0.5, 0.25]},
        "data": {"train": {"pictures": 205}, "val": {"pictures": 87}}, "budget": {"steps": 624, "pictures": 2460},
        "hardware": "1 core", "versions": {"torch": "2"}, "curve": curve, **changed,
    }  # fmt: skip


TAUGHT = {"teacher": "t", "methods": {"pkd": {}}}


def test_a_table_compares_with_the_plain_student_of_the_same_rate_and_budget() -> None:
    cells = [cell("plain", s, ap) for s, ap in enumerate((10.0, 12.0))]
    cells += [cell("plain_fast", s, ap, lr=0.02) for s, ap in enumerate((20.0, 21.0))]
    cells += [cell("pkd", s, ap, TAUGHT) for s, ap in enumerate((11.0, 14.0))]
    cells += [cell("pkd_fast", 0, 23.0, TAUGHT, lr=0.02)]
    long = cell("pkd_long", 0, 30.0, TAUGHT)
    long["recipe"]["schedule"] = {"epochs": 24}
    rows = {line.split("|")[1].strip(): line for line in report.table([*cells, long], "bccd").splitlines()[2:]}
    assert list(rows) == ["pkd_long", "pkd_fast", "plain_fast", "pkd", "plain"]
    assert "| 2 | 624 | 12.5 ± 2.1 |" in rows["pkd"] and "| +1.5 [-4.9, +7.9] |" in rows["pkd"]
    assert "+3.0 (one seed)" in rows["pkd_fast"] and rows["plain"].count("[") == 0
    assert rows["pkd_long"].count("+") == 0, "there is no plain student of its budget"
    assert rows["pkd"].endswith("| 0.50, 0.25 |")


def test_claims_are_judged_by_the_cells() -> None:
    cells = [cell("plain", s, ap) for s, ap in enumerate((10.0, 12.0))]
    cells += [cell("pkd", s, ap, TAUGHT) for s, ap in enumerate((11.0, 14.0))]
    cells += [cell("pkd_weight_3", s, ap, TAUGHT) for s, ap in enumerate((11.5, 14.5))]
    rows = claims.claim_rows(cells)
    who = "bccd: RetinaNet from GFL"
    assert f"| {who} | pkd 12.5 ± 2.1, plain 11.0 ± 1.4 | +1.5 [-4.9, +7.9], 2 seeds | undecided" in "".join(rows)
    early = next(row for row in rows if "converges" in row)
    assert "after 3 of 12 epochs | pkd 3.1 ± 0.5, plain 2.8 ± 0.4 | +0.4 [-1.2, +2.0], 2 seeds |" in early
    assert "| -0.5 [-0.5, -0.5], 2 seeds | within 0.5 AP of each other |" in "".join(rows)
    assert any(row.endswith("| deeppcb: RetinaNet from FCOS |  |  | not run |") for row in rows)
    with pytest.raises(ValueError, match=r"bccd/pkd was evaluated after epochs 3, 6, 9, 12, not 4"):
        numbers.by_seed(cells, "bccd", "pkd", numbers.at_epoch(4))


def test_by_how_much_more_pkd_beats_mse_where_magnitudes_differ() -> None:
    """By hand, of the seed that all four have: (30 - 20) - (28 - 27) = 9."""
    arms = {"pkd": 30.0, "mse": 20.0, "pkd_retina": 28.0, "mse_retina": 27.0}
    there: dict[str, Any] = {"matrix": "deeppcb", "curve": [{"epoch": 2, "AP": 5.0}, {"epoch": 4, "AP": 6.0}]}
    cells = [cell(arm, 0, ap, TAUGHT, **there) for arm, ap in arms.items()]
    cells += [cell(arm, 1, 50.0, TAUGHT, **there) for arm in ("pkd", "mse")]
    row = next(row for row in claims.claim_rows(cells) if row.startswith("| ... most"))
    assert row.endswith(
        "pkd 30.0, mse 20.0, pkd_retina 28.0, mse_retina 27.0 | +9.0 (one seed) | one seed: undecided |"
    )


def test_the_page_shows_curves_and_what_belongs_on_other_pages(tmp_path) -> None:
    folder = tmp_path / "results" / "bccd"
    folder.mkdir(parents=True)
    teacher = cell("t", 0, 40.0, role="teacher")
    found = [
        teacher,
        *(cell(arm, s, 10.0 + s, None if arm == "plain" else TAUGHT) for arm in report.COMPARED for s in (0, 1)),
    ]
    (tmp_path / "bccd.py").write_text('"""Blood cells.\n\nMore."""\nRECIPES = []\n')
    for each in found:
        (folder / f"{each['arm']}-{each['seed']}.json").write_text(json.dumps(each))
    text = report.write(tmp_path / "results").read_text()
    assert "| AP after epoch, mean of 2 seeds | 3 | 6 | 9 | 12 |" in text and "| pkd | 2.6 | 5.2 | 7.9 | 10.5 |" in text
    assert (tmp_path / "curves" / "bccd.png").stat().st_size < 60_000 and "(curves/bccd.png)" in text
    assert "## bccd\n\nBlood cells.\n\n[bccd.py](bccd.py): 205 pictures to train, 87 to judge" in text
    quoted = text.partition(report.BEGIN)[2].partition(report.END)[0].splitlines()
    assert quoted[2:4] == [
        "| bccd: teacher t (m) | 1 | 40.0 | 60.0 | 35.0 |  |",
        "| bccd: plain (m) | 2 | 10.5 ± 0.7 | 30.5 ± 0.7 | 5.5 ± 0.7 |  |",
    ]
    assert "| +0.0 [+0.0, +0.0] |" in quoted[-1]


def test_maps_are_measured_by_level(shapes, tmp_path) -> None:
    """Of 64 channels four are the strongest 5 %: three mean squares of 100 and one of 40 hold 340 of all 400."""
    found = maps.level_numbers(torch.tensor([1.0] * 30 + [100.0] * 3 + [40.0] + [1.0] * 30))
    assert found == {"rms": pytest.approx(2.5), "strongest": pytest.approx(0.85)}
    maps.main(["fcos_r18w24.shapes", "--data", str(shapes), "--name", "shapes", "--output", str(tmp_path / "maps")])
    (tmp_path / "results").mkdir()
    page = report.write(tmp_path / "results").read_text()
    assert "| shapes, 5 pictures | " in page and "| shapes | the strongest 5 % of channels hold " in page
    with pytest.raises(SystemExit, match=r"error: .*nothing_here"):
        maps.main(["fcos_r18w24.shapes", "--data", str(tmp_path / "nothing_here"), "--name", "x"])


@pytest.mark.slow
def test_the_head_that_does_not_run_is_timed(tmp_path) -> None:
    threads = torch.get_num_threads()
    (tmp_path / "results").mkdir()
    try:
        words = ["--only", "bccd_pkd", "--rounds", "2", "--threads", "1", "--output", str(tmp_path / "costs")]
        head_cost.main(words)
    finally:
        torch.set_num_threads(threads)
    found = json.loads((tmp_path / "costs" / "bccd_pkd.json").read_text())
    assert (found["student"], found["teacher"], found["pictures"]) == ("retina_r10w16", "gfl_r18w64", "4 x 192 x 256")
    assert found["about"]["threads"] == 1 and found["about"]["torch"] and found["about"]["machine"]
    for name in ("plain", "cut", "whole", "cut / plain", "whole / cut"):
        assert 0 < found[name]["low"] <= found[name]["median"] <= found[name]["high"]
    assert found["whole / cut"]["cpu"] > 0
    assert "| bccd: pkd | PKD's step takes " in report.write(tmp_path / "results").read_text()


def test_pairs_whose_head_is_timed() -> None:
    found = [head_cost.pair_of(name)[1].name for name in head_cost.PAIRS]
    assert found == ["bccd_gfl_r18w64", "deeppcb_fcos_r18", "deeppcb_faster_r18"]
    with pytest.raises(ValueError, match=r"bccd\.py has no bccd_plain with a teacher"):
        head_cost.pair_of("bccd_plain")


def test_the_page_is_generated_and_names_no_place() -> None:
    text = (FOLDER / "README.md").read_text()
    assert text == report.page(FOLDER / "results"), "python recipes/experiments/run.py --report writes it anew"
    assert all(claim.text in text for claim in claims.CLAIMS)
    for path in (FOLDER / "results").glob("*/*.json"):
        found = json.loads(path.read_text())
        assert path.stem == f"{found['arm']}-{found['seed']}" and path.parent.name == found["matrix"]
        assert '"/' not in path.read_text() and " /" not in found["command"]


def test_claims_name_cells_that_the_matrices_have() -> None:
    matrices = {name: run.load_matrix(FOLDER / f"{name}.py") for name in ("bccd", "deeppcb", "frozen", "foreign")}
    for check in (check for claim in claims.CLAIMS for check in claim.checks):
        students = [cell for cell in matrices[check.matrix].students if cell.seed == 0]
        arms = {cell.arm: cell.recipe for cell in students}
        assert {check.arm, check.than, *(check.over or ())} <= set(arms)
        if check.epoch is not None:
            watch = arms[check.arm].watch
            assert check.epoch % watch.evaluate == 0 and check.epoch < arms[check.arm].schedule.epochs


# -- cells -----------------------------------------------------------------------------------------------------------


def test_unequal_budgets_and_misspelt_names_are_refused(tmp_path) -> None:
    path = tmp_path / "tiny.py"
    path.write_text(MATRIX.replace('distill=Distill("', 'schedule=Schedule(3, (1,)), distill=Distill("'))
    with pytest.raises(ValueError, match=r"unequal budgets: schedule\.epochs: 2 -> 3"):
        run.load_matrix(path)
    longer = 'LONGER = replace(PLAIN, name="tiny_longer", schedule=PKD.schedule)\nRECIPES = [LONGER, '
    path.write_text(
        path.read_text().replace("RECIPES = [", longer).replace('(("tiny_plain"', '(("tiny_longer", "tiny_plain"')
    )
    assert {cell.arm for cell in run.load_matrix(path).students} == {"longer", "plain", "pkd"}
    path.write_text(MATRIX.replace('WAVES = ((("tiny_plain"', 'WAVES = ((("tiny_plian"'))
    with pytest.raises(ValueError, match="WAVES names tiny_plian, RECIPES has tiny_teacher, tiny_plain, tiny_pkd"):
        run.load_matrix(path)
    path.write_text(MATRIX.partition("WAVES")[0])
    with pytest.raises(ValueError, match="is no matrix: write WAVES"):
        run.load_matrix(path)
    path.write_text(MATRIX)
    with pytest.raises(ValueError, match="has no cell pkd-7; it has teacher-0, plain-0, pkd-0"):
        run.in_order(run.load_matrix(path), ["pkd-7"])


@pytest.mark.parametrize(
    ("name", "arms", "seeds"),
    [
        *((name, report.COMPARED, 5) for name in ("bccd", "deeppcb")),
        ("frozen", ("fcos_on_gfl", "retina_on_fcos"), 3),
        ("foreign", ("plain", "shapes", "boards"), 3),
    ],
)
def test_our_matrices_are_matrices(name, arms, seeds) -> None:
    matrix = run.load_matrix(FOLDER / f"{name}.py")
    cells = run.in_order(matrix, [])
    assert {cell.key for cell in cells} >= {f"{arm}-{seed}" for arm in arms for seed in range(seeds)}
    for k, each in enumerate(cells):
        teacher = run.compared_with(matrix, each)
        abroad = ["fcos_r18w24.shapes", "local-dir:runs/experiments/deeppcb/fcos_r18-0/best"]
        assert teacher in [None, *abroad, *(before.key for before in cells[:k])]
    assert all(cell.recipe.distill is None for cell in matrix.teachers.values())


def test_a_killed_matrix_goes_on_and_finished_cells_stay(shapes, tmp_path, monkeypatch) -> None:
    (tmp_path / "tiny.py").write_text(MATRIX)
    words = [sys.executable, FOLDER / "run.py", "tiny.py", "--data", shapes, "--results", "numbers"]
    command = [*map(str, words), "--", "--cpu", "--threads", "1"]
    around = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    runs = tmp_path / "runs" / "experiments" / "tiny"
    running = subprocess.Popen(command, cwd=tmp_path, env=around, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 300
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


@pytest.mark.slow
def test_a_head_learns_on_the_frozen_pyramid_of_another(shapes, tmp_path, train, monkeypatch) -> None:
    """Table 1 through the real scripts: what the head stands on is the other detector's to the last bit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "train_script", lambda: SimpleNamespace(main=lambda argv: train(*argv)))
    small = ["data.short=64", "data.long=96", "data.min_size=0", "schedule.epochs=1"]
    words = ["--data", str(shapes), "--results", "numbers", "--cells", "fcos_on_gfl-0", "retina_on_fcos-0", "--"]
    run.main([str(FOLDER / "frozen.py"), *words, *(word for each in small for word in ("--set", each))])
    for arm, body in (("fcos_on_gfl", "gfl"), ("retina_on_fcos", "fcos")):
        places = [tmp_path / "runs" / "experiments" / "frozen" / f"{name}-0" for name in (arm, body)]
        student, other = (create_detector(f"local-dir:{place}/best") for place in places)
        assert student.name == f"{arm.partition('_')[0]}_r10w16" and other.name == f"{body}_r10w16"
        for part in ("backbone", "neck"):
            ours, theirs = (model.get_submodule(part).state_dict() for model in (student, other))
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
        batch = Batch(torch.rand(1, 3, 64, 96) * 255, [(64, 96)])
        maps_of = (model.extract_features(batch).levels for model in (student, other))
        assert all(torch.equal(one, two) for one, two in zip(*maps_of, strict=True))
        found = json.loads((tmp_path / "numbers" / "frozen" / f"{arm}-0.json").read_text())
        assert found["role"] == "student" and found["pearson"] == {"teacher": f"{body}-0", "r": [1.0] * 4}


# -- shipping --------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(shapes, tmp_path) -> Path:
    """A detector as a run leaves it: with its weights in float32, and its numbers on the validation pictures."""
    model = create_detector("fcos_r18w24.shapes", pretrained=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 1e-5)  # no longer what float16 can hold
    model.save_pretrained(tmp_path / "last")
    write_metrics(tmp_path / "last" / "metrics.json", ship.measured(model, shapes))
    return tmp_path / "last"


def test_what_is_shipped_is_half_as_large_and_as_good(trained, shapes, tmp_path, capsys) -> None:
    words = [str(trained), "--data", str(shapes), "--output", str(tmp_path), "--name"]
    ship.main([*words, "fcos_r18w24.again"])
    path, told = tmp_path / "fcos_r18w24_again.safetensors", capsys.readouterr().out
    state = read_state_dict(path)
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert path.stat().st_size < 0.52 * (trained / "model.safetensors").stat().st_size
    noted = json.loads((trained / "metrics.json").read_text())
    assert noted["AP"] > 30 and f"'AP': {noted['AP']:.1f}" in told and f'sha256="{sha256(path)}"' in told
    model = load_checkpoint(create_detector("fcos_r18w24", label_names="shapes"), path)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    before = path.read_bytes()
    ship.main([*words, "fcos_r18w24.again"])
    assert path.read_bytes() == before


def test_what_is_not_as_good_is_not_shipped(trained, shapes, tmp_path) -> None:
    words = [str(trained), "--data", str(shapes), "--output", str(tmp_path / "weights"), "--name"]
    with pytest.raises(SystemExit, match=r"write ARCH\.TAG"):
        ship.main([*words, "fcos_r18w24"])
    noted = json.loads((trained / "metrics.json").read_text())
    write_metrics(trained / "metrics.json", {**noted, "AP": noted["AP"] + 0.2})
    with pytest.raises(SystemExit, match=r"in training, .* in float32, .* in float16: more than 0\.1 apart"):
        ship.main([*words, "fcos_r18w24.again"])
    assert not (tmp_path / "weights").exists()
    with pytest.raises(ValueError, match="large: values beyond float16"):
        ship.halved({"fine": torch.ones(2), "large": torch.tensor([1e5])})
