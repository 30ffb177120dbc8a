"""The page of the experiments: tables, claims and their verdicts."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.scripts import ROOT

from pkdzoo.training import intervals
from recipes.experiments import claims, every_seed, head_cost, maps, report
from recipes.experiments import result_files as numbers
from recipes.experiments.experiment_file import load_experiment

FOLDER = ROOT / "recipes" / "experiments"


SCHEDULE = {"epochs": 12}


def result(variant: str, seed: int, ap: float, distill: Any = None, lr: float = 0.01, **changed: Any) -> dict[str, Any]:
    """The part of a result file of run.py that the page reads."""
    recipe = {"model": "m", "model_args": {}, "init": None, "data": {}, "schedule": SCHEDULE, "distill": distill}
    curve = [{"epoch": epoch, "AP": ap * epoch / 12} for epoch in (3, 6, 9, 12)]
    return {
        "experiment": "bccd", "variant": variant, "seed": seed, "role": "student",
        "recipe": {**recipe, "optim": {"lr": lr}},
        "metrics": {"AP": ap, "AP50": ap + 20, "AP75": ap - 5}, "pearson": {"teacher": "t-0", "r": [0.5, 0.25]},
        "data": {"train": {"images": 205}, "val": {"images": 87}}, "budget": {"steps": 624, "images": 2460},
        "hardware": "1 core", "versions": {"torch": "2"}, "curve": curve,
        "command": f"train.py --set seed={seed} --cpu", "commits": ["0123456789+"], **changed,
    }  # fmt: skip


DISTILL = {"teacher": "t", "methods": {"pkd": {}}}


def test_a_table_compares_with_the_plain_student_of_the_same_rate_and_budget() -> None:
    runs = [result("plain", s, ap) for s, ap in enumerate((10.0, 12.0))]
    runs += [result("plain_fast", s, ap, lr=0.02) for s, ap in enumerate((20.0, 21.0))]
    runs += [result("pkd", s, ap, DISTILL) for s, ap in enumerate((11.0, 14.0))]
    runs += [result("pkd_fast", 0, 23.0, DISTILL, lr=0.02)]
    long = result("pkd_long", 0, 30.0, DISTILL)
    long["recipe"]["schedule"] = {"epochs": 24}
    rows = {line.split("|")[1].strip(): line for line in report.table([*runs, long], "bccd").splitlines()[2:]}
    assert list(rows) == ["pkd_long", "pkd_fast", "plain_fast", "pkd", "plain"]
    assert "| 2 | 624 |  | 12.5 ± 2.1 |" in rows["pkd"] and "| +1.5 [-4.9, +7.9] |" in rows["pkd"]
    assert "+3.0 (one seed)" in rows["pkd_fast"] and rows["plain"].count("[") == 0
    assert rows["pkd_long"].count("+") == 0, "there is no plain student of its budget"
    assert rows["pkd"].endswith("| 0.50, 0.25 |")
    other_rate, shorter = result("mse", 0, 11.0, DISTILL, lr=0.005), result("fgd", 0, 11.0, DISTILL)
    shorter["budget"] = {"steps": 52, "images": 205}  # by an option of the call, which is not in the recipe
    rows = {
        line.split("|")[1].strip(): line for line in report.table([*runs, other_rate, shorter], "bccd").splitlines()
    }
    assert "(one seed), with another learning rate |" in rows["mse"] and "+" not in rows["fgd"]


def test_a_table_shows_the_processor_time_of_the_runs_that_measured_it() -> None:
    runs = [result("plain", s, 10.0, cpu_hours=hours) for s, hours in enumerate((0.25, 0.75))]
    assert "| 2 | 624 | 0.50 |" in report.table(runs, "bccd")
    assert "| 3 | 624 | 0.50 |" in report.table([*runs, result("plain", 2, 10.0, cpu_hours=None)], "bccd")
    assert "| 1 | 624 |  |" in report.table([result("plain", 2, 10.0, cpu_hours=None)], "bccd")


def test_a_table_names_student_teacher_and_methods() -> None:
    home, abroad = (f"local-dir:runs/experiments/{name}-0/best" for name in ("bccd/fcos_r18", "deeppcb/retina"))
    frozen = {"teacher": home, "methods": {}, "inherit": ["backbone"], "freeze": ["backbone", "neck"]}
    for distill, text in (
        (None, "m on r18"),
        (
            {"teacher": home, "methods": {"pkd": {"weight": 3.0}, "crosskd": {}}},
            "m on r18 from fcos_r18: pkd weight 3.0 + crosskd",
        ),
        ({"teacher": abroad, "methods": {"pkd": {}}}, "m on r18 from deeppcb's retina: pkd"),
        ({"teacher": "local-dir:runs/experiments/uneven", "methods": {"mse": {}}}, "m on r18 from uneven: mse"),
        ({"teacher": "fcos_r18w24.shapes", "methods": {"mse": {}}}, "m on r18 from fcos_r18w24.shapes: mse"),
        (frozen, "m on r18, backbone and neck of fcos_r18, frozen"),
    ):
        each = result("variant", 0, 10.0, distill)
        each["recipe"]["model_args"] = {"backbone": "r18"}
        assert f"| variant | {text} | 1 |" in report.table([each], "bccd")


def test_a_page_names_everything_that_its_cells_were_trained_on() -> None:
    runs = [result("plain", 0, 10.0), result("plain", 1, 10.0, hardware="a GPU", command="train.py --set seed=1")]
    assert report.source(runs).endswith(
        "Trained on 1 core or a GPU, torch 2, options `--cpu` or none, commit 0123456+."
    )


def test_claims_are_tested_by_the_cells() -> None:
    runs = [result("plain", s, ap) for s, ap in enumerate((10.0, 12.0))]
    runs += [result("pkd", s, ap, DISTILL) for s, ap in enumerate((11.0, 14.0))]
    runs += [result("pkd_weight_3", s, ap, DISTILL) for s, ap in enumerate((11.5, 14.5))]
    rows = claims.claim_rows(runs)
    who = "bccd: RetinaNet from GFL"
    assert "not run" not in "".join(rows) and "Not run." in rows
    assert f"| {who} | pkd 12.5 ± 2.1, plain 11.0 ± 1.4 | +1.5 [-4.9, +7.9], 2 seeds | undecided" in "".join(rows)
    early = next(row for row in rows if "after 3 of" in row)
    assert "after 3 of 12 epochs | pkd 3.1 ± 0.5, plain 2.8 ± 0.4 | +0.4 [-1.2, +2.0], 2 seeds |" in early
    assert "| -0.5 [-0.5, -0.5], 2 seeds | they differ by 0.5 to 0.5 AP |" in "".join(rows)
    (harm,) = [claim for claim in claims.CLAIMS if claim.below]
    gained = [result("mse", s, ap, DISTILL) for s, ap in enumerate((11.0, 13.1))]
    found = claims.rows_of(harm, [*runs, *gained], [], [])[0]
    assert found[1:] == ("mse 12.1 ± 1.5, plain 11.0 ± 1.4", "+1.0 [+0.4, +1.7], 2 seeds", "contradicted")
    for found in runs:
        found["budget"] = {"steps": 624 if found["variant"] == "pkd" else 52, "images": 2460}
    unequal = next(row for row in claims.claim_rows(runs) if f"| {who} |" in row)
    assert unequal.endswith(f"| {who} |  |  | not comparable: unequal budgets |")
    with pytest.raises(ValueError, match=r"bccd/pkd was evaluated after epochs 3, 6, 9, 12, not 4"):
        numbers.by_seed(runs, "bccd", "pkd", numbers.at_epoch(4))


def test_equality_is_bounded_and_never_claimed_of_what_differs() -> None:
    def verdict(*values: float) -> str:
        return claims.verdict_of(intervals.summarize(values), equal=True)

    assert verdict(-1.0, 0.0, 1.0) == "no difference shown; it is at most 2.5 AP"  # half is 4.303 / sqrt(3)
    assert verdict(-9.0, -10.0, -11.0) == "they differ by 7.5 to 12.5 AP" and verdict(4.0) == "one seed: undecided"
    assert claims.verdict_of(intervals.summarize([9.0, 10.0, 11.0]), equal=False) == "seen"


def test_channels_dominate_where_they_hold_half() -> None:
    levels = [
        {"rms": rms, "strongest": share, "counted": 4, "channels": 64} for rms, share in ((3.0, 0.25), (1.0, 0.4))
    ]
    _, share, between, verdict = claims.maps_row({"name": "t", "levels": levels})
    assert (share, between) == (
        "the strongest 4 of 64 channels hold 25% to 40% of a level's energy",
        "the strongest level is 3.0 times the weakest",
    )
    assert verdict == "in part, no level reaches half: 4.0 to 6.4 times an equal share"
    levels[0]["strongest"] = 0.5
    assert claims.maps_row({"name": "t", "levels": levels})[3] == "seen: 6.4 to 8.0 times an equal share"


def test_by_how_much_more_pkd_beats_mse_where_magnitudes_differ() -> None:
    """By hand, for the seed that all four have: (20 - 30) - (27 - 28) = -9."""
    variants = {"pkd": 30.0, "mse": 20.0, "pkd_retina": 28.0, "mse_retina": 27.0}
    there: dict[str, Any] = {"experiment": "deeppcb", "curve": [{"epoch": 2, "AP": 5.0}, {"epoch": 4, "AP": 6.0}]}
    runs = [result(variant, 0, ap, DISTILL, **there) for variant, ap in variants.items()]
    runs += [result(variant, 1, 50.0, DISTILL, **there) for variant in ("pkd", "mse")]
    row = next(row for row in claims.claim_rows(runs) if "MSE minus PKD, less the same from RetinaNet" in row)
    assert row.endswith(
        "mse 20.0, pkd 30.0, mse_retina 27.0, pkd_retina 28.0 | -9.0 (one seed) | one seed: undecided |"
    )


def test_each_claim_has_one_row_at_the_top() -> None:
    runs = [
        result(variant, s, ap, None if variant == "plain" else DISTILL)
        for variant, ap in (("plain", 10.0), ("pkd", 12.0))
        for s in (0, 1)
    ]
    runs += [result("mse", 0, 11.5, DISTILL)]
    rows = dict(row.strip("| ").split(" | ") for row in claims.summary_rows(runs))
    assert len(rows) == len(claims.CLAIMS) <= 10
    assert rows["PKD beats MSE"] == "One seed: bccd: RetinaNet from GFL +0.5."
    assert rows[claims.CLAIMS[0].text] == "Seen: bccd: RetinaNet from GFL +2.0 [+2.0, +2.0], 2 seeds."
    assert rows["few levels and channels dominate a pyramid"] == "Not run."
    decided = claims.Claim("PKD helps", "", here="Yes: {0}. Open: {1}.", decided=(0,))
    found = [("a", "", "+1.0 [+0.5, +1.5], 3 seeds", "seen"), ("b", "", "+1.0 (one seed)", "one seed: undecided")]
    sentence = claims.sentence_of(decided, found, [], [])
    assert sentence == "Yes: +1.0 [+0.5, +1.5]. Open: +1.0 (one seed)."
    for wrong in ((), (0, 1), (1,)):
        with pytest.raises(ValueError, match="the sentence on 'PKD helps' does not fit"):
            claims.sentence_of(replace(decided, decided=wrong), found, [], [])
    mixed = [
        ("a", "", "+1.0 (one seed)", "one seed: undecided"),
        ("b", "", "+1.0 [+0.5, +1.5], 3 seeds", "seen"),
        ("c", "", "", "not run"),
    ]
    assert claims.summary_of(mixed) == "Seen: b +1.0 [+0.5, +1.5], 3 seeds. One seed: a +1.0."


def test_a_teacher_that_was_trained_again_is_another_teacher() -> None:
    again = {"run": "t-0", "AP": 38.94, "sha256": "0" * 64}
    runs = [
        result("t", 0, 40.0, role="teacher"),
        result("pkd", 0, 12.0, DISTILL),
        result("pkd", 1, 12.0, DISTILL, teacher={**again, "AP": 40.0}),
        result("mse", 0, 11.0, DISTILL, teacher=again),
        result("mse", 1, 11.0, DISTILL, teacher=again),
        result("plain", 0, 10.0, teacher=None),
    ]
    assert report.trained_again(runs) == [
        "The teacher t was trained again, with 38.9 AP in place of 40.0, for the students mse-0, mse-1. The other "
        "students learned from the one in the table.\n"
    ]
    assert report.trained_again(runs[:3]) == []


def test_every_seed_has_its_numbers(tmp_path) -> None:
    folder = tmp_path / "bccd"
    folder.mkdir()
    classes = {"per_class": {"red": 30.04}}
    for each in (
        result("w24", 0, 40.0, role="teacher", cpu_hours=None),
        result("plain", 1, 12.0, cpu_hours=0.5),
        result("plain", 0, 11.0, cpu_hours=None),
        result("fgd", 0, 24.0, DISTILL, cpu_hours=0.25),
    ):
        each["metrics"] |= classes
        (folder / f"{each['variant']}-{each['seed']}.json").write_text(json.dumps(each))
    assert every_seed.table("bccd", tmp_path).splitlines() == [
        "| student | AP | AP50 | red | after 3 epochs | after 6 epochs | after 9 epochs | hours |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        "| teacher | 40.0 | 60.0 | 30.0 | 10.0 | 20.0 | 30.0 |  |",
        "| plain, seeds 0, 1 | 11.0, 12.0 | 31.0, 32.0 | 30.0, 30.0 | 2.8, 3.0 | 5.5, 6.0 | 8.2, 9.0 | 0.50 |",
        "| with FGD, seed 0 | 24.0 | 44.0 | 30.0 | 6.0 | 12.0 | 18.0 | 0.25 |",
    ]
    variants = set()
    for name in ("rtmdet_bccd", "rtmdet_deeppcb", "gfl_bccd", "gfl_bccd_120", "gfl_deeppcb"):
        experiment = load_experiment(FOLDER / f"{name}.py")
        variants |= {run.variant for run in [*experiment.students, *experiment.teachers.values()]}
    assert set(every_seed.ROWS) == variants


def test_the_page_shows_curves_and_what_belongs_on_other_pages(tmp_path) -> None:
    folder = tmp_path / "results" / "bccd"
    folder.mkdir(parents=True)
    teacher = result("t", 0, 40.0, role="teacher")
    found = [
        teacher,
        *(
            result(variant, s, 10.0 + s, None if variant == "plain" else DISTILL)
            for variant in report.COMPARED
            for s in (0, 1)
        ),
    ]
    (tmp_path / "bccd.py").write_text('"""Blood cells.\n\nMore."""\nRECIPES = []\n')
    for each in found:
        (folder / f"{each['variant']}-{each['seed']}.json").write_text(json.dumps(each))
    text = report.write(tmp_path / "results").read_text()
    assert "| AP after epoch, mean of 2 seeds | 3 | 6 | 9 | 12 |" in text and "| pkd | 2.6 | 5.2 | 7.9 | 10.5 |" in text
    assert (tmp_path / "curves" / "bccd.png").stat().st_size < 60_000 and "(curves/bccd.png)" in text
    assert (
        "## bccd\n\nBlood cells.\n\n[bccd.py](bccd.py): 205 images for training, 87 for validation. "
        "A student takes 2,460 images." in text
    )
    quoted = text.partition(report.BEGIN)[2].partition(report.END)[0].splitlines()
    assert quoted[2:4] == [
        "| bccd: teacher t (m) | 1 | 40.0 | 60.0 | 35.0 |  |",
        "| bccd: plain (m) | 2 | 10.5 ± 0.7 | 30.5 ± 0.7 | 5.5 ± 0.7 |  |",
    ]
    assert "| +0.0 [+0.0, +0.0] |" in quoted[-1]


def test_a_longer_variant_with_more_seeds_has_a_curve_of_its_own() -> None:
    """The one beside variants of a single seed is that seed's, so that both curves compare."""
    runs = [result(name, s, 10.0 + s) for name in ("plain", "pkd") for s in (0, 1)]
    longer = [result("plain_twice", 0, 20.0), result("plain_twice", 1, 22.0), result("pkd_twice", 0, 24.0)]
    for run in longer:
        run["budget"] = run["budget"] | {"images": 2 * run["budget"]["images"]}
    groups = [
        ({name: points[12] for name, points in found.items()}, seeds)
        for found, seeds in report.curves([*runs, *longer], "bccd")
    ]
    alone, beside = ({"plain_twice": 21.0}, 2), ({"plain_twice": 20.0, "pkd_twice": 24.0}, 1)
    assert groups == [({"plain": 10.5, "pkd": 10.5}, 2), alone, beside]


