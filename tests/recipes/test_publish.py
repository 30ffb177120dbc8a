"""From a run, a registered name or a file to the folder that is published, and nothing else of them."""

from __future__ import annotations

import hashlib
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from foreign import checkpoint, register, tensors
from scripts import ROOT

import pkdzoo
from pkdzoo.checkpoints import save_safetensors
from pkdzoo.evaluation import write_metrics
from pkdzoo.registry import Weights
from pkdzoo.training import Data, Distill, Recipe
from pkdzoo.training.publish import prepare

FILES = ["README.md", "config.json", "metrics.json", "model.safetensors", "preprocessor_config.json"]
NAMES = ["circle", "square"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run as training leaves it, with everything that is nobody's business."""
    output = tmp_path / "home" / "annsmith" / "runs" / "a"
    teacher = pkdzoo.create_detector("fcos_r10w16", label_names=NAMES).save_pretrained(tmp_path / "annsmith" / "big")
    distill = Distill(f"local-dir:{teacher}", {"pkd": {"weight": 6.0}})
    recipe = Recipe("distilled", "retina_r10w16", data=Data(generate={"train": 9}), distill=distill, seed=3)
    student = pkdzoo.create_detector("retina_r10w16", label_names=NAMES)
    about = {"command": f"recipes/train.py x.py --output {output}", "pkdzoo": "1.0", "torch": "2.6", "step": 5}
    metrics = {"AP": 31.5, "AP50": 60.0, "per_class": {"circle": 40.0, "square": 23.0}}
    for folder in ("best", "last"):
        student.save_pretrained(output / folder)
        write_metrics(output / folder / "metrics.json", metrics, **about)
    (output / "recipe.json").write_text(json.dumps(recipe.to_dict()))
    (output / "log.jsonl").write_text('{"loss": 1}\n')
    state = output / "checkpoints" / "step_00000005"
    state.mkdir(parents=True)
    torch.save({"optimizer": {}}, state / "rest.pt")
    save_safetensors(student.state_dict(), state / "model.safetensors")
    return output


def names_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_of_a_run(run: Path, tmp_path: Path) -> None:
    folder = prepare(str(run), tmp_path / "out", "org/pets", license="MIT", teacher_license="MIT")
    assert names_in(folder) == FILES
    for path in folder.iterdir():  # what is published knows nothing of where it was made
        content = path.read_bytes()
        for word in (str(tmp_path), "annsmith", "optimizer", "/home/", "local-dir:"):
            assert word.encode() not in content, (path.name, word)
    provenance = json.loads((folder / "config.json").read_text())["pkdzoo_cfg"]["provenance"]
    assert provenance["teacher"] == "big"
    assert provenance["methods"] == {"pkd": {"weight": 6.0}}
    assert (provenance["recipe"], provenance["seed"], provenance["torch"]) == ("distilled", 3, "2.6")
    assert len(provenance["teacher_sha256"]) == 64
    card = (folder / "README.md").read_text()
    assert "Taught by `big` with pkd" in card
    assert "| circle | 40.0 |" in card
    assert "generated shapes" in card
    assert "Source: `recipes/train.py x.py --output a`." in card
    assert pkdzoo.create_detector(f"local-dir:{folder}").label_names == tuple(NAMES)


@pytest.mark.parametrize(
    ("given", "whose"), [({"teacher_license": "MIT"}, "the weights"), ({"license": "MIT"}, r"the teacher \(big\)")]
)
def test_unknown_licences(run: Path, tmp_path: Path, given: dict[str, str], whose: str) -> None:
    with pytest.raises(ValueError, match=f"licence of {whose} is unknown"):
        prepare(str(run), tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_of_registered_names_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = checkpoint(tensors(pkdzoo.create_detector("retina_r10w16")))
    file = tmp_path / "published.pth"
    file.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    row = Weights("coco_1x", url=file.as_uri(), sha256=digest[:8], metrics={"AP": 1.5}, source="them", license="MIT")
    register(monkeypatch, row)
    monkeypatch.setenv("PKDZOO_CACHE", str(tmp_path / "cache"))
    by_file = prepare(str(file), tmp_path / "b", "org/b", arch="test_retina.coco_1x")
    card = (by_file / "README.md").read_text()
    assert digest in card
    assert "Source: them." in card
    assert names_in(by_file) == [".eval_results/coco-2017.yaml", *FILES]
    file.write_bytes(checkpoint(tensors(pkdzoo.create_detector("retina_r10w16"), 1)))
    with pytest.raises(ValueError, match=r"published\.pth is not test_retina\.coco_1x: its SHA-256 begins with"):
        prepare(str(file), tmp_path / "c", arch="test_retina.coco_1x")
    file.write_bytes(content)
    register(monkeypatch, Weights("coco_1x", url="https://host/zoo/x.pth", sha256=digest[:8], license="MIT"))
    monkeypatch.setenv("PKDZOO_MIRROR", str(tmp_path))
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "x.pth").write_bytes(content)
    by_name = prepare("test_retina.coco_1x", tmp_path / "a", "org/a")
    assert "converted from: <https://host/zoo/x.pth>" in (by_name / "README.md").read_text()
    assert (by_name / "model.safetensors").read_bytes() == (by_file / "model.safetensors").read_bytes()


def test_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="for a checkpoint file write --arch"):
        prepare(str(tmp_path / "x.pth"), tmp_path / "out")


def publish(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["publish.py", *map(str, words)])
    runpy.run_path(str(ROOT / "recipes" / "publish.py"), run_name="__main__")


def test_dry_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = (run, "--repo", "org/pets", "--dry-run", out, "--license", "MIT", "--teacher-license", "MIT")
    publish(monkeypatch, *words)
    assert names_in(out) == FILES
    assert "model.safetensors" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"error: .*licence of the weights is unknown.*--license"):
        publish(monkeypatch, run, "--repo", "org/pets", "--dry-run", tmp_path / "other")


def test_the_script_is_short() -> None:
    assert len((ROOT / "recipes" / "publish.py").read_text().splitlines()) <= 30
