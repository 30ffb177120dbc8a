"""metrics.json is whole or absent, and says only what JSON can."""

from __future__ import annotations

import json
import os

import pytest

from pkdzoo.evaluation import write_metrics


def test_round_trip(tmp_path):
    metrics = {"AP": 37.25, "APs": None, "per_class": {"Café": 1.0}}
    path = write_metrics(tmp_path / "new" / "metrics.json", metrics, model="retina_r50", command="x")
    assert json.loads(path.read_text()) == {"model": "retina_r50", "command": "x", **metrics}
    assert os.listdir(path.parent) == ["metrics.json"]


def test_an_older_file_is_replaced_whole(tmp_path, monkeypatch):
    path = write_metrics(tmp_path / "metrics.json", {"AP": 1.0})
    write_metrics(path, {"AP": 2.0})
    assert json.loads(path.read_text()) == {"AP": 2.0}

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_metrics(path, {"AP": 3.0})
    assert json.loads(path.read_text()) == {"AP": 2.0}
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="'AP' is already in the metrics"):
        write_metrics(tmp_path / "a.json", {"AP": 1.0}, AP=2.0)
    with pytest.raises(ValueError, match="write None for an unknown value"):
        write_metrics(tmp_path / "a.json", {"AP": float("nan")})
    assert os.listdir(tmp_path) == []
