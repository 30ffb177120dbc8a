"""Repositories on the Hub and folders on disk: config and tensors, pinned, cached, and nobody else's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.foreign_checkpoints import tensors
from helpers.serving import Served, serving

import pkdzoo
from pkdzoo.hub import files


@pytest.fixture
def server() -> Iterator[Served]:
    with serving() as served:
        yield served


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return tensors(pkdzoo.create_detector("retina_r10w16"))


def files_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


# -- the Hub ---------------------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LOAD = """
import json, sys, pkdzoo
from urllib.request import urlopen
for name in sys.argv[2:]:
    model = pkdzoo.create_detector(name)
    print(json.dumps([model.name, model.label_names, model.loaded_from]))
    urlopen(sys.argv[1] + "/loaded").close()
"""


@pytest.mark.slow  # tests/hub/test_loopback.py tests the same over one process
def test_a_repository_of_the_hub(server: Served, tmp_path: Path) -> None:
    model = pkdzoo.create_detector("retina_r10w16", label_names=["cat", "dog"])
    model.save_pretrained(tmp_path / "saved")
    for revision in ("main", COMMIT):
        for name in ("config.json", "model.safetensors"):
            server.put(f"/org/tiny/resolve/{revision}/{name}", (tmp_path / "saved" / name).read_bytes())
    server.put("/loaded", b"")
    server.headers["X-Repo-Commit"] = COMMIT
    env = {
        **os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(Path(pkdzoo.__file__).parent.parent), "OMP_NUM_THREADS": "1",
    }  # fmt: skip

    def load(*names: str, **more: str) -> list[list[str]]:
        """Requests for files of each load, in a process of its own: the client reads its settings when imported."""
        server.requests.clear()
        command = [sys.executable, "-c", LOAD, server.url, *names]
        run = subprocess.run(command, env={**env, **more}, capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr
        expected = [["retina_r10w16", ["cat", "dog"], name] for name in names]
        assert [json.loads(line) for line in run.stdout.splitlines()] == expected
        loads = " ".join(line for line in server.requests if "resolve" in line or "loaded" in line)
        return [re.findall(r"(\w+ \S+resolve\S+)", part) for part in loads.split("GET /loaded")[:-1]]

    first, warm, pinned = load("hf-hub:org/tiny", "hf-hub:org/tiny", f"hf-hub:org/tiny@{COMMIT}")
    assert len([line for line in first if line.startswith("GET")]) == 2
    assert warm == ["HEAD /org/tiny/resolve/main/config.json"]
    assert pinned == []
    assert load("hf-hub:org/tiny", HF_HUB_OFFLINE="1") == [[]]
    server.put("/org/tiny/resolve/main/config.json", b'{"architectures": ["DetrForObjectDetection"]}')
    server.requests.clear()
    command = [sys.executable, "-c", LOAD, server.url, "hf-hub:org/tiny"]
    run = subprocess.run(command, env={**env, "HF_HOME": str(tmp_path / "new")}, capture_output=True, text=True)
    assert "describes a model of another library" in run.stderr
    assert not any("safetensors" in line for line in server.requests)


# -- folders ---------------------------------------------------------------------------------------------------------


def test_folders_are_read_back(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    config = {"library_name": "pkdzoo", "label_names": ["Katze", "Füchse"]}
    files.save_folder(tmp_path / "a", state, config)
    found, tensors_found = files.read_folder(tmp_path / "a")
    assert found == config
    assert all(torch.equal(tensors_found[key], state[key]) for key in state)
    assert files_in(tmp_path / "a") == ["config.json", "model.safetensors"]


def test_folders_of_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"it has no config\.json"):
        files.read_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["DetrForObjectDetection"]}))
    with pytest.raises(ValueError, match="describes a model of another library"):
        files.read_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        files.read_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"library_name": "pkdzoo"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'touch x'\ntR.")
    with pytest.raises(FileNotFoundError, match="pickled weights beside it are never loaded"):
        files.read_folder(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="divided over several files"):
        files.read_folder(tmp_path)


def test_what_cannot_be_json_is_refused_before_anything_is_written(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.save_folder(tmp_path / "a", state, {"AP": float("nan")})
    assert files_in(tmp_path) == []
