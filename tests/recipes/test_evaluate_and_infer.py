"""The two scripts that use a trained detector."""

from __future__ import annotations

import json

import pytest
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from scripts import script

import pkdzoo
from pkdzoo.data.shapes import CLASSES
from pkdzoo.evaluation import METRICS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved detector with random weights that knows the shapes' names."""
    model = pkdzoo.create_detector("fcos_r10w16", num_classes=len(CLASSES), label_names=CLASSES, resize=(64, 96))
    return model.save_pretrained(tmp_path_factory.mktemp("model") / "best")


@pytest.fixture
def evaluate():
    def run(*argv: object) -> None:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        script("evaluate").main([str(word) for word in argv] + ["--cpu", "--threads", "1", "--workers", "0"])

    return run


def infer(*argv: object) -> None:
    script("infer").main([str(word) for word in argv] + ["--device", "cpu"])


def test_evaluate_writes_what_it_prints(evaluate, folder, shapes, tmp_path, capsys) -> None:
    evaluate(folder, "--data", shapes, "--output", tmp_path / "out" / "metrics.json")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert set(METRICS) <= set(metrics) and tuple(metrics["per_class"]) == CLASSES
    assert metrics["pictures"] > 0 and len(metrics["annotations_sha256"]) == 64 and metrics["hardware"]
    assert str(folder) in metrics["weights"] and metrics["annotations"].endswith("instances_val2017.json")
    assert "AP50" in capsys.readouterr().out
    evaluate(folder.parent, "--data", shapes, "--output", tmp_path / "run.json", "--batch-size", "5")  # a run's folder
    again = json.loads((tmp_path / "run.json").read_text())
    assert {key: again[key] for key in METRICS} == pytest.approx({key: metrics[key] for key in METRICS})


def test_evaluate_reads_the_results_of_others(evaluate, shapes, tmp_path) -> None:
    truth = json.loads(next(shapes.rglob("instances_val2017.json")).read_text())
    rows = [{**{k: a[k] for k in ("image_id", "category_id", "bbox")}, "score": 1.0} for a in truth["annotations"]]
    (tmp_path / "found.json").write_text(json.dumps(rows))
    evaluate(tmp_path / "found.json", "--data", shapes, "--output", tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text())["AP"] == pytest.approx(100)


def test_evaluate_refuses(evaluate, folder, shapes, tmp_path) -> None:
    with pytest.raises(SystemExit, match="no annotations for the test split"):
        evaluate(folder, "--data", shapes, "--split", "test")
    with pytest.raises(SystemExit, match="holds no detector"):
        evaluate(tmp_path, "--data", shapes)
    with pytest.raises(SystemExit, match="Did you mean fcos_r10w16"):
        evaluate("fcos_r10w61", "--data", shapes)
    stranger = pkdzoo.create_detector("fcos_r10w16", num_classes=2, label_names=("cat", "dog"))
    with pytest.raises(SystemExit, match="label_names does not know"):
        evaluate(stranger.save_pretrained(tmp_path / "pets"), "--data", shapes)


def test_infer_draws_and_writes(folder, shapes, tmp_path, capsys) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    infer(folder, shapes / "val2017", tmp_path / "bad.jpg", tmp_path / "gone.jpg", "--output", tmp_path / "out",
          "--score", "0.0", "--batch-size", "2")  # fmt: skip
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(rows) == 7 and [("error" in row) for row in rows] == [False] * 5 + [True] * 2
    first = rows[0]
    assert first["size"] == {"height": 64, "width": 96} and first["detections"][0]["name"] in CLASSES
    assert Image.open(first["drawing"]).size == (96, 64)
    said = capsys.readouterr()
    assert "in 5 pictures" in said.out and "bad.jpg" in said.err and "gone.jpg" in said.err


def test_infer_keeps_pictures_of_one_name_apart(folder, shapes, tmp_path) -> None:
    picture = min((shapes / "val2017").iterdir())
    other = tmp_path / "other" / picture.name
    other.parent.mkdir()
    other.write_bytes(picture.read_bytes())
    infer(folder, picture, other, "--output", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_infer_refuses(folder, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="empty has no pictures"):
        infer(folder, tmp_path / "empty")
    (tmp_path / "bad.jpg").write_bytes(b"")
    with pytest.raises(SystemExit, match="none of the 1 pictures could be read"):
        infer(folder, tmp_path / "bad.jpg", "--output", tmp_path / "out")
