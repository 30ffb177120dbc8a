"""Fuzzing of the ``config.json`` of a saved detector."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fuzz.fuzzing import fuzz

import pkdzoo


@cache
def saved() -> tuple[bytes, bytes]:
    """Config and tensors of a small detector."""
    with TemporaryDirectory() as folder:
        model = pkdzoo.create_detector("retina_r10w16", num_classes=2, width=32, in_chans=4, depth=2)
        path = model.save_pretrained(folder)
        return (path / "config.json").read_bytes(), (path / "model.safetensors").read_bytes()


def read(path: Path) -> None:
    """Build the detector of a config beside the right tensors."""
    folder = path.parent / "saved"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(saved()[1])
    (folder / "config.json").write_bytes(path.read_bytes())
    pkdzoo.create_detector(f"local-dir:{folder}")


@pytest.mark.slow
def test_damaged_configs() -> None:
    content = saved()[0]
    dense = json.dumps(json.loads(content)).encode()
    report = fuzz(read, {"config.json": content, "dense.json": dense})
    assert report.cases > 50
    assert not report.findings, report
