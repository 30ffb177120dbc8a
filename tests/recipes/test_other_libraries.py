"""Teachers of other libraries through the training script: two steps, provenance, pre-flight, and the card."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.scripts import log_lines
from helpers.tiny_transformers import tiny_model
from safetensors.torch import load_file

import pkdzoo
from pkdzoo.cli import main as cli
from pkdzoo.hub.card_licenses import UnknownLicense
from pkdzoo.training.publish import prepare

TORCHVISION = "torchvision:ssdlite320_mobilenet_v3_large"
STUDENTS = ("retina_r10w16", "gfl_r10w16", "faster_rcnn_r10w16")


def change(teacher: str, pkd: dict[str, Any], **more: Any) -> list[object]:
    distill = {"teacher": teacher, "methods": {"pkd": {"adapter": True, **pkd}}, **more}
    short = ("schedule.epochs=1", "schedule.max_steps=2", "logging.log_every=1")
    return ["--set", f"distill={json.dumps(distill)}", *(word for value in short for word in ("--set", value))]


def check(run: Path, teacher: str, printed: str, widths: str) -> dict[str, Any]:
    steps = [line for line in log_lines(run) if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2] and all(line["loss_pkd"] > 0 for line in steps)
    assert f"teacher   {teacher}" in printed and widths in printed and "levels    pkd compares" in printed
    assert not any(
        "backbone.network" in key for key in pkdzoo.create_detector(f"local-dir:{run / 'last'}").state_dict()
    )
    facts: dict[str, Any] = json.loads((run / "run.json").read_text())["teacher"]
    return facts


@pytest.fixture
def dfine(tmp_path: Path) -> Path:
    """A D-FINE as transformers saves it, of Apache-2.0."""
    pytest.importorskip("transformers")
    folder = tmp_path / "secret" / "dfine-tiny"
    tiny_model("d_fine").save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (folder / "preprocessor_config.json").write_text('{"size": {"height": 96, "width": 96}}')
    return folder


@pytest.mark.parametrize(
    "student", [s if s == "gfl_r10w16" else pytest.param(s, marks=pytest.mark.slow) for s in STUDENTS]
)
def test_a_student_learns_from_transformers(student, dfine, recipe, train, shapes, tmp_path, capsys) -> None:
    name = f"transformers:{dfine}"
    train(recipe, "--data", shapes, "--output", tmp_path / "run", "--set", f"model={student}", *change(name, {}))
    printed = capsys.readouterr().out
    facts = check(tmp_path / "run", name, printed, "maps      teacher stride 8 x 32 channels")
    assert "stretched to 96 x 96" in printed
    assert facts["teacher"] == "transformers:dfine-tiny" and facts["teacher_license"] == "apache-2.0"
    assert len(facts["teacher_sha256"]) == 64 and "secret" not in json.dumps(facts)
    folder = prepare(str(tmp_path / "run"), tmp_path / "card", license="MIT", data_license="MIT")
    card = (folder / "README.md").read_text()
    assert "teacher transformers:dfine-tiny: apache-2.0" in card
    published = "".join(path.read_text() for path in folder.iterdir() if path.suffix in (".md", ".json"))
    assert "secret" not in published


@pytest.mark.slow
@pytest.mark.parametrize("student", STUDENTS)
def test_a_student_learns_from_torchvision(student, recipe, train, shapes, tmp_path, capsys) -> None:
    train(
        recipe, "--data", shapes, "--output", tmp_path / "run", "--set", f"model={student}",
        *change(TORCHVISION, {}, teacher_weights="random"),
    )  # fmt: skip
    facts = check(tmp_path / "run", TORCHVISION, capsys.readouterr().out, "stretched to 320 x 320")
    assert facts["teacher"] == TORCHVISION and facts["teacher_weights"] == "random"
    with pytest.raises(UnknownLicense, match="--teacher-license"):
        prepare(str(tmp_path / "run"), tmp_path / "card", license="MIT", data_license="MIT")
    assert not (tmp_path / "card").exists()


@pytest.mark.slow
@pytest.mark.parametrize("student", STUDENTS)
def test_a_student_learns_from_timm(student, recipe, train, shapes, tmp_path, capsys) -> None:
    pytest.importorskip("timm")
    name = "timm:mobilenetv4_conv_small"
    train(
        recipe, "--data", shapes, "--output", tmp_path / "run", "--set", f"model={student}",
        *change(name, {"where": "backbone"}, teacher_weights="random"),
    )  # fmt: skip
    facts = check(tmp_path / "run", name, capsys.readouterr().out, "stride 32 x 960 channels")
    assert facts["teacher"] == name and facts["methods"]["pkd"]["where"] == "backbone"


def learn_and_evaluate(name, train, recipe, shapes, run, capsys, *more: object) -> dict[str, Any]:
    """Two steps of PKD from a detector of this package, then `pkdzoo eval`; returns the saved config.

    `pkdzoo eval` runs on one thread, as the training: more round differently, and scores of a detector that has hardly
    learned are so close that this changes their order.
    """
    train(
        recipe, "--data", shapes, "--output", run, "--set", f"model={name}", *more,
        *change("gfl_r10w16", {}, teacher_weights="random"),
    )  # fmt: skip
    steps = [line for line in log_lines(run) if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2] and all(line["loss_pkd"] > 0 for line in steps)
    assert f"student   {name}" in capsys.readouterr().out
    again = run.parent / "again.json"
    words = ("eval", run, "--data", shapes, "--output", again, "--cpu", "--threads", 1)
    assert cli([str(word) for word in words]) in (0, None)
    metrics, evaluated = (json.loads(path.read_text()) for path in (run / "metrics.json", again))
    assert evaluated["AP"] == metrics["AP"] and evaluated["AR100"] == metrics["AR100"]
    with pytest.raises(ValueError, match="as its own library does"):
        prepare(str(run), run.parent / "card")
    assert not (run.parent / "card").exists()
    config: dict[str, Any] = json.loads((run / "last" / "config.json").read_text())
    return config


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["fasterrcnn_mobilenet_v3_large_320_fpn", "retinanet_resnet50_fpn_v2"])
def test_a_student_of_torchvision_learns(arch, recipe, train, shapes, tmp_path, capsys) -> None:
    name = f"torchvision:{arch}"
    config = learn_and_evaluate(name, train, recipe, shapes, tmp_path / "run", capsys)
    assert (config["library_name"], config["architecture"], config["num_classes"]) == ("torchvision", arch, 6)


@pytest.mark.slow
def test_a_student_of_transformers_learns(dfine, recipe, train, shapes, tmp_path, capsys) -> None:
    pytest.importorskip("scipy")
    config = learn_and_evaluate(f"transformers:{dfine}", train, recipe, shapes, tmp_path / "run", capsys)
    assert config["model_type"] == "d_fine" and len(config["id2label"]) == 6


@pytest.mark.slow
def test_a_student_of_torchvision_resumes(recipe, train, shapes, tmp_path) -> None:
    """Continued after its first epoch, a run ends with the same weights as one of two epochs."""
    words = [recipe, "--data", shapes, "--set", "model=torchvision:fasterrcnn_mobilenet_v3_large_320_fpn"]
    train(*words, "--output", tmp_path / "whole")
    train(*words, "--output", tmp_path / "parts", "--set", "schedule.epochs=1")
    with pytest.warns(UserWarning, match="epochs: 1 -> 2"):
        train(*words, "--output", tmp_path / "parts", "--resume")
    one, two = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(value, two[key]) for key, value in one.items())


def test_weights_to_start_from_are_refused(recipe, train, shapes, tmp_path) -> None:
    with pytest.raises(SystemExit, match="leave init out"):
        train(
            recipe, "--data", shapes, "--output", tmp_path / "run", "--set", "init=imagenet",
            "--set", "model=torchvision:retinanet_resnet50_fpn",
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


BACKBONES = {
    "timm:mobilenetv4_conv_smal": "Did you mean mobilenetv4_conv_small",
    "timm:efficientvit_m0": "a pyramid needs maps of stride 4, 8, 16 and 32",
    "timm:vit_small_patch14_dinov2": r"should be divisible by patch size \(14\)",
}
TEACHERS = {
    "torchvision:retinanet_resnet50_fpn_v3": "Did you mean retinanet_resnet50_fpn_v2",
    "timm:convnext_bass": "Did you mean convnext_base",
    "timm:vit_small_patch14_dinov2": r"should be divisible by patch size \(14\)",
    "transformers:no/such/folder": "there is no such folder",
}
STUDENTS_REFUSED = {
    "torchvision:ssdlite320_mobilenet_v3_large": "a RetinaNet, FCOS or Faster R-CNN can",
    "torchvision:retinanet_resnet50_fpm": "Did you mean retinanet_resnet50_fpn",
    "timm:resnet18": "is a bare backbone, which has no losses",
}


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [("backbone", *row) for row in BACKBONES.items()]
    + [("teacher", *row) for row in TEACHERS.items()]
    + [("student", *row) for row in STUDENTS_REFUSED.items()],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(
    kind, name, says, recipe, train, shapes, tmp_path
) -> None:
    if "timm" in name:
        pytest.importorskip("timm")
    if "transformers" in name:
        pytest.importorskip("transformers")
    words = {
        "backbone": ["--set", f"model_args={json.dumps({'backbone': name})}"],
        "teacher": change(name, {}, **({} if "transformers" in name else {"teacher_weights": "random"})),
        "student": ["--set", f"model={name}"],
    }
    with pytest.raises(SystemExit, match=says):
        train(recipe, "--data", shapes, "--output", tmp_path / "run", *words[kind])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("library", ["transformers", "timm"])
def test_a_missing_library_is_named_before_anything_is_written(
    library, recipe, train, shapes, tmp_path, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    name = {"transformers": "transformers:org/name", "timm": "timm:resnet18"}[library]
    with pytest.raises(SystemExit, match=rf"extra \[{library}\]"):
        train(recipe, "--data", shapes, "--output", tmp_path / "run", *change(name, {}))
    assert not (tmp_path / "run").exists()


def test_pickles_and_code_are_refused_before_anything_is_written(dfine, recipe, train, shapes, tmp_path) -> None:
    words = [recipe, "--data", shapes, "--output", tmp_path / "run", *change(f"transformers:{dfine}", {})]
    config = (dfine / "config.json").read_text()
    (dfine / "config.json").write_text(config.replace("{", '{"auto_map": {"AutoModel": "evil.Model"},', 1))
    with pytest.raises(SystemExit, match="runs code of its own repository"):
        train(*words)
    (dfine / "config.json").write_text(config)
    (dfine / "model.safetensors").rename(dfine / "pytorch_model.bin")
    with pytest.raises(SystemExit, match="pickled weights beside it are never loaded"):
        train(*words)
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_only_gives_maps_is_not_checked(recipe, train, shapes, tmp_path) -> None:
    words = [recipe, "--data", shapes, "--output", tmp_path / "run", "--check-teacher", "1"]
    with pytest.raises(SystemExit, match="gives maps and no detections here"):
        train(*words, *change(TORCHVISION, {}, teacher_weights="random"))
    assert not (tmp_path / "run").exists()


def test_widths_that_differ_are_refused_before_anything_is_written(recipe, train, shapes, tmp_path) -> None:
    with pytest.raises(SystemExit, match="adapter=True"):
        train(
            recipe, "--data", shapes, "--output", tmp_path / "run",
            *change(TORCHVISION, {"adapter": False}, teacher_weights="random"),
        )  # fmt: skip
    assert not (tmp_path / "run").exists()
