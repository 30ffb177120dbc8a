"""Prediction in PyTorch against the exported file, and folders decoded ahead against a plain loop."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import pkdzoo
from pkdzoo.export import ExportedDetector, FixedSize, export_onnx

EAGER = {"retina_r50": (480, 640), "rtmdet_s": (640, 640)}  # canvas (height, width) by detector
FOLDER = ("rtmdet_tiny", 16, (1440, 1920))  # detector, number and size of the JPEG files


def eager_files(folder: Path) -> None:
    """Write the missing files of :func:`eager`."""
    for name, canvas in EAGER.items():
        if not (folder / f"eager_{name}.onnx").is_file():
            torch.manual_seed(0)
            export_onnx(made(name, canvas), folder / f"eager_{name}.onnx", fixed=FixedSize(*canvas))


def made(name: str, canvas: tuple[int, int]) -> pkdzoo.Detector:
    """A detector with random weights whose images have the size of a canvas."""
    return pkdzoo.create_detector(name, resize=(min(canvas), max(canvas)))


def eager(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Time ``predict`` of a detector, optimized as docs/detect.md says, and of its ONNX file, alternately.

    Returns:
        One row per detector: milliseconds of both with one thread, and the ratio of wall-clock and processor time.
    """
    torch.set_num_threads(1)
    pixels = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    rows = []
    for name, canvas in EAGER.items():
        torch.manual_seed(0)
        ours, exported = made(name, canvas).optimize(), ExportedDetector(folder / f"eager_{name}.onnx", 1)
        runs: dict[str, Callable[[], Any]] = {
            "PyTorch": lambda model=ours: model.predict(pixels),  # type: ignore[misc]
            "onnxruntime": lambda model=exported: model.predict(pixels),  # type: ignore[misc]
        }
        wall, cpu = alternately(runs, rounds)
        rows.append(
            {
                "name": name,
                "ms": {key: round(1000 * statistics.median(values), 1) for key, values in wall.items()},
                "ratio": ratio(wall),
                "cpu_ratio": ratio(cpu),
            }
        )
    return rows


def ratio(times: dict[str, list[float]]) -> float:
    """Median of the ratio of PyTorch's time to onnxruntime's, round by round."""
    pairs = zip(times["PyTorch"], times["onnxruntime"])
    return round(statistics.median(ours / theirs for ours, theirs in pairs), 2)


def alternately(
    runs: dict[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of wall-clock and of processor time of each call, one after the other in every round."""
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter(), time.process_time()
            run()
            wall[name].append(time.perf_counter() - start[0])
            cpu[name].append(time.process_time() - start[1])
    return wall, cpu


def folders(rounds: int) -> dict[str, Any]:
    """Images per second of a folder, decoded in turns with the network and ahead of it; one thread for the network."""
    name, count, (height, width) = FOLDER
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = pkdzoo.create_detector(name).optimize()
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            coarse = generator.integers(0, 255, (height // 24, width // 24, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(
                f"{folder}/{number:02}.jpg", quality=90
            )
        runs: dict[str, Callable[[], Any]] = {
            str(workers): lambda workers=workers: list(model.predict_stream(folder, workers=workers))  # type: ignore[misc]
            for workers in (0, 1)
        }
        wall, _ = alternately(runs, rounds)
    speed = {key: round(count / statistics.median(values), 2) for key, values in wall.items()}
    return {"name": name, "images": f"{count} JPEG files of {width} x {height}", "images per second": speed}