def test_maps_are_measured_by_level(shapes, tmp_path) -> None:
    """Of 64 channels four are the strongest 5 %: three mean squares of 100 and one of 40 hold 340 of all 400."""
    found = maps.level_numbers(torch.tensor([1.0] * 30 + [100.0] * 3 + [40.0] + [1.0] * 30))
    assert found == {"rms": pytest.approx(2.5), "strongest": pytest.approx(0.85), "counted": 4, "channels": 64}
    maps.main(["fcos_r18w24.shapes", "--data", str(shapes), "--name", "shapes", "--output", str(tmp_path / "maps")])
    (tmp_path / "results").mkdir()
    page = report.write(tmp_path / "results").read_text()
    assert "| shapes, 5 images | " in page and "| shapes | the strongest 4 of 64 channels hold " in page
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
    assert (found["student"], found["teacher"], found["images"]) == ("retina_r10w16", "gfl_r18w64", "4 x 192 x 256")
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


def test_the_page_is_generated_and_names_no_local_path() -> None:
    text = (FOLDER / "README.md").read_text()
    assert text == report.page(FOLDER / "results"), "python recipes/experiments/run.py --report writes it anew"
    assert all(
        claim.text in text and claim.text[1:] in text.partition("behind the claims")[2] for claim in claims.CLAIMS
    )
    for path in (FOLDER / "results").glob("*/*.json"):
        found = json.loads(path.read_text())
        assert path.stem == f"{found['variant']}-{found['seed']}" and path.parent.name == found["experiment"]
        assert '"/' not in path.read_text() and " /" not in found["command"]


