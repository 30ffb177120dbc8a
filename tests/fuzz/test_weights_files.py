"""Fuzzing of weights files: ``.pth`` in both containers, and safetensors."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import pytest
import torch
from fuzz.fuzzing import fuzz, mutate_bytes
from helpers.foreign_checkpoints import HistoryBuffer
from safetensors.torch import save

from pkdzoo.checkpoints import read_state_dict
from pkdzoo.checkpoints.wrappers import unwrap

STATE = {
    "a.weight": torch.arange(12.0).reshape(3, 4).t(),
    "a.bias": torch.ones(3, dtype=torch.float16),
    "b": torch.arange(5)[1:3],
    "c": torch.zeros(0, 4),
    "d": torch.tensor(True),
}


def read(path: Path) -> None:
    """Read a file of tensors, and use every number of them."""
    content = read_state_dict(path)
    for value in unwrap(content).values():
        value.double().sum() if not value.is_complex() else value.sum()


def saved(zipped: bool, protocol: int = 2) -> bytes:
    content = {"state_dict": STATE, "meta": {"history": HistoryBuffer(), "epoch": 3}}
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return buffer.getvalue()


def change_the_pickle(rng: random.Random, content: bytes) -> bytes:
    """Mutate one record of a zip archive, and write the archive again with valid checksums."""
    if content[:2] != b"PK":
        return mutate_bytes(rng, content)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(buffer, "w") as target:
        names = source.namelist()
        changed = "archive/data.pkl" if rng.random() < 0.9 else rng.choice(names)
        for name in names:
            record = source.read(name)
            target.writestr(name, mutate_bytes(rng, record) if name == changed else record)
    return buffer.getvalue()


@pytest.mark.slow
def test_pth_files() -> None:
    seeds = {"zip.pth": saved(True), "zip4.pth": saved(True, 4), "stream.pth": saved(False)}
    report = fuzz(read, seeds, mutate=change_the_pickle)
    assert report.cases > 100
    assert not report.findings, report


@pytest.mark.slow
def test_safetensors_files() -> None:
    content = save({key: value.contiguous() for key, value in STATE.items()}, {"format": "pt"})
    report = fuzz(read, {"file.safetensors": content, "file.pth": content})
    assert report.cases > 100
    assert not report.findings, report
