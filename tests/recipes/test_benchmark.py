"""The benchmark runs, and what it compares computes the same. Its times are not tested."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.scripts import script
from PIL import Image

import pkdzoo
from pkdzoo.structures import Detections
from recipes.benchmarks import PARTS, load, loss, parts_of, predict, step
from recipes.benchmarks.measure import Row, Settings, full_precision, in_turns
from recipes.benchmarks.predict import apart
from recipes.benchmarks.table import RESULTS, growth_line, line, markdown


def quickly(output: Path, rows: str, *options: str) -> dict[str, Any]:
    """The results file of a quick run of the script."""
    assert script("benchmark").main(["--rows", rows, "--quick", "--no-compile", "--output", str(output), *options]) == 0
    found: dict[str, Any] = json.loads(output.read_text())
    return found


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n not in ("loss", "load") else n for n in PARTS]
)
def test_a_part_runs_and_both_sides_compute_the_same(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    found = quickly(tmp_path / "results" / "quick.json", name)
    assert found["about"]["torch"] and found["about"]["machine"] and found["quick"]
    (part,) = found["parts"].values()
    assert part["seconds"] >= 0 and "load" in part and len(part["commit"].rstrip("+")) == 40
    assert all(
        "no centerness weights" in row["note"] for row in part["rows"] if "FCOS" in row["name"] and "step" in name
    )
    measured = [row for row in part["rows"] if row["ratio"] is not None]
    assert measured or part["curves"] or part["profiles"]
    assert all(row["ratio"] > 0 and row["target"] in range(1, 8) for row in measured)
    assert all(row["note"].startswith("unmeasured: ") for row in part["rows"] if row["ratio"] is None)
    assert markdown(found) in capsys.readouterr().out


def test_parts_are_measured_anew_in_the_file_of_an_earlier_run(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios = itertools.count(1)
    for name in ("loss", "load"):
        monkeypatch.setitem(PARTS, name, lambda settings, name=name: iter([Row(1, name, "b", float(next(ratios)))]))
    path = tmp_path / "quick.json"
    before = quickly(path, "loss")
    both = quickly(path, "load", "--update")
    assert list(both["parts"]) == ["loss", "load"]
    assert both["parts"]["loss"] == before["parts"]["loss"]
    anew = quickly(path, "loss", "--update")["parts"]
    assert anew["load"] == both["parts"]["load"]
    assert [anew[name]["rows"][0]["ratio"] for name in ("loss", "load")] == [3.0, 2.0]
    path.write_text(json.dumps({**both, "about": {**both["about"], "torch": "1.0"}}))
    with pytest.raises(SystemExit, match=r"quick\.json was measured with another torch: write a new file"):
        quickly(path, "loss", "--update")
    with pytest.raises(SystemExit):
        quickly(tmp_path / "none.json", "loss", "--update")
    assert "--output has to be the file of an earlier run" in capsys.readouterr().err


def test_parts_go_by_their_beginning() -> None:
    assert parts_of(["step", "loss"]) == ["loss", "step-retina", "step-fcos"]
    with pytest.raises(ValueError, match="no part stepp; write loss, projected, step-retina"):
        parts_of(["stepp"])


def test_which_of_two_equal_scores_is_the_last_is_left_to_rounding() -> None:
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [20.0, 0.0, 29.0, 9.0], [0.0, 50.0, 9.0, 59.0]])
    labels = torch.zeros(2, dtype=torch.long)
    scores = torch.tensor([0.9, 0.5])
    a, b = (Detections(boxes[[0, k]], scores, labels) for k in (1, 2))
    assert apart(a, b, top=2) == 0.0
    assert apart(a, b) > 0.1  # no detection was dropped
    higher = Detections(boxes[[0, 2]], torch.tensor([0.9, 0.6]), labels)
    assert apart(a, higher, top=2) > 0.1
    assert apart(Detections(boxes[[1, 0]], scores, labels), a, top=2) > 0.1
    assert apart(a, a) == 0.0


TINY = Settings(quick=True, compiled=False)


@pytest.mark.slow
def test_the_loss_as_a_gpu_measures_it_runs_here_at_a_small_size() -> None:
    *times, share = loss.on_a_gpu(TINY, (200, 336), 8)
    assert [row.unit for row in times] == ["s", "MB", "s"]
    assert all("bfloat16" in row.name for row in times if row.unit == "s")
    assert {"value", "gradients", "value, float32", "gradients, float32"} <= set(times[2].differences)
    for row in (*times, share):
        assert row.equal, (row.name, row.differences)
        assert row.ratio > 0


@pytest.mark.slow
def test_every_level_and_type_may_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of compiled programs per function is raised."""
    monkeypatch.setattr(torch._dynamo.config, "cache_size_limit", 8)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    rows = list(loss.on_a_gpu(replace(TINY, compiled=True), (200, 336), 2))
    compiled = [row for row in rows if row.name.endswith(", compiled")]
    assert len(compiled) == 3 and all(row.equal for row in rows), rows


