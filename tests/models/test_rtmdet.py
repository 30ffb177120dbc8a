"""RTMDet: MMYOLO's dialect against its originals, checkpoints of every layout, sizes, and what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.kd_reference import tiny_batch
from helpers.reference import (
    GOLDEN,
    batch_for,
    checkpoint,
    error_of,
    gradient_error,
    load,
    made_image,
    matched_share,
    overlap_error,
    print_row,
)
from torch import Tensor
from torchvision.ops import box_iou

import pkdzoo
from pkdzoo.structures import Letterbox
from pkdzoo.training import Distill
from pkdzoo.training.provenance import method_settings

NAMES = sorted(path.stem for path in (GOLDEN / "mmyolo").glob("*.json"))
TOLERANCES = {"features": 1e-3, "head": 1e-3, "unmatched": 0.02, "loss": 1e-4, "gradients": 1e-3, "overlaps": 1e-4}


def weights_of(case: dict[str, Any]) -> dict[str, Tensor]:
    """A checkpoint in mmdetection's names; MMYOLO's files share shapes and statistics with mmdetection's."""
    twin = load(case["weights_of"])
    return checkpoint(twin["state_dict"], case["seed"], {**twin["rules"], **case["rules"]})


def tiny(name: str = "rtmdet_tiny", **args: Any) -> pkdzoo.Detector:
    """A detector of 16 to 128 channels."""
    torch.manual_seed(0)
    return pkdzoo.create_detector(name, **{"num_classes": 3, "width": 0.125, "depth": 0.167, **args})


