"""Runs that are stopped with everything around them, and runs that cannot begin."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.processes import Run
from helpers.scripts import ROOT, log_lines

from pkdzoo.training import checkpoint


def sets(*assignments: str) -> list[str]:
    return [word for each in assignments for word in ("--set", each)]


def refusal(train, *argv: object) -> str:
    with pytest.raises(SystemExit) as ended:
        train(*argv)
    assert isinstance(ended.value.code, str)
    return ended.value.code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_keeps_the_step(number, recipe, shapes, tmp_path) -> None:
    """Loader processes get it too, as from a scheduler or from Ctrl-C in a terminal."""
    out = tmp_path / "run"
    words = [recipe, "--data", shapes, "--output", out, "--cpu", "--threads", 1]
    words += sets("data.workers=2", "schedule.epochs=999", "logging.eval_every=999", "logging.log_every=1")
    run = Run("train", *words, said=tmp_path / "said")
    log, late = out / "log.jsonl", time.monotonic() + 120
    while run.alive and time.monotonic() < late and (not log.is_file() or log.stat().st_size < 500):
        time.sleep(0.02)
    run.send(number)
    assert run.wait() == [128 + number], run.text()
    found = checkpoint.find_checkpoint(out)
    assert found is not None and found[1].step == log_lines(out)[-1]["step"] > 0
    assert "stopped on request" in run.text() and "Traceback" not in run.text()


@pytest.mark.parametrize("kind", ["DEEPSPEED", "FSDP"])
def test_models_split_over_processes_are_refused(kind, train, recipe, shapes, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    said = refusal(train, recipe, "--data", shapes, "--output", tmp_path / "run")
    assert kind in said and "--multi_gpu" in said and not (tmp_path / "run").exists()


@pytest.mark.parametrize("how", ["cut off", "no image", "another size"])
def test_an_unreadable_validation_image_is_found_before_the_first_step(how, train, recipe, shapes, tmp_path) -> None:
    data = Path(shutil.copytree(shapes, tmp_path / "data"))
    victim = min((data / "val2017").iterdir())
    if how == "cut off":
        victim.write_bytes(victim.read_bytes()[:-40])
    elif how == "no image":
        victim.write_text("not found")
    else:
        path = data / "annotations" / "instances_val2017.json"
        content = json.loads(path.read_text())
        row = next(row for row in content["images"] if row["file_name"] == victim.name)
        row["width"] += 8
        path.write_text(json.dumps(content))
    said = refusal(train, recipe, "--data", data, "--output", tmp_path / "run")
    assert "1 of 5 val images cannot be read" in said and victim.name in said
    assert not (tmp_path / "run").exists()


def test_a_large_validation_set_is_checked_by_headers_and_ends(shapes, tmp_path, monkeypatch) -> None:
    from pkdzoo.data import CocoDataset, check_headers, find_split, headers, image_files

    monkeypatch.setattr(headers, "DECODED", 0)
    data = Path(shutil.copytree(shapes, tmp_path / "data"))
    dataset = CocoDataset(*find_split(data, "val"))
    decoded = []
    monkeypatch.setattr(image_files, "open_image", lambda path, size: decoded.append(path.name))
    assert check_headers(dataset) == [] and decoded == []
    victim = data / "val2017" / dataset.file_name(2)
    victim.write_bytes(victim.read_bytes()[:-40])
    check_headers(dataset)
    assert decoded == [victim.name]


def test_the_memory_that_is_told_is_what_the_process_takes(recipe, shapes, tmp_path) -> None:
    out = tmp_path / "run"
    words = [recipe, "--data", shapes, "--output", out, "--cpu", "--threads", 1]
    words += sets("schedule.max_steps=3", "logging.log_every=1", "data.workers=1")
    run = Run("train", *words, said=tmp_path / "said")
    run.finish()
    stated = re.search(r"memory +about ([\d.]+) (MB|GB) per process: framework .*1 loader process ", run.text())
    assert stated is not None, run.text()
    seen = max(line["memory_gb"] for line in read_lines(out / "log.jsonl") if "memory_gb" in line) * 2**30
    assert float(stated[1]) * {"MB": 1e6, "GB": 1e9}[stated[2]] == pytest.approx(seen, rel=0.2)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_mask_rcnn_trains(train, tmp_path) -> None:
    """The published Swin recipe, made small: its own data with polygons."""
    from pkdzoo.data import make_shapes

    data = make_shapes(tmp_path / "data", train=4, val=1, size=(64, 96))
    for split in ("train", "val"):
        path = data / "annotations" / f"instances_{split}2017.json"
        content = json.loads(path.read_text())
        for row in content["annotations"]:
            x, y, w, h = row["bbox"]
            row["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        path.write_text(json.dumps(content))

    recipe = ROOT / "recipes" / "supervised" / "mask_rcnn_swin_t_1x.py"
    train(recipe, "--data", data, "--output", tmp_path / "run",
          *sets("init=none", "model_args.depths=[1,1,2,1]", "model_args.width=64", "model_args.box_width=64",
                "model_args.mask_width=32", "data.short=64", "data.long=96", "data.batch_size=2",
                "data.min_image_size=0", "data.workers=0", "schedule.max_steps=1"))  # fmt: skip
    assert log_lines(tmp_path / "run")[-1]["step"] == 1