@pytest.mark.slow
def test_models_are_compiled_for_the_size_they_run_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of one copy with another size do not make torch compile for variable sizes."""
    sizes: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        sizes.extend(value for value in inputs if not isinstance(value, torch.Tensor))
        return graph

    whole = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: whole(module, backend=backend))
    model = pkdzoo.create_detector("retina_r10w16")
    for count in (1, 2):
        predict.compile_layers(model).detect(step.batch_of((64, 64), count, TINY.device))
    assert not sizes


@pytest.mark.slow
def test_the_step_as_a_gpu_measures_it_runs_here_at_a_small_size() -> None:
    row, teacher = step.large_rows(TINY, (96, 128))
    compared = {"loss_cls", "loss_box", "loss_pkd"}
    assert set(row.differences) == {*compared, "gradient, float64", *(f"{key}, bf16" for key in compared)}
    assert row.equal, row.differences
    assert row.ratio > 0
    # the ratio is 35 % of the step's time, divided by the teacher's time
    assert teacher.theirs == pytest.approx(step.SHARE * row.ours)
    assert teacher.ratio == pytest.approx(teacher.theirs / teacher.ours)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        script("benchmark").main(["--device", "cuda:0", "--rows", "loss"])
    assert "--device cuda:0: this torch sees no GPU" in capsys.readouterr().err


def test_a_gpu_measures_what_a_cpu_calls_unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(loss, "on_a_gpu", lambda settings, *words: calls.append(words) or iter(()))
    monkeypatch.setattr(step, "large_rows", lambda settings, *words: calls.append(words) or iter(()))
    for module in (step, predict):
        monkeypatch.setattr(module, f"{module.__name__.rpartition('.')[2]}_rows", lambda *words: iter(()))
    settings = Settings(torch.device("cuda"))
    left = [row for name in PARTS if name.startswith(("loss", "step", "predict")) for row in PARTS[name](settings)]
    assert not left
    assert calls == [((800, 1344), 256), ((800, 1344),)]
    assert predict.target_ratios("retina", settings.device) == (1.5, 1.5)
    assert predict.target_ratios("retina", torch.device("cpu")) == (1.2, 1.4)


def test_numbers_are_compared_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with full_precision():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32


def test_a_run_that_is_cut_off_leaves_a_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "quick.json"

    def broken(settings: Settings) -> Any:
        yield Row(7, "a", "b", 1.0)
        raise KeyboardInterrupt

    row = Row(1, "a", "b", 1.0)
    monkeypatch.setitem(PARTS, "loss", lambda settings: iter([row]))
    monkeypatch.setitem(PARTS, "create", broken)
    with pytest.raises(KeyboardInterrupt):
        quickly(path, "loss,create")
    found = json.loads(path.read_text())
    assert list(found["parts"]) == ["loss"]
    assert found["parts"]["loss"]["rows"] == [row.to_dict()]
    assert list(tmp_path.iterdir()) == [path]

    def cut(file: int) -> None:  # ... and while the file is written
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", cut)
    with pytest.raises(KeyboardInterrupt):
        quickly(path, "loss", "--update")
    assert json.loads(path.read_text()) == found


def test_a_difference_fails_the_run() -> None:
    assert not Row(1, "a", "b", differences={"value": 2e-5, "gradients": 0.0}).equal
    assert Row(1, "a", "b", differences={"value": 2e-6}).equal
    wider = {"gradients": 1e-3}
    assert Row(1, "a", "b", differences={"value": 2e-6, "gradients": 2e-4}, wider=wider).equal
    assert not Row(1, "a", "b", differences={"value": 2e-4, "gradients": 2e-4}, wider=wider).equal


def test_images_of_a_folder_are_compared_too(tmp_path: Path) -> None:
    load.jpegs(tmp_path, 2)
    Image.new("RGB", (640, 480)).save(tmp_path / "2.jpg")  # 1067 columns here, 1066 in torchvision
    row, kept, large, fast = load.rows(Settings(quick=True, images=tmp_path))
    assert row.equal and kept.differences == row.differences and large.equal and not fast.differences
    assert set(row.differences) == {"pixels", "boxes"}
    assert 0 < row.differences["pixels"] < 2 / 255
    for number in range(2):
        (tmp_path / f"{number}-600.jpg").unlink()
    with pytest.raises(ValueError, match="nothing to compare"):
        list(load.rows(Settings(quick=True, images=tmp_path)))


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
    assert "1.997 (1.80-2.20), missed" in line(Row(1, "a", "b", 1.997, 1.8, 2.2, want=2.0).to_dict())
    curve = {"name": "boxes", "x": [1.0, 500.0], "growth of time": 1.05, "growth of memory": 1.3}
    assert growth_line(curve) == "| boxes | 1 | 500 | 1.05 | 1.30, missed |"


def test_notes_stand_below_the_table() -> None:
    rows = [Row(1, name, "b", 1.0, note=note).to_dict() for name, note in (("x", "why"), ("y", ""), ("z", "why"))]
    found = {"about": {"gpu": "a GPU", "python": "3"}, "parts": {"loss": {"rows": rows, "curves": []}}}
    table = markdown(found).splitlines()
    assert [row.split("|")[1] for row in table[4:7]] == [" x (1) ", " y ", " z (1) "]
    assert table[7:] == ["", "1. why"]
    assert table[2].count("|") == table[4].count("|") == 8  # times of a GPU are shown, of a CPU only ratios
    on_a_cpu = {**found["about"], "gpu": None, "threads": 2, "machine": "a CPU", "vectors": "AVX2"}
    assert markdown({**found, "about": on_a_cpu}).splitlines()[4] == "| x (1) | b | 1.00 |  |  |"


def test_recorded_runs_are_whole() -> None:
    compared = [json.loads(path.read_text()) for path in RESULTS.glob("versions/*.json")]
    of_versions = {part.partition("-")[0] for found in compared for part in found["parts"]}
    assert compared and not any(found["quick"] for found in compared)
    for path in RESULTS.glob("*.json"):
        found = json.loads(path.read_text())
        assert not found["quick"], f"{path.name}: a quick run measures nothing"
        assert list(found["parts"]) == [part for part in PARTS if part in found["parts"]], path.name
        measured = {part.partition("-")[0] for part in found["parts"]}
        needed = {part.partition("-")[0] for part in PARTS} - of_versions
        if found["about"]["device"] != "cpu":
            needed = {"loss", "step", "train", "predict"}  # the others measure the processor
        assert measured >= needed, path.name
        assert all(row["equal"] for part in found["parts"].values() for row in part["rows"]), path.name
        assert {"torch", "machine", "python", "device"} <= set(found["about"])
        for name, part in found["parts"].items():
            unsaid = [key for key in ("seconds", "load", "commit") if part.get(key) is None]
            assert not unsaid, f"{path.name}: {name} does not say {', '.join(unsaid)}"
