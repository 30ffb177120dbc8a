"""Configs of saved detectors that somebody edited, that a newer version wrote, or that are made to do harm."""

from __future__ import annotations

import json
import resource
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

import pkdzoo
from pkdzoo.structures import Letterbox
from pkdzoo.utils.strict_json import read_strict_json


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = pkdzoo.create_detector("retina_r10w16", num_classes=2)
    return model.save_pretrained(tmp_path_factory.mktemp("saved") / "a")


def edited(saved: Path, folder: Path, change: dict[str, Any], **settings: Any) -> str:
    """The name of a copy whose config has other values."""
    config = json.loads((saved / "config.json").read_text())
    config = {**config, **change, "pkdzoo_cfg": {**config["pkdzoo_cfg"], **change.get("pkdzoo_cfg", {}), **settings}}
    return written(saved, folder, json.dumps(config))


def written(saved: Path, folder: Path, text: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    (folder / "config.json").write_text(text)
    return f"local-dir:{folder}"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"args": [1]}, "args has the wrong type"),
    ({"label_names": 7}, "label_names has the wrong type"),
    ({"label_names": ["a"]}, "label_names: write 2 names, one per class"),
    ({"label_names": [1, 2]}, "label_names: write 2 names"),
    ({"architecture": ["a"]}, "architecture=.*: write a registered name"),
    ({"architecture": "retina_r99"}, "retina_r99"),
    ({"num_classes": 1e6}, "num_classes=1000000.0: write a whole number from 1"),
    ({"num_classes": 10**9}, "num_classes=1000000000: write a whole number from 1"),
    ({"num_classes": True}, "num_classes=True: write a whole number"),
    ({"num_classes": "2"}, "num_classes='2': write a whole number"),
    ({"num_classes": 3, "label_names": ["a", "b", "c"]}, "of another shape: head.cls"),
    ({"args": {"in_chans": 1e9}}, r"args\.in_chans=1000000000.0: write at most 1024"),
    ({"args": {"in_chans": 10**9}}, r"args\.in_chans=1000000000: write at most 1024"),
    ({"args": {"in_chans": 3.5}}, r"in_chans=3\.5: write a whole number of channels"),
    ({"args": {"in_chans": 4}}, "of another shape: backbone.conv1"),
    ({"args": {"depth": 10**6}}, r"args\.depth=1000000: write at most 100"),
    ({"args": {"depth": 99}}, "missing"),
    ({"args": {"depth": "4"}}, "arguments that cannot be used"),
    ({"args": {"width": 8192}}, "of another shape"),
    ({"args": {"width": -1}}, "arguments that cannot be used"),
    ({"args": {"width": [[256]]}}, "arguments that cannot be used"),
    ({"args": {"width": {"mean": "abc", "std": 1, "channel_order": 3}}}, "arguments that cannot be used"),
    ({"args": {"letterbox": {**asdict(Letterbox()), "fill": "x"}}}, "arguments that cannot be used"),
    ({"args": {"resize": "ab"}}, "resize='ab': write two whole numbers"),
    ({"args": {"later": 1}}, "no argument 'later'"),
    (
        {"args": {"pixel_norm": {"mean": [[1]], "std": [1], "channel_order": "rgb"}}},
        r"args\.pixel_mean=\[1\]: write num",
    ),
    ({"args": {"pixel_norm": {"mean": [], "std": [], "channel_order": "rgb"}}}, r"args\.pixel_mean=\[\]: write num"),
    ({"args": {"pixel_norm": [1]}}, r"args\.pixel_norm=\[1\]: write mean, std and channel_order"),
    ({"args": {"backbone": "x" * 2000}}, "a text of more than 1000 characters"),
]
SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"postprocess": {"later": 1}}, r"this version of pkdzoo cannot read its config.json: .*later"),
    ({"postprocess": [1]}, r"postprocess=\[1\]: write an object with score_threshold"),
    ({"postprocess": {"max_detections": -1}}, "max_detections=-1: write a whole number from 1"),
    ({"postprocess": {"pre_nms_top_k": -1}}, "pre_nms_top_k=-1: write a whole number from 1"),
    ({"postprocess": {"pre_nms_top_k": 1e3}}, "pre_nms_top_k=1000.0: write a whole number"),
    ({"postprocess": {"score_threshold": "0.5"}}, "score_threshold='0.5': write numbers from 0 to 1"),
    ({"postprocess": {"score_threshold": 50}}, "score_threshold=50: write numbers from 0 to 1"),
    ({"postprocess": {"nms_threshold": None}}, "nms_threshold=None: write numbers from 0 to 1"),
    ({"resize": "big"}, "resize='big': write two lengths"),
    ({"resize": [0, 64]}, "resize=0: write a whole number from 1"),
    ({"resize": [64.5, 64]}, "resize=64.5: write a whole number"),
    ({"pixel_mean": [0, 0, 0], "pixel_std": [0, 1, 1]}, "numbers above 0"),
    ({"pixel_mean": [0, 0]}, "2 pixel_mean and 3 pixel_std"),
    ({"pixel_mean": [0], "pixel_std": [1]}, "1 pixel_mean for 3 channels"),
    ({"pixel_mean": "abc"}, "pixel_mean='abc': write numbers"),
    ({"pixel_mean": [[1], 2, 3]}, "pixel_mean=.*: write numbers"),
    ({"channel_order": "gbr"}, "channel_order='gbr': write 'rgb' or 'bgr'"),
    ({"letterbox": {"place": "left"}}, r"letterbox\.place='left': write one of"),
    ({"proposals": {"max_proposals": 0}}, "max_proposals=0: write a whole number from 1"),
    ({"proposals": {"nms_threshold": 7}}, "nms_threshold=7: write numbers from 0 to 1"),
    ({"proposals": {"later": 1}}, "proposals has 'later'; it knows pre_nms_top_k"),
    ({"letterbox": {"fill": 300}}, r"letterbox\.fill=300: write numbers from 0 to 255"),
]


