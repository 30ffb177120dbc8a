"""From names to detectors: classes, channels, labels, folders, pairs, pyramids, ImageNet backbones."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.extras import skip_without_library
from helpers.foreign_checkpoints import checkpoint, register
from helpers.head_outputs import run_head

import pkdzoo
from pkdzoo.checkpoints import save_safetensors
from pkdzoo.data.labels import COCO_IDS, COCO_NAMES
from pkdzoo.hub.weights import Distilled
from pkdzoo.models import _registry
from pkdzoo.models._registry import Entry, find
from pkdzoo.structures import PixelNorm

TINY = [name for name in pkdzoo.list_detectors() if name.endswith(("r10w16", "r18w24"))]  # not evaluated


# -- names and arguments ---------------------------------------------------------------------------------------------


def test_names_that_nobody_has() -> None:
    with pytest.raises(ValueError, match=r"Did you mean .*retina_r50"):
        pkdzoo.create_detector("retina_r5")
    with pytest.raises(ValueError, match="write 'local-dir:FOLDER' or 'hf-hub:ORGANIZATION/NAME'"):
        pkdzoo.create_detector("someone/detector")
    with pytest.raises(ValueError, match=r"has no argument 'num_class'\. Did you mean num_classes"):
        pkdzoo.create_detector("retina_r10w16", num_class=3)
    with pytest.raises(ValueError, match="a whole number of classes, at least 1"):
        pkdzoo.create_detector("retina_r10w16", num_classes=0)


def test_other_names_for_trained_classes_are_told(tmp_path: Path) -> None:
    names = ["cat", "dog", "cow", "sheep", "horse", "pig"]
    with pytest.warns(
        UserWarning, match="fcos_r18w24 was trained to detect 'circle', .*what it detects stays the same"
    ):
        model = pkdzoo.create_detector("fcos_r18w24", pretrained=True, label_names=names)
    assert list(model.label_names) == names
    folder = model.save_pretrained(tmp_path / "mine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pkdzoo.create_detector(str(folder), label_names=names)
        pkdzoo.create_detector("fcos_r18w24", pretrained=True, label_names=names[:3])  # a new class layer
    with pytest.warns(UserWarning, match="was trained to detect 'cat'"):
        pkdzoo.from_pretrained(folder, label_names=names[::-1])


def test_folders_need_no_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path, a name in the current folder, and a run's folder, of which the best student is taken."""
    model = pkdzoo.create_detector("retina_r10w16", label_names=["a", "b"])
    model.save_pretrained(tmp_path / "runs" / "mine" / "last")
    best = model.save_pretrained(tmp_path / "runs" / "mine" / "best")
    monkeypatch.chdir(tmp_path)
    for name in (str(best), "runs/mine", "local-dir:runs/mine", str(tmp_path / "runs" / "mine" / "")):
        found = pkdzoo.create_detector(name)
        assert found.label_names == ("a", "b")
        assert Path(str(found.loaded_from).removeprefix("local-dir:")).resolve() == best.resolve()
    monkeypatch.chdir(tmp_path / "runs")
    assert pkdzoo.create_detector("mine").num_classes == 2
    (tmp_path / "runs" / "retina_r10w16").mkdir()  # a registered name stays one
    assert pkdzoo.create_detector("retina_r10w16").num_classes == 80


def test_folders_that_hold_no_detector(tmp_path: Path) -> None:
    missing = tmp_path / "rum"
    for open_it in (pkdzoo.create_detector, pkdzoo.from_pretrained):
        with pytest.raises(FileNotFoundError, match=f"there is no such folder: {missing}"):
            open_it(str(missing))
    with pytest.raises(FileNotFoundError, match=f"there is no such folder: {missing}"):
        pkdzoo.create_detector(f"local-dir:{missing}")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"is a run that has not saved a detector yet: .*--resume"):
        pkdzoo.create_detector(str(tmp_path / "run"))
    with pytest.raises(FileNotFoundError, match=r"neither config\.json nor a run's best/ or last/"):
        pkdzoo.create_detector(str(tmp_path))


def test_habits_of_other_libraries_are_answered() -> None:
    model = pkdzoo.create_detector("retina_r10w16")
    with pytest.raises(TypeError, match=r"losses of a pkdzoo\.Batch, not of a str: .*model\.predict\(image\)"):
        model("a.jpg")
    for call in (lambda: model.train(data="coco.yaml", epochs=3), lambda: model.train("coco.yaml")):
        with pytest.raises(
            TypeError, match=r"takes no data: to train, write model\.fit\(DATA\), or `pkdzoo train RECIPE"
        ):
            call()
    assert model.train().training and not model.train(False).training


