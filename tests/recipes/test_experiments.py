"""The experiment of experiments: budgets, runs that survive being killed, heads on frozen pyramids, shipping."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.scripts import ROOT

from pkdzoo import Batch, create_detector, load_checkpoint
from pkdzoo.checkpoints import read_state_dict
from pkdzoo.data import make_shapes
from pkdzoo.evaluation import write_metrics
from pkdzoo.training import Recipe
from pkdzoo.utils.files import sha256_of_file
from recipes.experiments import package_weights
from recipes.experiments import run as runner
from recipes.experiments.experiment_file import compared_with, in_order, load_experiment

FOLDER = ROOT / "recipes" / "experiments"
EXPERIMENT = """
from dataclasses import replace
from pkdzoo.training import Data, Distill, Optim, Recipe, Schedule, Warmup, Logging

TEACHER = Recipe(
    "tiny_teacher", "fcos_r10w16",
    data=Data(short=64, long=96, batch_size=4, eval_batch_size=5, workers=0, min_image_size=0),
    optim=Optim(lr=0.01, base_batch_size=4, clip=10.0),
    schedule=Schedule(epochs=1, milestones=(), warmup=Warmup(steps=3)),
)
PLAIN = replace(TEACHER, name="tiny_plain", model="retina_r10w16", schedule=Schedule(2, (1,)),
                logging=Logging(save_every=1))
