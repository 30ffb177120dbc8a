"""The tables of docs/other_libraries.md, measured by running each row: the training script on two processes.

    python -m pytest -m slow -s tests/recipes/test_library_table.py     # prints the rows as they are measured

Weights are random, so strides, channels and preparation are those of the libraries' own classes. Of transformers the
default config of each class is taken, and a tiny one for DEIMv2 and RF-DETR; images are 128 x 160, so that it is quick.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.processes import Run
from helpers.scripts import ROOT, log_lines
from helpers.tiny_transformers import tiny_model

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "other_libraries.md"
STEPS = 2
CONFIGS = {"RT-DETR": "RTDetrConfig", "RT-DETRv2": "RTDetrV2Config", "D-FINE": "DFineConfig"}
TINY = {"DEIMv2": "deimv2", "RF-DETR": "rf_detr"}  # their own defaults have no backbone that their class takes
TEACHERS = (
    "torchvision:retinanet_resnet50_fpn_v2",
    "torchvision:fcos_resnet50_fpn",
    "torchvision:fasterrcnn_resnet50_fpn_v2",
    "torchvision:maskrcnn_resnet50_fpn",
    "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn",
    "torchvision:ssd300_vgg16",
    "torchvision:ssdlite320_mobilenet_v3_large",
    "transformers:RT-DETR",
    "transformers:RT-DETRv2",
    "transformers:D-FINE",
    "transformers:DEIMv2",
    "transformers:RF-DETR",
    "timm:mobilenetv4_conv_small",
    "timm:convnext_atto",
    "timm:swin_tiny_patch4_window7_224",
    "timm:vit_tiny_patch16_224",
)
STUDENTS = (
    "torchvision:retinanet_resnet50_fpn_v2",
    "torchvision:fcos_resnet50_fpn",
    "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn",
    "transformers:RT-DETR",
    "transformers:RT-DETRv2",
    "transformers:D-FINE",
    "gfl_r50 on timm:mobilenetv4_conv_small",
    "faster_rcnn_r50 on timm:hgnetv2_b0",
)


def known_rows(heading: str) -> dict[str, list[str]]:
    """The rows of the table below a heading of the page, by model."""
    part = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line[:3] == "| `"]
    return {row[0].strip("`"): row[1:] for row in rows}


def train(tmp_path: Path, recipe: Path, data: Path, *values: str) -> tuple[str, int]:
    """Run the script on two processes; returns what it printed and how many steps have finite losses."""
    output = tmp_path / "run"
    always = (f"schedule.max_steps={STEPS}", "schedule.epochs=1", "logging.log_every=1", "data.batch_size=2")
    words = [word for value in (*always, *values) for word in ("--set", value)]
    run = Run(
        "train", recipe, "--data", data, "--output", output, "--cpu", "--threads", 1, *words,
        said=tmp_path / "said", processes=2,
    )  # fmt: skip
    run.finish(600)
    steps = [line for line in log_lines(output) if "loss" in line]
    assert all(line["loss_pkd"] > 0 for line in steps)
    return run.text(), len(steps)


def folder_of(name: str, tmp_path: Path) -> str:
    """A name as the script takes it; transformers' own config goes into a folder."""
    library, _, kind = name.partition(":")
    if library != "transformers":
        return name
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / kind
    config = tiny_model(TINY[kind]).config if kind in TINY else getattr(transformers, CONFIGS[kind])()
    config.save_pretrained(folder)
    size = {"height": 112, "width": 112} if kind == "RF-DETR" else {"height": 128, "width": 160}
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": size}))
    return f"transformers:{folder}"


def measured(printed: str, role: str) -> tuple[str, str, str]:
    """Strides, channels and preparation of the images of a teacher or student, as the run prints them."""
    maps = re.findall(r"stride (\d+) x (\d+) channels", re.search(rf"maps +{role} (.+)", printed)[1])  # type: ignore[index]
    size = r"(, stretched to \d+ x \d+)?(?:;|\n)"
    pixels = re.search(rf"pixels .*{role} rgb, mean ([\d. ]+), std [\d. ]+?{size}", printed)
    assert pixels is not None
    mean = "0 to 1" if pixels[1] == "0 0 0" else f"mean {pixels[1]}"
    resized = "stretched to its input size" if pixels[2] else "as they are"
    strides, widths = ", ".join(s for s, _ in maps), [width for _, width in maps]
    return strides, ", ".join(widths if len(set(widths)) > 1 else widths[:1]), f"{resized}, {mean}"


def compare(heading: str, name: str, row: Sequence[str], steps: int) -> None:
    print(f"\n| `{name}` | " + " | ".join(row) + " |")
    assert known_rows(heading).get(name) == list(row)
    assert steps == STEPS


@pytest.mark.parametrize("name", TEACHERS)
def test_a_row_of_a_teacher(name: str, recipe: Path, shapes: Path, tmp_path: Path) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    teacher = {"teacher": folder_of(name, tmp_path), "methods": {"pkd": {"adapter": True}}, "teacher_weights": "random"}
    printed, steps = train(tmp_path, recipe, shapes, f"distill={json.dumps(teacher)}")
    compare("What teaches", name, measured(printed, "teacher"), steps)


@pytest.mark.parametrize("name", STUDENTS)
def test_a_row_of_a_student(name: str, recipe: Path, shapes: Path, tmp_path: Path) -> None:
    detector, _, backbone = name.partition(" on ")
    if backbone:
        pytest.importorskip("timm")
        model = [f"model={detector}", f"model_args={json.dumps({'backbone': backbone})}"]
    else:
        model = [f"model={folder_of(name, tmp_path)}"]
    teacher = {"teacher": "gfl_r10w16", "methods": {"pkd": {"adapter": True}}, "teacher_weights": "random"}
    printed, steps = train(tmp_path, recipe, shapes, *model, f"distill={json.dumps(teacher)}")
    compare("What learns", name, measured(printed, "student"), steps)