def test_weights_that_nobody_has() -> None:
    with pytest.raises(
        ValueError,
        match=r"no weights for 'retina_r18_on_output' \(its tags: none\); retina detectors with weights: .*50\.coco_2x",
    ):
        pkdzoo.create_detector("retina_r18_on_output", pretrained=True)
    with pytest.raises(ValueError, match="its tags: coco_1x, coco_2x"):
        pkdzoo.create_detector("retina_r50.coco_3x", pretrained=True)


def test_paths_and_other_types_as_names(tmp_path: Path) -> None:
    folder = pkdzoo.create_detector("retina_r10w16", num_classes=2).save_pretrained(tmp_path / "saved")
    assert pkdzoo.create_detector(folder).num_classes == 2
    with pytest.raises(ValueError, match="None is no name"):
        pkdzoo.create_detector(None)  # type: ignore[call-overload]
    assert not pkdzoo.is_detector(None)  # type: ignore[arg-type]
    assert pkdzoo.list_detectors(None) == pkdzoo.list_detectors()  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [0, True, -1, 1.0])
def test_numbers_of_classes_that_cannot_be(classes: Any, tmp_path: Path) -> None:
    folder = pkdzoo.create_detector("retina_r10w16", num_classes=2).save_pretrained(tmp_path / "saved")
    for name, pretrained in (("fcos_r18w24.shapes", True), (folder, False), ("retina_r10w16", False)):
        with pytest.raises(ValueError, match="write a whole number of classes, at least 1"):
            pkdzoo.create_detector(name, pretrained=pretrained, num_classes=classes)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ({0: "a", 1: "b"}, r"label_names is a mapping: write its names in the order of the labels"),
        ({"a", "b"}, "has no order: write a list of names"),
        ([1, 2], "write a list of texts, one per class"),
    ],
)
def test_label_names_without_order_or_text(labels: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        pkdzoo.create_detector("retina_r10w16", label_names=labels)


@pytest.mark.parametrize(
    ("labels", "sentence"), [(["cat", "cat"], "'cat' occurs twice"), (["cat", " "], "the name of class 1 is empty")]
)
def test_label_names_that_do_not_tell_classes_apart(labels: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"label_names: {sentence}"):
        pkdzoo.create_detector("retina_r10w16", label_names=labels)


def test_label_names() -> None:
    model = pkdzoo.create_detector("retina_r10w16", label_names=["cat", "dog"])
    assert (model.num_classes, model.label_names) == (2, ("cat", "dog"))
    assert pkdzoo.create_detector("retina_r10w16", label_names="coco").label_names == COCO_NAMES
    with pytest.raises(ValueError, match="2 label names for 3 classes"):
        pkdzoo.create_detector("retina_r10w16", num_classes=3, label_names=["cat", "dog"])
    with pytest.raises(ValueError, match="unknown class names 'lvis'"):
        pkdzoo.create_detector("retina_r10w16", label_names="lvis")
    assert len(COCO_NAMES) == len(set(COCO_NAMES)) == len(COCO_IDS) == 80
    assert dict(zip(COCO_NAMES, COCO_IDS))["toothbrush"] == 90
    assert dict(zip(COCO_NAMES, COCO_IDS))["stop sign"] == 13


# -- other classes ---------------------------------------------------------------------------------------------------


def test_other_classes_keep_everything_else(row: Any) -> None:
    state = row()
    torch.manual_seed(0)
    model = pkdzoo.create_detector("test_retina", pretrained=True, num_classes=7)
    own = model.state_dict()
    assert model.class_parameters() == {"head.cls.weight", "head.cls.bias"}
    assert own["head.cls.weight"].shape[0] == 9 * 7
    assert float(own["head.cls.weight"].std()) == pytest.approx(0.01, rel=0.1)
    assert torch.allclose(own["head.cls.bias"].sigmoid(), torch.tensor(0.01))
    assert all(torch.equal(own[key], state[key]) for key in own if not key.startswith("head.cls."))
    assert model.label_names[0] == "class_0"


def test_other_classes_stay_strict(row: Any, tmp_path: Path) -> None:
    state = row()
    del state["neck.lateral.0.conv.bias"]
    (tmp_path / "file.pth").write_bytes(checkpoint(state))
    with pytest.raises(ValueError, match=r"1 missing: neck\.lateral\.0\.conv\.bias"):
        pkdzoo.create_detector("test_retina", pretrained=True, num_classes=7)


def test_weights_bring_the_image_size_that_they_were_trained_with(row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    row()
    weights = _registry.find("test_retina.coco_1x")[1]
    assert weights is not None
    entry = register(monkeypatch, replace(weights, resize=(96, 128)))
    model = pkdzoo.create_detector("test_retina", pretrained=True)
    assert (model.resize, model.overrides["resize"]) == ((96, 128), (96, 128)), "the second is what a folder keeps"
    assert pkdzoo.create_detector("test_retina", pretrained=True, resize=(64, 64)).resize == (64, 64)
    assert pkdzoo.create_detector("test_retina").resize != (96, 128), "without weights it is the architecture's"
    pair = Entry("test_pair", "test", entry.build, entry.args, (), Distilled("retina_r10w16", "test_retina", ("pkd",)))
    monkeypatch.setattr(_registry, "_ENTRIES", {**_registry._ENTRIES, "test_pair": pair})
    assert pkdzoo.create_teacher("test_pair", pretrained=True).resize == (96, 128)
    tagged = replace(pair, name="test_tagged", distilled=Distilled("retina_r10w16", "test_retina.coco_1x", ("pkd",)))
    monkeypatch.setattr(_registry, "_ENTRIES", {**_registry._ENTRIES, "test_tagged": tagged})
    assert pkdzoo.create_teacher("test_tagged", pretrained=False).resize == (96, 128)


HEADS = {find(name)[0].family: name for name in pkdzoo.list_detectors()}


@pytest.mark.parametrize("name", HEADS.values())
def test_every_class_dependent_tensor_is_named(name: str) -> None:
    skip_without_library(name)
    with torch.device("meta"):
        few, many = (pkdzoo.create_detector(name, num_classes=n) for n in (3, 5))
    other = many.state_dict()
    differ = {key for key, value in few.state_dict().items() if value.shape != other[key].shape}
    assert differ
    assert few.class_parameters() >= differ


# -- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_saved_and_read_back(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    pixel_norm = PixelNorm((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "bgr")
    model = pkdzoo.create_detector(
        name, label_names=["a", "b", "c"], resize=(320, 512), pixel_norm=pixel_norm, neck_norm="gn"
    )
    model.save_pretrained(tmp_path / "saved")
    again = pkdzoo.create_detector(f"local-dir:{tmp_path / 'saved'}")
    assert isinstance(again, type(model))
    assert (again.label_names, again.resize, again.channel_order) == (("a", "b", "c"), (320, 512), "bgr")
    assert again.postprocess_config == model.postprocess_config
    assert again.loaded_from == f"local-dir:{tmp_path / 'saved'}"
    images = torch.rand(1, 3, 64, 96) * 255
    assert all(torch.equal(a, b) for a, b in zip(run_head(model, images), run_head(again, images)))
    again.save_pretrained(tmp_path / "twice")
    assert (tmp_path / "twice" / "config.json").read_text() == (tmp_path / "saved" / "config.json").read_text()


def test_config_says_what_others_look_for(tmp_path: Path) -> None:
    pkdzoo.create_detector("retina_r10w16", label_names="coco").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "pretrained_cfg" not in config
    assert config["library_name"] == "pkdzoo"
    assert (config["id2label"]["79"], config["label_to_coco_id"]["79"]) == ("toothbrush", 90)


def test_saved_detectors_for_other_classes_and_channels(tmp_path: Path) -> None:
    model = pkdzoo.create_detector("fcos_r10w16", label_names=["a", "b"], in_chans=4)
    model.save_pretrained(tmp_path)
    again = pkdzoo.create_detector(f"local-dir:{tmp_path}")
    assert len(again.pixel_mean) == 4
    assert torch.equal(again.pixel_mean, model.pixel_mean)
    other = pkdzoo.create_detector(f"local-dir:{tmp_path}", num_classes=5, resize=(64, 64))
    assert (other.num_classes, other.resize) == (5, (64, 64))
    assert torch.equal(other.backbone.conv1.weight, model.backbone.conv1.weight)
    one = pkdzoo.create_detector(f"local-dir:{tmp_path}", in_chans=1)
    assert torch.allclose(one.backbone.conv1.weight, model.backbone.conv1.weight.sum(1, keepdim=True))


def test_what_could_not_be_read_again_is_not_saved(tmp_path: Path) -> None:
    model = pkdzoo.create_detector("retina_r10w16", num_classes=2)
    model.postprocess_config = replace(model.postprocess_config, score_threshold=-1.0)
    with pytest.raises(ValueError, match=r"could not be loaded again: config\.json: score_threshold=-1"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_letterbox_that_was_taken_off_stays_off(tmp_path: Path) -> None:
    model = pkdzoo.create_detector("rtmdet_w12", num_classes=2)
    assert model.letterbox is not None
    model.letterbox = None
    assert pkdzoo.from_pretrained(model.save_pretrained(tmp_path / "saved")).letterbox is None


def test_saved_folders_are_read_strictly(tmp_path: Path) -> None:
    model = pkdzoo.create_detector("retina_r10w16", num_classes=2)
    model.save_pretrained(tmp_path)
    state = dict(model.state_dict())
    state["extra"] = state.pop("head.box.bias")
    save_safetensors(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 missing: head\.box\.bias; 1 unexpected: extra"):
        pkdzoo.create_detector(f"local-dir:{tmp_path}")


# -- pairs -----------------------------------------------------------------------------------------------------------


def test_pairs(row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    state = row()
    entry, _ = _registry.find("fcos_r10w16")
    student = Entry(
        "test_fcos_pkd_retina",
        "test",
        entry.build,
        entry.args,
        (),
        Distilled("fcos_r10w16", "test_retina.coco_1x", ("pkd",)),
    )
    monkeypatch.setattr(_registry, "_ENTRIES", {**_registry._ENTRIES, student.name: student})
    learner, teacher = pkdzoo.create_pair("test_fcos_pkd_retina", num_classes=4)
    assert (learner.name, learner.num_classes) == ("test_fcos_pkd_retina", 4)
    assert (teacher.name, teacher.num_classes) == ("test_retina", 80)
    assert all(torch.equal(value, state[key]) for key, value in teacher.state_dict().items())
    _, untaught = pkdzoo.create_pair("test_fcos_pkd_retina", pretrained=False)
    assert untaught.loaded_from is None
    with pytest.raises(ValueError, match="no weights for 'test_fcos_pkd_retina'"):
        pkdzoo.create_pair("test_fcos_pkd_retina", pretrained=True)
    with pytest.raises(ValueError, match=r"'retina_r50' has no teacher\. Did you mean .*retina_r50_pkd"):
        pkdzoo.create_teacher("retina_r50")
    with pytest.raises(ValueError, match="write True, False or 'teacher'"):
        pkdzoo.create_pair("test_fcos_pkd_retina", pretrained="student")  # type: ignore[arg-type]


# -- the pyramid alone -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_features_only(name: str) -> None:
    torch.manual_seed(0)
    net = pkdzoo.create_detector(name, features_only=True)
    torch.manual_seed(0)
    model = pkdzoo.create_detector(name)
    images = torch.randint(0, 256, (2, 3, 97, 203), dtype=torch.uint8)
    with torch.no_grad():
        maps = net(images)
        batch = pkdzoo.Batch(images.float(), [(97, 203), (64, 128)])
        for image_maps, expected in ((net(batch), model.extract_features(batch).levels),):
            assert all(torch.equal(a, b) for a, b in zip(image_maps, expected, strict=True))
    assert [m.shape[1] for m in maps] == net.channels
    assert [tuple(m.shape[2:]) for m in maps] == [(-(-97 // s), -(-203 // s)) for s in net.strides]
    assert not any("head" in key for key, _ in net.named_parameters())
    with pytest.raises(ValueError, match=r"write image\[None\]"):
        net(images[0])


# -- cost ------------------------------------------------------------------------------------------------------------


def test_weights_are_loaded_without_drawing_numbers_first(row: Any) -> None:
    row()
    state = torch.get_rng_state()
    pkdzoo.create_detector("test_retina", pretrained=True)
    assert torch.equal(state, torch.get_rng_state())
    pkdzoo.create_detector("test_retina", pretrained=True, num_classes=3)
    assert not torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", ["fcos_r50_caffe_tricks", "reppoints_x101_dcn", "tood_r50", "faster_rcnn_r50"])
def test_any_family_takes_another_backbone(name: str) -> None:
    with torch.device("meta"):
        model = pkdzoo.create_detector(name, backbone="swin_t")
    assert type(model.backbone).__name__ == "Swin"