PKD = replace(PLAIN, name="tiny_pkd", distill=Distill("local-dir:runs/experiments/tiny/teacher-0/best", {"pkd": {}}))
RECIPES = [TEACHER, PLAIN, PKD]
RUNS = ((("tiny_plain", "tiny_pkd"), 1),)
"""


# -- runs -----------------------------------------------------------------------------------------------------------


def test_unequal_budgets_and_misspelled_names_are_refused(tmp_path) -> None:
    path = tmp_path / "tiny.py"
    path.write_text(EXPERIMENT.replace('distill=Distill("', 'schedule=Schedule(3, (1,)), distill=Distill("'))
    with pytest.raises(ValueError, match=r"unequal budgets: schedule\.epochs: 2 -> 3"):
        load_experiment(path)
    longer = 'LONGER = replace(PLAIN, name="tiny_longer", schedule=PKD.schedule)\nRECIPES = [LONGER, '
    path.write_text(
        path.read_text().replace("RECIPES = [", longer).replace('(("tiny_plain"', '(("tiny_longer", "tiny_plain"')
    )
    assert {run.variant for run in load_experiment(path).students} == {"longer", "plain", "pkd"}
    path.write_text(EXPERIMENT.replace('RUNS = ((("tiny_plain"', 'RUNS = ((("tiny_plian"'))
    with pytest.raises(ValueError, match="RUNS names tiny_plian, RECIPES has tiny_teacher, tiny_plain, tiny_pkd"):
        load_experiment(path)
    path.write_text(EXPERIMENT.partition("RUNS")[0])
    with pytest.raises(ValueError, match="is not an experiment: write RUNS"):
        load_experiment(path)
    path.write_text(EXPERIMENT)
    with pytest.raises(ValueError, match="has no run pkd-7; it has teacher-0, plain-0, pkd-0"):
        in_order(load_experiment(path), ["pkd-7"])


@pytest.mark.parametrize(
    ("name", "variants", "seeds"),
    [
        *((name, ("plain", "mse", "pkd"), 5) for name in ("bccd", "deeppcb")),
        ("frozen_pyramids", ("fcos_on_gfl", "retina_on_fcos"), 3),
        ("unrelated_teachers", ("plain", "shapes", "boards"), 3),
    ],
)
def test_our_experiments_can_be_read(name, variants, seeds) -> None:
    experiment = load_experiment(FOLDER / f"{name}.py")
    runs = in_order(experiment, [])
    assert {run.key for run in runs} >= {f"{variant}-{seed}" for variant in variants for seed in range(seeds)}
    for k, each in enumerate(runs):
        teacher = compared_with(experiment, each)
        abroad = ["fcos_r18w24.shapes", "local-dir:runs/experiments/deeppcb/fcos_r18-0/best"]
        assert teacher in [None, *abroad, *(before.key for before in runs[:k])]
    assert all(run.recipe.distill is None for run in experiment.teachers.values())


def test_every_recorded_result_is_that_of_its_recipe() -> None:
    """Files are older than some fields of a recipe, whose values are those that fields had before."""
    for folder in sorted((FOLDER / "results").iterdir()):
        experiment = load_experiment(FOLDER / f"{folder.name}.py")
        known = {run.key: run for run in [*experiment.teachers.values(), *experiment.students]}
        for path in sorted(folder.glob("*.json")):
            saved = Recipe.from_dict(json.loads(path.read_text())["recipe"])
            assert saved.to_dict() == known[path.stem].recipe.to_dict(), path


@pytest.mark.slow
def test_a_killed_experiment_goes_on_and_finished_runs_stay(shapes, tmp_path, monkeypatch) -> None:
    (tmp_path / "tiny.py").write_text(EXPERIMENT)
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
    assert "resumed from" in done.stdout and "== pkd-0 is finished, 3 of 3" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    found = json.loads((numbers / "pkd-0.json").read_text())
    assert found["budget"] == {"steps": 8, "images": 26} and [p["epoch"] for p in found["curve"]] == [1, 2]
    assert found["pearson"]["teacher"] == "teacher-0" and len(found["pearson"]["r"]) == 4
    plain = json.loads((numbers / "plain-0.json").read_text())
    assert plain["pearson"]["teacher"] == "teacher-0" and plain["pearson"]["r"] != found["pearson"]["r"]
    weights = sha256_of_file(runs / "teacher-0" / "best" / "model.safetensors")
    taught = json.loads((numbers / "teacher-0.json").read_text())["metrics"]["AP"]
    assert found["teacher"]["AP"] == pytest.approx(taught)
    assert (found["teacher"]["run"], found["teacher"]["sha256"]) == ("teacher-0", weights)
    assert plain["teacher"] is None
    assert found["metrics"]["AP"] == found["curve"][-1]["AP"] and len(found["data"]["val"]["annotations_sha256"]) == 64
    assert (
        found["versions"]["torch"] == torch.__version__ and found["versions"]["pillow"] and found["versions"]["numpy"]
    )
    assert found["commits"] and found["command"].endswith(
        "recipes/experiments/tiny.py --only tiny_pkd --set seed=0 --cpu --threads 1"
    )
    assert not [word for word in (str(tmp_path), str(ROOT), str(Path.home()) + "/") if word in json.dumps(found)]
    assert "| pkd | retina_r10w16 from teacher: pkd | 1 |" in done.stdout and "(one seed)" in done.stdout

    (tmp_path / "tiny.py").write_text(EXPERIMENT.replace('{"pkd": {}}', '{"pkd": {"weight": 3.0}}'))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"pkd-0\.json holds another recipe"):
        runner.main(["tiny.py", "--data", str(shapes), "--results", "numbers"])


@pytest.mark.slow
def test_runs_are_recorded_as_they_were_trained_and_teachers_are_trained_when_needed(
    shapes, tmp_path, monkeypatch, capsys
) -> None:
    """Without the weights of a teacher its student could not start, although the teacher has a result."""
    (tmp_path / "tiny.py").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    where = ["tiny.py", "--data", str(shapes), "--results", "all/numbers"]
    train = ["--", "--cpu", "--threads", "1", "--set", "schedule.max_steps=1", "--set", "optim.lr=0.02"]
    numbers, runs = tmp_path / "all" / "numbers" / "tiny", tmp_path / "runs" / "experiments" / "tiny"
    runner.main([*where, "--runs", "plain-0", *train])
    plain, teacher = (json.loads((numbers / f"{key}.json").read_text()) for key in ("plain-0", "teacher-0"))
    assert plain["recipe"]["schedule"]["max_steps"] == 1 and plain["budget"]["steps"] == 1
    assert plain["recipe"]["optim"]["lr"] == 0.02

    shutil.rmtree(runs)
    runner.main([*where, "--runs", "plain-0", *train])
    assert "plain-0 has a result already and is not trained, 2 of 2" in capsys.readouterr().out and not runs.exists()
    runner.main([*where, "--runs", "pkd-0", *train])
    assert "teacher-0.json is kept" in capsys.readouterr().out
    assert json.loads((numbers / "teacher-0.json").read_text()) == teacher
    pkd = json.loads((numbers / "pkd-0.json").read_text())
    assert pkd["recipe"]["optim"]["lr"] == 0.02 and pkd["versions"]["torch"] == torch.__version__
    with pytest.raises(SystemExit, match=r"teacher-0\.json holds another recipe \(optim\.lr: 0\.02 -> 0\.01\)"):
        runner.main([*where, "--runs", "plain-0", *train[:-2]])

    other = make_shapes(tmp_path / "other", train=8, val=3, size=(64, 96), seed=1)
    with pytest.raises(SystemExit, match=r"teacher-0\.json was trained on other data than"):
        runner.main(["tiny.py", "--data", str(other), *where[3:], "--runs", "plain-0", *train])
    (tmp_path / "all" / "README.md").write_text("# Mine")
    with pytest.raises(SystemExit, match=r"README\.md is another page and is kept"):
        runner.main(["--report", "--results", "all/numbers"])
    assert (tmp_path / "all" / "README.md").read_text() == "# Mine"

    more = [*where[:-1], "all/more", "--runs"]
    with pytest.raises(SystemExit, match=r"error: the data changed since .*teacher-0 began"):
        runner.main(["tiny.py", "--data", str(other), *more[3:], "teacher-0", *train])
    with pytest.raises(SystemExit, match=r"teacher-0 holds another run \(schedule\.max_steps: 1 -> null\): move it"):
        runner.main([*more, "teacher-0", "--", "--cpu", "--threads", "1", "--set", "optim.lr=0.02"])
    (tmp_path / "tiny.py").write_text(EXPERIMENT.replace('{"pkd": {}}', '{"mse": {}}'))
    with pytest.raises(SystemExit, match=r"pkd-0 holds another run \(distill\.methods\.pkd: .*distill\.methods\.mse: "):
        runner.main([*more, "pkd-0", *train])

    (tmp_path / "tiny.py").write_text(EXPERIMENT)
    (numbers / "pkd-0.json").unlink()
    for manifest in (runs / "teacher-0" / "checkpoints").glob("step_*/manifest.json"):
        content = json.loads(manifest.read_text())
        content["progress"]["done"] = False
        manifest.write_text(json.dumps({key: content[key] for key in ("progress", "sha256")}))

    def stop(words: list[str]) -> None:
        raise SystemExit(130)

    monkeypatch.setattr(runner, "train_script", lambda: SimpleNamespace(main=stop))
    with pytest.raises(SystemExit) as end:
        runner.main([*where, "--runs", "pkd-0", *train])
    assert end.value.code == 130, "a half-trained teacher is trained to its end, although it has a result and weights"
    assert "stopped on request in teacher-0, 1 of 2" in capsys.readouterr().out


@pytest.mark.slow
def test_a_head_learns_on_the_frozen_pyramids_pyramid_of_another(shapes, tmp_path, train, monkeypatch) -> None:
    """Table 1 through the real scripts: what the head stands on is the other detector's to the last bit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "train_script", lambda: SimpleNamespace(main=lambda argv: train(*argv)))
    small = ["data.short=64", "data.long=96", "data.min_image_size=0", "schedule.epochs=1"]
    words = ["--data", str(shapes), "--results", "numbers", "--runs", "fcos_on_gfl-0", "retina_on_fcos-0", "--"]
    runner.main([str(FOLDER / "frozen_pyramids.py"), *words, *(word for each in small for word in ("--set", each))])
    for variant, pyramid in (("fcos_on_gfl", "gfl"), ("retina_on_fcos", "fcos")):
        places = [tmp_path / "runs" / "experiments" / "frozen_pyramids" / f"{name}-0" for name in (variant, pyramid)]
        student, other = (create_detector(f"local-dir:{place}/best") for place in places)
        assert student.name == f"{variant.partition('_')[0]}_r10w16" and other.name == f"{pyramid}_r10w16"
        for part in ("backbone", "neck"):
            ours, theirs = (model.get_submodule(part).state_dict() for model in (student, other))
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
        batch = Batch(torch.rand(1, 3, 64, 96) * 255, [(64, 96)])
        maps_of = (model.extract_features(batch).levels for model in (student, other))
        assert all(torch.equal(one, two) for one, two in zip(*maps_of, strict=True))
        found = json.loads((tmp_path / "numbers" / "frozen_pyramids" / f"{variant}-0.json").read_text())
        assert found["role"] == "student" and found["pearson"] == {"teacher": f"{pyramid}-0", "r": [1.0] * 4}