@pytest.mark.parametrize("name", [n if n == "rtmdet_tiny" else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_equals_mmyolo(name: str) -> None:
    case = load(f"mmyolo/{name}")
    model = pkdzoo.load_checkpoint(pkdzoo.create_detector(f"{name}_yolo"), weights_of(case))
    assert sum(p.numel() for p in model.parameters()) == case["parameters"]
    batch = batch_for(model, case)
    trace = model.trace(batch)
    errors = {"features": max(map(error_of, trace.features.levels, load(case["weights_of"])["features"]))}
    parts = [trace.outputs.cls, trace.outputs.box]
    places = {key: key.split(".")[1:] for key in case["head"]}
    errors["head"] = max(error_of(parts[int(o)][int(at)], case["head"][key]) for key, (o, at) in places.items())
    scale = case["original_shapes"][0][0] / case["image_shapes"][0][0]
    shares = []
    for found, expected, size in zip(model.detect(batch), case["detections"], case["original_shapes"], strict=True):
        assert len(found) == len(expected["boxes"])
        shares.append(matched_share(found, expected, scale, size))
    errors["unmatched"] = 1 - min(shares)
    errors["overlaps"] = overlap_error(trace, case["assignment"])
    total = sum(trace.losses.values())
    errors["loss"] = abs(float(total.detach()) - case["total"]) / case["total"]
    total.backward()
    errors["gradients"] = gradient_error(model, case["grad_norms"])
    print_row(f"{name}_yolo", errors)
    for what, error in errors.items():
        assert error <= TOLERANCES[what], what


def test_boxes_reach_beyond_the_image_in_mmdetections_dialect_alone() -> None:
    image = torch.randint(0, 255, (3, 90, 133), dtype=torch.uint8)
    for name, beyond in (("rtmdet_tiny", True), ("rtmdet_tiny_yolo", False)):
        model = tiny(name, resize=(128, 128))
        for layer in model.head.box:  # boxes of 60 pixels around every location
            torch.nn.init.constant_(layer.bias, 60.0 / 8)
        boxes = model.predict(image, threshold=None).boxes
        assert bool((boxes[:, 3] > 90).any()) == beyond
        assert (boxes[:, 2] <= 133.5).all() and (boxes >= 0).all()


def as_mmyolo(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """MMYOLO's names for a checkpoint of RTMDet-tiny in mmdetection's."""
    names = {theirs: ours for ours, theirs in load("mmyolo/rtmdet_tiny")["mmyolo_keys"].items()}
    return {names.get(key, key): value for key, value in state.items()}


def test_checkpoints_of_every_layout(tmp_path: Path) -> None:
    state = weights_of(load("mmyolo/rtmdet_tiny"))
    once = {key: value for key, value in state.items() if not re.search(r"(cls|reg)_convs\.[12]\.\d\.conv", key)}
    assert len(state) - len(once) == 8
    wrapped = {f"architecture.{key}": value for key, value in as_mmyolo(state).items()}
    wrapped |= {f"teacher.{key}": torch.zeros(1) for key in as_mmyolo(state)}
    wrapped["distiller.connectors.fpn0_s.conv_module.conv.weight"] = torch.zeros(1)
    torch.save({"state_dict": wrapped, "meta": {"epoch": 300}}, tmp_path / "razor.pth")
    expected = pkdzoo.load_checkpoint(pkdzoo.create_detector("rtmdet_tiny_kd_s"), state).state_dict()
    for source in (once, as_mmyolo(state), as_mmyolo(once), wrapped, tmp_path / "razor.pth", expected):
        found = pkdzoo.load_checkpoint(pkdzoo.create_detector("rtmdet_tiny_kd_s"), source).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in found.items())


def test_levels_whose_shared_tensors_differ_are_refused() -> None:
    state = weights_of(load("mmyolo/rtmdet_tiny"))
    state["bbox_head.reg_convs.2.1.conv.weight"] = state["bbox_head.reg_convs.2.1.conv.weight"] + 1
    with pytest.raises(ValueError, match=r"reg_convs\.2\.1.* differs from the same layer of another level"):
        pkdzoo.load_checkpoint(pkdzoo.create_detector("rtmdet_tiny"), state)


def test_weights_of_the_other_dialect() -> None:
    table = load("mmdet/rtmdet_m")["state_dict"]
    state = {key: torch.zeros(()).expand(shape) for key, shape in table.items()}
    renamed = {key.replace("bbox_head.", "bbox_head.head_module."): value for key, value in state.items()}
    with pytest.raises(ValueError, match=r"MMYOLO's keys.*create_detector\('rtmdet_m_yolo'\), or dialect='mmyolo'"):
        pkdzoo.load_checkpoint(pkdzoo.create_detector("rtmdet_m"), renamed)
    pkdzoo.load_checkpoint(pkdzoo.create_detector("rtmdet_m", dialect="mmyolo"), renamed)
    with pytest.warns(UserWarning, match=r"mmdetection's keys.*create_detector\('rtmdet_m'\)"):
        pkdzoo.load_checkpoint(pkdzoo.create_detector("rtmdet_m_yolo"), state)
    with pytest.raises(ValueError, match="dialect='yolo': write one of 'mmdetection', 'mmyolo'"):
        pkdzoo.create_detector("rtmdet_m", dialect="yolo")


def test_only_mmdetections_large_sizes_predict_logarithms() -> None:
    with torch.device("meta"):
        names = [name for name in pkdzoo.list_detectors("rtmdet_*") if pkdzoo.create_detector(name).head.exponential]
    assert names == ["rtmdet_l", "rtmdet_m", "rtmdet_x"]


@pytest.mark.parametrize("name", ["rtmdet_tiny", "rtmdet_m_yolo"])
@pytest.mark.parametrize("size", [(33, 47), (64, 96), (100, 131)])
def test_images_of_any_size(name: str, size: tuple[int, int]) -> None:
    model = tiny(name, norm="gn")
    target = pkdzoo.Instances(torch.tensor([[5.0, 5.0, 30.0, 30.0]]), torch.tensor([1]))
    losses = model.train()(pkdzoo.Batch(torch.rand(2, 3, *size) * 255, [size, size], [target, target]))
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    pyramid = model.extract_features(pkdzoo.Batch(torch.rand(1, 3, *size) * 255, [size]))
    assert pyramid.sizes == [(-(-size[0] // s), -(-size[1] // s)) for s in (8, 16, 32)]


def test_a_side_of_the_letterbox_is_a_multiple_of_32() -> None:
    image = torch.zeros(3, 50, 60, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"multiple of 32, not 600: write e\.g\. 608"):
        tiny(resize=(600, 600)).predict(image)
    with pytest.raises(ValueError, match="multiples of 32"):
        tiny().predict(image, sizes=(600,))


def test_flipped_and_resized_views_agree_with_the_image() -> None:
    """A flipped image gives flipped boxes, wherever the image lies on its canvas."""
    image = torch.randint(0, 255, (3, 70, 121), dtype=torch.uint8)
    for name in ("rtmdet_tiny", "rtmdet_tiny_yolo"):
        model = tiny(name, resize=(128, 128))
        for layer in model.head.box:
            torch.nn.init.constant_(layer.bias, 20.0 / 8)
        everything: Any = {"threshold": None, "flip": True, "nms_threshold": 1.0, "max_detections": 5000}
        one = model.predict(image, **everything)
        other = model.predict(image.flip(-1), **everything)
        assert len(one) == len(other) > 300
        mirrored = torch.stack([121 - one.boxes[:, 2], one.boxes[:, 1], 121 - one.boxes[:, 0], one.boxes[:, 3]], 1)
        overlaps = box_iou(mirrored, other.boxes)
        assert overlaps.amax(dim=1).min() > 0.95
        assert len(model.predict(image, threshold=None, sizes=(96, 160))) > 0


def test_a_saved_detector_keeps_dialect_and_letterbox(tmp_path: Path) -> None:
    image = torch.randint(0, 255, (3, 70, 121), dtype=torch.uint8)
    for name in ("rtmdet_tiny", "rtmdet_m_yolo"):
        model = tiny(name, resize=(128, 128), letterbox=Letterbox(fill=7, place="center"))
        folder = model.save_pretrained(tmp_path / name)
        other = pkdzoo.from_pretrained(folder)
        assert other.letterbox == Letterbox(fill=7, place="center") and other.dialect == model.dialect
        assert torch.equal(other.predict(image, threshold=None).boxes, model.predict(image, threshold=None).boxes)
    config = json.loads((folder / "config.json").read_text())
    assert config["pkdzoo_cfg"]["letterbox"] == asdict(model.letterbox)


def test_cspnext_starts_from_its_imagenet_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of OpenMMLab's classifiers have a prefix and a head."""
    source = pkdzoo.create_detector("rtmdet_s").backbone.state_dict()
    content = {f"backbone.{key}": torch.full_like(value, 0.5) for key, value in source.items()}
    folder = tmp_path / "mmdetection" / "v3.0" / "rtmdet" / "cspnext_rsb_pretrain"
    folder.mkdir(parents=True)
    torch.save({"state_dict": {**content, "head.fc.weight": torch.zeros(1)}}, folder / "cspnext-s_imagenet_600e.pth")
    monkeypatch.setenv("PKDZOO_MIRROR", str(tmp_path))
    monkeypatch.setenv("PKDZOO_CACHE", str(tmp_path / "cache"))
    for name in ("rtmdet_s", "rtmdet_s_yolo", "gfl_cspnext_s"):
        model = pkdzoo.load_backbone(pkdzoo.create_detector(name))
        assert all((value == 0.5).all() for value in model.backbone.parameters())
    with pytest.raises(ValueError, match="no ImageNet weights for backbone 'cspnext_x'"):
        pkdzoo.load_backbone(pkdzoo.create_detector("rtmdet_x"))
    with pytest.raises(ValueError, match="for batch norm"):
        pkdzoo.load_backbone(pkdzoo.create_detector("rtmdet_s", norm="gn"))


@pytest.mark.parametrize("name", ["gfl_cspnext_s", "retina_r10w16", "atss_r10w16"])
def test_other_families_have_cspnext_and_its_pyramid(name: str) -> None:
    small = {"widen_factor": 0.125, "deepen_factor": 0.167, "norm": "gn", "neck_norm": "gn"}
    model = pkdzoo.create_detector(name, num_classes=3, backbone="cspnext_s", neck="pafpn", width=32, **small)
    batch = tiny_batch()
    losses = model.train()(batch)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.neck.strides == (8, 16, 32)
    with pytest.raises(ValueError, match="'fpn', 'pafpn'"):
        pkdzoo.create_detector(name, neck="bifpn")


def test_pkd_pairs_the_three_levels_that_both_have() -> None:
    student, teacher = tiny(), pkdzoo.create_detector("retina_r10w16", num_classes=3, width=32)
    distiller = pkdzoo.Distiller(student, teacher, {"pkd": {}})
    assert distiller.methods["pkd"].pairs.levels == [(0, 0), (1, 1), (2, 2)]
    assert method_settings(Distill("retina_r10w16", {"pkd": {}}), distiller)["pkd"]["levels"] == 3
    with pytest.raises(ValueError, match="levels=4, but by index only 3"):
        pkdzoo.Distiller(student, teacher, {"pkd": {"levels": 4}})


def test_detections_of_made_images_are_those_of_the_original() -> None:
    """From the image to boxes in its own pixels, which reach beyond it."""
    figures, table = load("preprocess_rtmdet"), load("mmdet/rtmdet_tiny")
    state = checkpoint(table["state_dict"], figures["seed"], {**table["rules"], **figures["rules"]})
    model = pkdzoo.load_checkpoint(pkdzoo.create_detector("rtmdet_tiny"), state)
    for expected in figures["detections"]:
        size = figures["sizes"][expected["picture"].partition("-")[2]]
        found = model.predict(made_image(expected["picture"], tuple(size)), threshold=None)
        assert len(found) == len(expected["boxes"])
        boxes = torch.tensor(expected["boxes"])
        fits = (box_iou(boxes, found.boxes) > 0.99) & (torch.tensor(expected["labels"])[:, None] == found.labels)
        fits &= (torch.tensor(expected["scores"])[:, None] - found.scores).abs() < 1e-3
        assert float(fits.any(dim=1).float().mean()) > 0.98
        if expected["picture"] == "blocks-large":
            assert boxes[:, 3].max() > size[0] + 20 and found.boxes[:, 3].max() > size[0] + 20
