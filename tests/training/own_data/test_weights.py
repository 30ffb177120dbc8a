"""Initial weights: what is tried, and what is said where they cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

import pkdzoo
from pkdzoo.hub.errors import DownloadError
from pkdzoo.training.own_data.weights import WeightsFinder


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """No network and an empty cache; returns the links that are tried."""
    tried: list[str] = []

    def fail(url: str, target: Path) -> str:
        tried.append(url)
        raise DownloadError(f"{url} could not be downloaded: no route. Download it yourself")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("PKDZOO_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("pkdzoo.hub.download.fetch_with_retries", fail)
    return tried


def test_without_a_network_all_wanted_weights_are_named_and_one_attempt_is_made(lines, without_network) -> None:
    finder = WeightsFinder("auto", ("a", "b"), lines.append)
    start = finder.start("student", "retina_r18")
    assert start.init is None and start.model_args == {"norm": "gn", "frozen_stages": 0} and not start.ready
    assert len(without_network) == 1 and finder.offline
    (line,) = lines
    assert line.startswith("student   retina_r18 FROM SCRATCH, which needs more images and time: retina_r18.coco_1x: ")
    assert "resnet18-f37072fd.pth" in line and "--init FILE" in line and "--init none" in line
    finder.start("teacher", "gfl_r50.coco_1x")
    assert len(without_network) == 1 and "gfl_r50.coco_1x: " in lines[-1]


def test_init_none_tries_nothing(lines, without_network) -> None:
    start = WeightsFinder("none", ("a",), lines.append).start("student", "rtmdet_tiny")
    assert (start.init, start.model_args, start.family) == (None, {}, "rtmdet")
    assert not without_network and lines == ["student   rtmdet_tiny from scratch, as --init none says"]


def test_weights_of_the_package_need_no_network(lines, without_network) -> None:
    finder = WeightsFinder("auto", ("a",), lines.append)
    assert finder.start("student", "fcos_r18w24").init == "fcos_r18w24.shapes"
    own = pkdzoo.create_detector("fcos_r18w24.shapes", pretrained=True).label_names
    assert WeightsFinder("auto", own, lines.append).start("teacher", "fcos_r18w24").ready
    assert not without_network


def test_a_saved_detector_keeps_its_architecture(lines, tmp_path) -> None:
    model = pkdzoo.create_detector("retina_r10w16", label_names=("a", "b"), width=32, resize=(64, 96))
    folder = model.save_pretrained(tmp_path / "saved")
    start = WeightsFinder("auto", ("a", "b"), lines.append).start("teacher", str(folder))
    assert (start.model, start.model_args, start.init) == ("retina_r10w16", {"width": 32}, f"local-dir:{folder}")
    assert start.ready and "has the classes of the data" in lines[0]
    assert not WeightsFinder("auto", ("b", "a"), lines.append).start("teacher", str(folder)).ready


@pytest.mark.parametrize("init", ["none", "imagenet", "weights.pth"])
def test_a_saved_student_starts_where_init_says(init: str, lines, tmp_path) -> None:
    model = pkdzoo.create_detector("retina_r10w16", label_names=("a", "b"), width=32, resize=(64, 96))
    folder = model.save_pretrained(tmp_path / "saved")
    start = WeightsFinder(init, ("a", "b"), lines.append).start("student", str(folder))
    assert (start.model, start.init) == ("retina_r10w16", None if init == "none" else init)
    assert start.model_args["width"] == 32 and not start.ready
    assert f"--init {init} says where it starts" in lines[0]
    assert WeightsFinder(init, ("a", "b"), lines.append).start("teacher", str(folder)).init == f"local-dir:{folder}"


def test_a_model_of_another_library_teaches_as_it_is(lines, without_network) -> None:
    start = WeightsFinder("auto", ("a",), lines.append).start("teacher", "torchvision:fcos_resnet50_fpn")
    assert start.ready and start.init == "torchvision:fcos_resnet50_fpn" and not without_network
    assert "teaches by its features as it is, whatever its classes are; it is not trained on the data" in lines[0]
