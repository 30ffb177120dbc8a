"""``pkdzoo convert`` and ``pkdzoo push``: files of other programs in, folders and repositories out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import fails, run
from helpers.foreign_checkpoints import checkpoint, tensors
from helpers.loopback_hub import TOKEN, loopback_hub
from helpers.scripts import ROOT
from safetensors.torch import load_file

import pkdzoo


@pytest.fixture(scope="module")
def model() -> pkdzoo.Detector:
    model = pkdzoo.create_detector("retina_r10w16", label_names=("cat", "red fox"))
    model.load_state_dict(tensors(model))
    return model


@pytest.fixture
def file(model: pkdzoo.Detector, tmp_path: Path) -> Path:
    path = tmp_path / "epoch_12.pth"
    path.write_bytes(checkpoint(model.state_dict()))
    return path


def same(folder: Path, model: pkdzoo.Detector) -> None:
    opened = pkdzoo.create_detector(f"local-dir:{folder}")
    for key, value in model.state_dict().items():
        assert torch.equal(opened.state_dict()[key], value), key
    assert opened.label_names == model.label_names


class TestConvert:
    @pytest.mark.parametrize("layout", ["mmdetection", "mmrazor"])
    def test_a_foreign_file(
        self, capsys: pytest.CaptureFixture[str], model: pkdzoo.Detector, tmp_path: Path, layout: str
    ) -> None:
        (tmp_path / "a.pth").write_bytes(checkpoint(model.state_dict(), layout))
        (tmp_path / "names.txt").write_text("cat\nred fox\n")
        words = ("convert", tmp_path / "a.pth", tmp_path / "out", "--arch", "retina_r10w16")
        code, out, err = run(capsys, *words, "--labels", tmp_path / "names.txt")
        assert (code, err) == (0, "")
        assert out.startswith(f"{tmp_path / 'out'}: retina_r10w16, 2 classes, ")
        same(tmp_path / "out", model)

    def test_tensors_alone(
        self, capsys: pytest.CaptureFixture[str], model: pkdzoo.Detector, file: Path, tmp_path: Path
    ) -> None:
        start = ("convert", file, tmp_path / "new" / "a.safetensors")
        words = (*start, "--arch", "retina_r10w16", "--labels", "cat,red fox")
        parsed = json.loads(run(capsys, *words, "--json")[1])
        assert parsed["tensors"] == len(model.state_dict()) and parsed["label_names"] == ["cat", "red fox"]
        assert load_file(tmp_path / "new" / "a.safetensors").keys() == model.state_dict().keys()
        assert "exists already: choose another name" in fails(capsys, *words)

    def test_a_run(self, capsys: pytest.CaptureFixture[str], model: pkdzoo.Detector, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path / "run" / "best")
        assert run(capsys, "convert", tmp_path / "run", tmp_path / "out")[0] == 0
        same(tmp_path / "out", model)
        assert "is not empty: choose a new folder" in fails(capsys, "convert", tmp_path / "run", tmp_path / "out")

    @pytest.mark.parametrize(
        "meta", [{"CLASSES": ("cat", "red fox")}, {"dataset_meta": {"classes": ["cat", "red fox"]}}], ids=["2", "3"]
    )
    def test_class_names_in_a_file(
        self, capsys: pytest.CaptureFixture[str], model: pkdzoo.Detector, tmp_path: Path, meta: dict[str, Any]
    ) -> None:
        (tmp_path / "a.pth").write_bytes(checkpoint(model.state_dict(), **meta))
        words = (tmp_path / "a.pth", tmp_path / "out", "--arch", "retina_r10w16")
        assert run(capsys, "convert", *words)[0] == 0
        same(tmp_path / "out", model)
        start = ("push", tmp_path / "a.pth", "--arch", "retina_r10w16", "--repo", "org/pets", *TestPush.LICENSED)
        assert run(capsys, *start, "--dry-run", tmp_path / "b")[0] == 0
        same(tmp_path / "b", model)
        assert run(capsys, *start, "--labels", "dog,wolf", "--dry-run", tmp_path / "c")[0] == 0
        assert pkdzoo.from_pretrained(tmp_path / "c").label_names == ("dog", "wolf")
        assert "--labels belongs to a checkpoint file" in fails(
            capsys, "push", tmp_path / "c", "--repo", "org/pets", "--labels", "a,b", "--dry-run"
        )

    def test_lists_of_class_names(self, capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path) -> None:
        start = ("convert", file, tmp_path / "out", "--arch", "retina_r10w16", "--labels")
        for wrong in ("clases.txt", tmp_path / "names", "./names", "C:\\names"):
            assert "there is no such file: check the path" in fails(capsys, *start, wrong)
        (tmp_path / "data.yaml").write_text("names: [cat, dog]")
        assert "write a text file with one name per line" in fails(capsys, *start, tmp_path / "data.yaml")
        (tmp_path / "latin.txt").write_bytes("Bär\nFüchse".encode("latin-1"))
        assert "is no text in UTF-8" in fails(capsys, *start, tmp_path / "latin.txt")
        assert "it has no names" in fails(capsys, *start, ",")
        assert "'cat' occurs twice: write a name of its own" in fails(capsys, *start, "cat,cat")
        long = ",".join(f"a rather long class name {k}" for k in range(30))
        assert "model (270,)" in fails(
            capsys, *start, long
        )  # 9 anchors of 30 classes, and not an error of the file system
        assert not (tmp_path / "out").exists()

    def test_slips(self, capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        assert "write --arch NAME" in fails(capsys, "convert", file, out)
        assert "Did you mean retina_r10w16" in fails(capsys, "convert", file, out, "--arch", "retina_r10w61")
        assert "head." in fails(capsys, "convert", file, out, "--arch", "retina_r10w16", "--labels", "cat")
        assert "is not a file" in fails(capsys, "convert", tmp_path / "none.pth", out, "--arch", "retina_r10w16")
        assert "FILE.safetensors" in fails(capsys, "convert", file, tmp_path / "out.pth", "--arch", "retina_r10w16")
        assert "--labels on the command line" in fails(
            capsys, "convert", file, out, "--arch", "retina_r10w16", "--labels", "cat"
        )
        for name in ("a.PTH", "a.Onnx"):
            assert "does not write this format" in fails(
                capsys, "convert", file, tmp_path / name, "--arch", "retina_r10w16"
            )
        (tmp_path / "names").write_text("keep")
        for target in (tmp_path / "names", tmp_path / "names" / "below", tmp_path / "names" / "a.safetensors"):
            assert "and nothing can be written below it: choose another path" in fails(
                capsys, "convert", file, target, "--arch", "retina_r10w16"
            )
        assert (tmp_path / "names").read_text() == "keep"
        file.write_bytes(b"no checkpoint")
        assert "epoch_12.pth" in fails(capsys, "convert", file, out, "--arch", "retina_r10w16")
        assert not out.exists()


class TestPush:
    LICENSED = ("--license", "MIT", "--data", "pets", "--data-license", "MIT")

    def test_to_a_hub(self, model: pkdzoo.Detector, tmp_path: Path) -> None:
        """A process of its own: the Hub's client reads its settings when it is imported."""
        model.save_pretrained(tmp_path / "run" / "best")
        command = [sys.executable, "-m", "pkdzoo", "push", str(tmp_path / "run"), "--repo", "org/pets", "--json"]
        with loopback_hub() as hub:
            settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
            around = {**os.environ, **settings, "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
            around.pop("HF_HUB_OFFLINE", None)
            done = subprocess.run(
                [*command, *self.LICENSED], capture_output=True, text=True, env=around, timeout=300, cwd=tmp_path
            )
            assert done.returncode == 0, done.stderr
            parsed = json.loads(done.stdout)
            assert parsed["repository"] == "org/pets" and "model.safetensors" in parsed["files"]
            assert parsed["address"].startswith(hub.url)
            assert "model.safetensors" in done.stderr and "%|" not in done.stderr  # no bar where there is no terminal
            assert {"config.json", "model.safetensors", "README.md"} <= set(hub.files("org/pets"))

    def test_slips(self, capsys: pytest.CaptureFixture[str], model: pkdzoo.Detector, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path / "run" / "best")
        start = ("push", tmp_path / "run", "--repo")
        code, out, err = run(capsys, *start, "org/pets", "--dry-run", tmp_path / "a")
        assert code == 1 and out.startswith("---\n") and "--license ID --data-license ID" in err
        assert not (tmp_path / "a").exists()
        assert "write ORGANIZATION/NAME" in fails(capsys, *start, "pets", *self.LICENSED, "--dry-run")
        words = (*self.LICENSED, "--dry-run", tmp_path / "b")
        code, out, err = run(capsys, *start, "org/pets", *words)
        assert code == 0 and out.startswith("---\n") and f"the files are in {tmp_path / 'b'}" in err
        assert "is not empty" in fails(capsys, *start, "org/pets", *words)
        assert "no folder" in fails(capsys, "push", tmp_path / "rum", "--repo", "org/pets")
        (tmp_path / "file").write_text("keep")
        for target in (tmp_path / "file", tmp_path / "file" / "below"):
            words = (*self.LICENSED, "--dry-run", target)
            assert "and nothing can be written below it: choose another path" in fails(
                capsys, *start, "org/pets", *words
            )
        assert (tmp_path / "file").read_text() == "keep"
        assert run(capsys, "push", tmp_path / "run")[0] == 2
