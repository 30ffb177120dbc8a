"""``pkdzoo eval`` and the two scripts that are doors to a verb."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import fails, run
from helpers.scripts import ROOT
from helpers.yolo_folders import write_yolo
from PIL import Image

import pkdzoo
from pkdzoo.data.synthetic import CLASSES
from pkdzoo.evaluation import METRICS

HERE = ("--cpu", "--threads", "1", "--workers", "0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved detector with random weights that knows the shapes' names."""
    model = pkdzoo.create_detector("fcos_r10w16", num_classes=len(CLASSES), label_names=CLASSES, resize=(64, 96))
    return model.save_pretrained(tmp_path_factory.mktemp("model") / "best")


def launch(name: str, *argv: object) -> subprocess.CompletedProcess[str]:
    """A script as a process of its own."""
    command = [sys.executable, str(ROOT / "recipes" / f"{name}.py"), *map(str, argv)]
    around = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=around, timeout=300)


def test_scripts_are_short() -> None:
    for name in ("evaluate", "infer"):
        assert len((ROOT / "recipes" / f"{name}.py").read_text().splitlines()) <= 30


def test_evaluate_writes_what_it_prints(capsys, folder, shapes, tmp_path) -> None:
    path = tmp_path / "out" / "metrics.json"
    code, out, err = run(capsys, "eval", folder, "--data", shapes, "--output", path, *HERE)
    metrics = json.loads(path.read_text())
    assert code == 0 and "AP50" in out and str(path) in out and "5 images" in err
    assert set(METRICS) <= set(metrics) and tuple(metrics["per_class"]) == CLASSES
    assert tuple(metrics["best_f1"]["per_class"]) == CLASSES and "threshold with the highest F1" in out
    assert metrics["images"] > 0 and len(metrics["annotations_sha256"]) == 64 and metrics["hardware"]
    assert str(folder) in metrics["weights"] and metrics["annotations"].endswith("instances_val2017.json")
    words = ("--data", shapes, "--output", tmp_path / "run.json", "--batch-size", 5, "--json", *HERE)
    printed = json.loads(run(capsys, "eval", folder.parent, *words)[1])  # a run's folder
    assert {key: printed[key] for key in METRICS} == pytest.approx({key: metrics[key] for key in METRICS})


def test_evaluate_writes_into_the_run(capsys, folder, shapes, tmp_path, monkeypatch) -> None:
    run_folder, here = tmp_path / "run", tmp_path / "here"
    for student in ("best", "last"):
        shutil.copytree(folder, run_folder / student)
    here.mkdir()
    monkeypatch.chdir(here)
    assert run(capsys, "eval", run_folder, "--data", shapes, *HERE)[0] == 0
    assert {path.name for path in run_folder.iterdir()} == {"best", "last"}  # a folder without a recipe is no run
    (run_folder / "recipe.json").write_text("{}")
    for model, name in ((run_folder, "eval_val.json"), (run_folder / "last", "eval_val_last.json")):
        out = run(capsys, "eval", model, "--data", shapes, *HERE)[1]
        assert f"written to {run_folder / name}" in out
        assert "best_f1" in json.loads((run_folder / name).read_text())
    assert not list(here.iterdir())


def test_saved_predictions_are_evaluated(capsys, shapes, tmp_path) -> None:
    """What ``predict --save`` writes has the numbers of ``eval``, with image ids of its own."""
    folder, words = "fcos_r18w24", ("--threshold", "none", "--device", "cpu")  # its centerness lowers scores below 0.05
    expected = json.loads(run(capsys, "eval", folder, "--data", shapes, "--json", *HERE)[1])
    assert expected["AP"] > 20
    for name in ("found.json", "found.jsonl"):
        assert run(capsys, "predict", folder, shapes / "val2017", "--save", tmp_path / name, *words)[0] == 0
        parsed = json.loads(run(capsys, "eval", tmp_path / name, "--data", shapes, "--json", *HERE)[1])
        assert {key: parsed[key] for key in METRICS} == pytest.approx({key: expected[key] for key in METRICS}, abs=1e-3)


def test_evaluate_reads_the_results_of_others(shapes, tmp_path) -> None:
    truth = json.loads(next(shapes.rglob("instances_val2017.json")).read_text())
    rows = [{**{k: a[k] for k in ("image_id", "category_id", "bbox")}, "score": 1.0} for a in truth["annotations"]]
    (tmp_path / "found.json").write_text(json.dumps(rows))
    done = launch("evaluate", tmp_path / "found.json", "--data", shapes, "--output", tmp_path / "metrics.json", *HERE)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "metrics.json").read_text())["AP"] == pytest.approx(100)