# -- shipping --------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(shapes, tmp_path) -> Path:
    """A detector as a run saves it: float32 weights, and metrics on the validation images."""
    model = create_detector("fcos_r18w24.shapes", pretrained=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 1e-5)  # no longer what float16 can hold
    model.save_pretrained(tmp_path / "last")
    tensors = sha256_of_file(tmp_path / "last" / "model.safetensors")
    measured = {**package_weights.measured(model, shapes), "weights_sha256": tensors}
    write_metrics(tmp_path / "last" / "metrics.json", measured)
    return tmp_path / "last"


def test_what_is_shipped_is_half_as_large_and_as_good(trained, shapes, tmp_path, capsys) -> None:
    words = [str(trained), "--data", str(shapes), "--output", str(tmp_path), "--name"]
    package_weights.main([*words, "fcos_r18w24.again"])
    path, printed = tmp_path / "fcos_r18w24_again.safetensors", capsys.readouterr().out
    state = read_state_dict(path)
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert path.stat().st_size < 0.52 * (trained / "model.safetensors").stat().st_size
    noted = json.loads((trained / "metrics.json").read_text())
    assert noted["AP"] > 30 and f"'AP': {noted['AP']:.1f}" in printed and f'sha256="{sha256_of_file(path)}"' in printed
    model = load_checkpoint(create_detector("fcos_r18w24", label_names="shapes"), path)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    before = path.read_bytes()
    package_weights.main([*words, "fcos_r18w24.again"])
    assert path.read_bytes() == before


def test_what_is_not_as_good_is_not_shipped(trained, shapes, tmp_path) -> None:
    words = [str(trained), "--data", str(shapes), "--output", str(tmp_path / "weights"), "--name"]
    with pytest.raises(SystemExit, match=r"write ARCH\.TAG"):
        package_weights.main([*words, "fcos_r18w24"])
    noted = json.loads((trained / "metrics.json").read_text())
    write_metrics(trained / "metrics.json", {**noted, "AP": noted["AP"] + 0.2})
    with pytest.raises(SystemExit, match=r"in training, .* measured again: more than 0\.1 apart, nothing was written"):
        package_weights.main([*words, "fcos_r18w24.again"])
    assert not (tmp_path / "weights").exists()
    with pytest.raises(ValueError, match="large: values too large for float16"):
        package_weights.halved({"fine": torch.ones(2), "large": torch.tensor([1e5])})