@pytest.mark.parametrize(("change", "says"), [*WRONG, *(({"pkdzoo_cfg": one}, says) for one, says in SETTINGS)])
def test_wrong_values_are_named_and_take_no_memory(
    saved: Path, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    name = edited(saved, tmp_path / "b", change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=says):
        pkdzoo.create_detector(name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB


TEXTS = {
    '{"library_name": "pkdzoo", "library_name": "pkdzoo"}': "has the key 'library_name' twice",
    '{"a": NaN}': "it has NaN: write a number",
    '{"a": -Infinity}': "it has -Infinity",
    '{"a": 1e999}': "the number 1e999, which is too large",
    '{"a": ' + "9" * 5000 + "}": "a number of more than 18 digits",
    '{"a": ' + "[" * 60 + "]" * 60 + "}": "nested deeper than 50",
    "[" * 200_000: "nested deeper than 50",
    '{"a": 1} text': "Extra data",
    "{": "is not JSON",
    '{"a": "' + "x" * (5 << 20) + '"}': "larger than 4 MiB",
}


@pytest.mark.parametrize("text", TEXTS, ids=list(TEXTS.values()))
def test_strange_json(saved: Path, tmp_path: Path, text: str) -> None:
    name = written(saved, tmp_path / "b", text)
    with pytest.raises(ValueError, match=TEXTS[text]):
        pkdzoo.create_detector(name)


def test_a_mark_of_the_byte_order_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, {"b": null}]}')
    assert read_strict_json(tmp_path / "a.json") == {"a": [1, 2.5, {"b": None}]}


@pytest.mark.parametrize(
    "change", [{"architecture": "yolo_v99"}, {"args": {"later": 1}}, {"pkdzoo_cfg": {"postprocess": {"later": 1}}}]
)
def test_what_a_newer_version_saved_is_told(saved: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    name = edited(saved, tmp_path / "b", {**change, "pkdzoo_version": "9.1.0"})
    with pytest.raises(ValueError, match=r"saved by pkdzoo 9\.1\.0, and this is .*: pip install --upgrade pkdzoo"):
        pkdzoo.create_detector(name)
    name = edited(saved, tmp_path / "c", {**change, "pkdzoo_version": "0.0.1"})
    with pytest.raises(ValueError, match=r"^(?!.*upgrade)"):
        pkdzoo.create_detector(name)
    assert pkdzoo.create_detector(edited(saved, tmp_path / "d", {"pkdzoo_version": "9.1.0"})).num_classes == 2


# -- detectors of which a part was replaced --------------------------------------------------------------------------


def test_a_detector_with_another_backbone_is_saved_by_its_arguments_only(tmp_path: Path) -> None:
    model = pkdzoo.create_detector("retina_r10w16", num_classes=2, backbone="r18", width=32)
    again = pkdzoo.from_pretrained(model.save_pretrained(tmp_path / "a"))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    model.backbone = pkdzoo.create_detector("retina_r10w16").backbone
    with pytest.raises(
        ValueError, match=r"cannot be saved, because backbone was replaced .*create_detector\(name, back"
    ):
        model.save_pretrained(tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_the_geometry_of_a_layer_counts_too(tmp_path: Path) -> None:
    """The same tensors with other strides: without a check the saved detector would give other boxes."""
    model = pkdzoo.create_detector("retina_r10w16", num_classes=2)
    model.backbone.conv1.stride = (4, 4)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="cannot be saved, because backbone was replaced or changed"):
        model.save_pretrained(tmp_path / "a")
