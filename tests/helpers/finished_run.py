"""A finished run with its teacher and its plain student, as training leaves them, and the files published of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import pkdzoo
from pkdzoo.checkpoints import save_safetensors
from pkdzoo.evaluation import write_metrics
from pkdzoo.training import Data, Distill, Recipe
from pkdzoo.training.provenance import about_teacher

FILES = ["LICENSE", "README.md", "config.json", "metrics.json", "model.safetensors", "preprocessor_config.json"]
OF_A_RUN = sorted([*FILES, "predictions.png", "recipe.json"])
NAMES = ["circle", "square"]


def saved(folder: Path, arch: str, metrics: dict[str, Any] | None = None, **about: Any) -> Path:
    pkdzoo.create_detector(arch, label_names=NAMES, resize=(64, 96)).save_pretrained(folder)
    if metrics is not None:
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        write_metrics(folder / "metrics.json", metrics, **about, weights_sha256=digest)
    return folder


def finished_run(tmp_path: Path) -> Path:
    """A finished run as training leaves it, one of two, with everything that must not be published."""
    demo = tmp_path / "home" / "annsmith" / "runs" / "demo"
    command = f"{tmp_path}/annsmith/pkdzoo/recipes/train.py recipes/mine.py --output {demo} --set optim.lr=0.1"
    big = tmp_path / "annsmith" / "big"
    measured = f"/annsmith/recipes/evaluate.py {big / 'best'} --data /data/shapes"
    teacher = saved(big / "best", "fcos_r10w16", {"AP": 55.25}, command=measured)
    (big / "recipe.json").write_text(json.dumps(Recipe("big_teacher", "fcos_r10w16").to_dict()))
    distill = Distill(f"local-dir:{teacher}", {"pkd": {"weight": 6.0, "levels": 4}})
    plain = Recipe("plain", "retina_r10w16", data=Data(generate={"train": 9}), seed=3)
    metrics = {"AP": 31.5, "AP50": 60.0, "APl": None, "AR100": 44.0, "per_class": {"circle": 40.0, "square": 23.0}}
    about = {
        "command": command,
        "pkdzoo": "1.0",
        "torch": "2.6",
        "step": 5,
        "images": 7,
        "annotations_sha256": "ab12",
    }
    for recipe in (plain, replace(plain, name="distilled", distill=distill)):
        output = demo / recipe.name
        for folder in ("best", "last"):
            timed = {"ms_per_image": 12.345, "hardware": "1 x H200"}
            saved(output / folder, "retina_r10w16", metrics, **about, **timed)
        (output / "recipe.json").write_text(json.dumps(recipe.to_dict()))
        taught = {} if recipe.distill is None else {"teacher": about_teacher(recipe.distill)}
        (output / "run.json").write_text(json.dumps({**about, **taught}))
    rows = [("big", "teacher", 55.25), ("plain", "plain", 20.0), ("distilled", "distilled", 31.5)]
    comparison = [{"name": name, "role": role, "AP": ap} for name, role, ap in rows]
    (demo / "comparison.json").write_text(json.dumps(comparison))
    Image.new("RGB", (8, 8)).save(demo / "predictions.png")
    (output / "log.jsonl").write_text('{"loss": 1}\n')
    checkpoint = output / "checkpoints" / "step_00000005"
    checkpoint.mkdir(parents=True)
    torch.save({"optimizer": {}}, checkpoint / "rest.pt")
    save_safetensors(pkdzoo.create_detector("retina_r10w16").state_dict(), checkpoint / "model.safetensors")
    return output


def names_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
