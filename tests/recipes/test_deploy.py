"""The latency chart: its table, its list of who is ahead, and what ``pkdzoo list`` reads of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import run

import pkdzoo
from pkdzoo.data import make_shapes
from pkdzoo.maintain import pages
from recipes.benchmarks import deploy, deploy_page

ROOT = Path(__file__).parents[2]


def row(name: str, library: str, AP: float | None, *milliseconds: float) -> dict[str, Any]:
    names = ("onnxruntime, 1", "onnxruntime, 2", "openvino, 1", "openvino, 2")
    facts = {"parameters": 2_000_000, "operations": 3_000_000_000, "code": "c", "weights": "w", "source": "s"}
    times = {key: [value, 2 * value, 9] for key, value in zip(names, milliseconds)}
    return {"name": name, "library": library, "AP": AP, **facts, "ms": times}


ROWS = [
    row("a", "pkdzoo", 40.0, 50, 40, 45, 30),
    row("b", "other", 41.0, 46, 20, 44, 20),
    row("c", "pkdzoo", 45.0, 90, 60, 80, 50),
    row("d", "pkdzoo", None, 1, 1, 1, 1),
]


def test_who_is_ahead_and_who_is_not(tmp_path: Path) -> None:
    assert [each["name"] for each in deploy_page.frontier(ROWS)] == ["b", "c"]
    said = deploy_page.verdict(ROWS)
    assert "`a` (40.0 AP, 45 ms) loses to b (41.0 AP, 44 ms)." in said
    assert "`c` (45.0 AP, 80 ms): nothing here is better in both" in said and "`d`" not in said
    path = tmp_path / "run.json"
    about = {"machine": "M", "cores": 2, "vectors": "V", "packages": {"torch": "1"}, "load before": 0.1}
    path.write_text(json.dumps({"about": about, "rows": ROWS}))
    table = deploy_page.table(path)
    assert "| **b** | other | 41.0 | 46 (92) | 20 (40) | 44 (88) | 20 (40) | 2.0 | 3.0 | c | w |" in table
    assert deploy_page.latencies(path)["ms"] == {"a": 45, "c": 80, "d": 1}
    pytest.importorskip("matplotlib")
    deploy_page.plot({"rows": ROWS}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_the_command_sorts_by_the_recorded_run(capsys: pytest.CaptureFixture[str]) -> None:
    stored = json.loads((ROOT / pages.LATENCY).read_text())
    assert stored == deploy_page.latencies(), "run `python -m pkdzoo.maintain pages`"
    code, out, _ = run(capsys, "list", "rtmdet_*", "retina_r50", "--sort", "latency", "--json")
    listed = {item["name"]: item["ms"] for item in json.loads(out)}
    measured = [value for value in listed.values() if value is not None]
    assert code == 0 and measured == sorted(measured) and listed["retina_r50"] is None
    assert {name: value for name, value in listed.items() if value} == {
        name: value for name, value in stored["ms"].items() if name.startswith("rtmdet_")
    }
    assert "tiny" in run(capsys, "list", "rtmdet_tiny*", "--sort", "latency")[1]


def test_every_row_says_where_it_is_from() -> None:
    for name in [*deploy.OURS, *deploy.RIVALS]:
        facts = deploy.described(name)
        assert facts["code"] and facts["weights"] and facts["source"]
    assert all(name in pkdzoo.list_detectors() for name in deploy.OURS)


def test_images_of_other_libraries_are_scaled() -> None:
    image = torch.full((1, 3, 480, 640), 200, dtype=torch.uint8)
    boxed = deploy.resized(image, 320, letterbox=True)
    assert boxed.shape == (1, 3, 320, 320) and boxed[0, 0, :, 0].tolist() == [114] * 40 + [200] * 240 + [114] * 40
    assert torch.equal(deploy.resized(image, 96, letterbox=False), torch.full((1, 3, 96, 96), 200, dtype=torch.uint8))


def run_alone(*words: object) -> str:
    """What a Python program prints in a process of its own, which loads no other library than a user's would."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_parity_of_one_detector(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    data = make_shapes(tmp_path / "data", train=1, val=3, size=(96, 128))
    output = tmp_path / "parity.json"
    run_alone("-m", "recipes.benchmarks.parity", "--data", data, "--names", "fcos_r10w16", "--output", output)
    rows = json.loads(output.read_text())["rows"]
    assert [(each["format"], each["precision"].split()[0]) for each in rows] == [
        (kind, precision) for kind in ("onnx", "openvino") for precision in ("float32", "float16")
    ]
    for each in rows:
        assert each["detections"] > 0
        if each["precision"] == "float32":
            assert each["alone"] == 0 and each["pixels"] < 0.05 and each["score"] < 1e-4
    assert "| fcos_r10w16 | openvino | float32 |" in deploy_page.parity(output)


@pytest.mark.slow
def test_the_run(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    output = tmp_path / "deploy.json"
    words = ("--rows", "deploy", "--quick", "--files", tmp_path / "files", "--output", output)
    printed = run_alone("recipes/benchmark.py", *words)
    (found,) = json.loads(output.read_text())["rows"]
    assert found["name"] == "rtmdet_tiny" and set(found["ms"]) == {
        f"{runtime}, {threads}" for runtime in deploy.RUNTIMES for threads in deploy.THREADS
    }
    assert all(0 < median <= late and count >= 2 for median, late, count in found["ms"].values())
    assert "rtmdet_tiny" in printed