def test_evaluate_refuses(capsys, folder, shapes, tmp_path) -> None:
    def why(*words: object) -> str:
        return fails(capsys, "eval", *words, "--data", shapes, "--output", tmp_path / "none.json", *HERE)

    assert "no annotations for the test split" in why(folder, "--split", "test")
    assert "holds no detector" in why(tmp_path)
    assert "Did you mean fcos_r10w16" in why("fcos_r10w61")
    stranger = pkdzoo.create_detector("fcos_r10w16", num_classes=2, label_names=("cat", "dog"))
    message = why(stranger.save_pretrained(tmp_path / "pets"))
    assert "are not in label_names" in message and "write --skip-other-classes" in message
    assert not (tmp_path / "none.json").exists()


def test_a_file_that_cannot_be_written_is_refused_before_the_detector_is_built(
    capsys, folder, shapes, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("pkdzoo.cli.evaluate.detector_from_args", None)

    def why(output: Path, model: Path = folder) -> str:
        return fails(capsys, "eval", model, "--data", shapes, "--output", output, *HERE)

    (tmp_path / "file").write_text("")
    assert f"{tmp_path} is a folder: --output takes a file" in why(tmp_path)
    assert f"{tmp_path / 'file'} is a file, and nothing can be written below it" in why(tmp_path / "file" / "a.json")
    if Path("/proc/self").exists():
        assert "cannot be written" in why(Path("/proc/new/a.json"))
    (tmp_path / "run" / "eval_val.json").mkdir(parents=True)
    (tmp_path / "run" / "recipe.json").write_text("{}")
    said = fails(capsys, "eval", tmp_path / "run", "--data", shapes, *HERE)
    assert "eval_val.json is a folder: --output takes a file" in said


def test_what_is_evaluated_is_not_overwritten(capsys, folder, shapes, tmp_path) -> None:
    truth = next(shapes.rglob("instances_val2017.json"))
    annotations = Path(shutil.copy(truth, tmp_path / "truth.json"))
    found = tmp_path / "found.json"
    found.write_text("[]")
    (tmp_path / "link.json").symlink_to(found)
    from_file = ("eval", found, "--annotations", annotations)
    for output in (found, tmp_path / "link.json", annotations):
        assert "would overwrite" in fails(capsys, *from_file, "--output", output, *HERE)
    images = ("--annotations", annotations, "--images", shapes / "val2017")
    assert f"would overwrite {annotations}" in fails(capsys, "eval", folder, *images, "--output", annotations, *HERE)
    list_of_yolo = write_yolo(tmp_path / "yolo", {"a": ""}, folder="images/val") / "data.yaml"
    words = ("--data", list_of_yolo.parent, "--output", list_of_yolo)
    assert f"would overwrite {list_of_yolo}" in fails(capsys, "eval", folder, *words, *HERE)
    assert (found.read_text(), annotations.read_bytes()) == ("[]", truth.read_bytes())
    for missing in (("eval", tmp_path / "none.json", "--data", shapes), (*from_file[:3], tmp_path / "none.json")):
        assert f"there is no file {tmp_path / 'none.json'}: check the path" in fails(capsys, *missing, *HERE)


@pytest.mark.parametrize("json_too", [(), ("--json",)])
def test_numbers_are_printed_though_their_file_cannot_be_written(
    capsys, folder, shapes, tmp_path, monkeypatch, json_too
) -> None:
    def full(*args: object, **about: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pkdzoo.evaluation.write_metrics", full)
    code, out, err = run(capsys, "eval", folder, "--data", shapes, "--output", tmp_path / "a.json", *json_too, *HERE)
    assert code == 1 and "AP50" in out and "No space left" in err and "written to" not in out
    assert not json_too or json.loads(out)["images"] == 5


def test_infer_draws_and_writes(folder, shapes, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    words = (
        folder,
        shapes / "val2017",
        tmp_path / "bad.jpg",
        "--threshold",
        "0.0",
        "--batch-size",
        2,
        "--device",
        "cpu",
    )
    done = launch("infer", *words, "--output", tmp_path / "out")
    assert done.returncode == 1  # one could not be read
    assert "bad.jpg" in done.stderr and "1 of 6 images could not be read" in done.stderr
    assert "Traceback" not in done.stderr and "%|" not in done.stderr  # no bar where there is no terminal
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(written["images"]) == 5 and {c["name"] for c in written["categories"]} == set(CLASSES)
    assert len(list((tmp_path / "out").glob("*.png"))) + len(list((tmp_path / "out").glob("*.jpg"))) == 5
    assert Image.open(next(p for p in (tmp_path / "out").iterdir() if p.suffix != ".json")).size == (96, 64)