def test_results_name_commits_that_can_be_checked_out() -> None:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    if not (ROOT / ".git").exists() or git("rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("the history is not here")
    history, seen = set(git("rev-list", "HEAD").split()), set()
    for path in (FOLDER / "results").glob("*/*.json"):
        seen |= {commit.rstrip("+") for commit in json.loads(path.read_text())["commits"]}
    assert seen and seen <= history


def test_claims_name_runs_that_the_experiments_have() -> None:
    experiments = {
        name: load_experiment(FOLDER / f"{name}.py")
        for name in (
            "bccd",
            "deeppcb",
            "frozen_pyramids",
            "gfl_bccd",
            "gfl_bccd_120",
            "gfl_deeppcb",
            "magnitudes",
            "rtmdet_bccd",
            "rtmdet_deeppcb",
            "unrelated_teachers",
        )
    }
    for check in (check for claim in claims.CLAIMS for check in claim.checks):
        students = [run for run in experiments[check.experiment].students if run.seed == 0]
        variants = {run.variant: run.recipe for run in students}
        assert {check.variant, check.than, *(check.over or ())} <= set(variants)
        if check.epoch is not None:
            logging = variants[check.variant].logging
            assert check.epoch % logging.eval_every == 0 and check.epoch < variants[check.variant].schedule.epochs
