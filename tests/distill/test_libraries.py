"""Models of torchvision, transformers and timm as teachers by name; on random weights of the libraries' own classes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from helpers.kd_reference import tiny_batch, tiny_detector
from helpers.tiny_transformers import KINDS, tiny_model

import pkdzoo
from pkdzoo.checkpoints.io import save_safetensors
from pkdzoo.distill.adapters import teacher_of_library
from pkdzoo.hub.fetch import cache_folder
from pkdzoo.utils.files import sha256_of_file

SMALL = "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn"
SHAPES = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": (32, 32, 64),
    "fasterrcnn_resnet50_fpn_v2": (4, 8, 16, 32, 64),
    "fcos_resnet50_fpn": (8, 16, 32, 64, 128),
    "retinanet_resnet50_fpn_v2": (8, 16, 32, 64, 128),
    "ssdlite320_mobilenet_v3_large": (16, 32, 64, 128, 128, 256),
    "ssd300_vgg16": (8, 16, 32, 64, 128, 256),
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A D-FINE as transformers saves it."""
    pytest.importorskip("transformers")
    tiny_model("d_fine").save_pretrained(tmp_path / "dfine")
    return tmp_path / "dfine"


def learn(teacher: pkdzoo.Detector, **options: Any) -> dict[str, float]:
    """One step of PKD; returns the losses."""
    student = tiny_detector()
    distiller = pkdzoo.Distiller(student, teacher, {"pkd": {"adapter": True, **options}})
    losses = distiller(tiny_batch())
    sum(losses.values()).backward()
    assert all(p.grad is None for p in teacher.parameters()) and not teacher.training
    assert not any(key.startswith(("teacher", "frozen")) for key in distiller.state_dict())
    assert student.backbone.conv1.weight.grad.abs().sum() > 0
    return {key: float(value.detach()) for key, value in losses.items()}


LARGE = ("fasterrcnn_resnet50_fpn_v2", "fcos_resnet50_fpn", "retinanet_resnet50_fpn_v2", "ssd300_vgg16")


def marked(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in names]


@pytest.mark.parametrize("name", marked(SHAPES))
def test_detectors_of_torchvision_teach(name: str) -> None:
    teacher = pkdzoo.create_teacher(f"torchvision:{name}", pretrained=False)
    assert isinstance(teacher, pkdzoo.Teacher) and teacher.pyramid_shape.strides == SHAPES[name]
    assert teacher.two_stage == name.startswith("fasterrcnn") and teacher.loaded_from is None
    assert learn(teacher)["loss_pkd"] > 0


@pytest.mark.parametrize("name", marked(["retinanet_resnet50_fpn_v2", "ssdlite320_mobilenet_v3_large"]))
def test_maps_of_torchvision_are_those_of_its_own_forward(name: str) -> None:
    teacher = pkdzoo.create_teacher(f"torchvision:{name}", pretrained=False).double()
    net: Any = teacher.backbone
    seen: list[Any] = []
    net.backbone.register_forward_hook(lambda *args: seen.append(args[2]))
    image = (torch.rand(3, 320, 320, dtype=torch.float64) * 255).round()
    net.transform.min_size = (320,)  # so that the image keeps its size
    with torch.no_grad():
        net([image / 255])
        found = teacher.extract_features(pkdzoo.Batch(image[None], [(320, 320)])).levels
    pairs = list(zip(seen[0].values(), found, strict=True))
    same = [(own, level) for own, level in pairs if own.shape == level.shape]
    assert len(same) >= 4  # the coarsest of an SSD are brought to the student's sizes
    for own, level in same:
        torch.testing.assert_close(level, own, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_published_weights_are_built_as_torchvision_builds_them(tmp_path: Path, monkeypatch: Any) -> None:
    """With weights, torchvision takes other norms and another eps than without."""
    monkeypatch.setenv("PKDZOO_CACHE", str(tmp_path))
    row = torchvision.models.get_model_weights("retinanet_resnet50_fpn").DEFAULT
    torch.manual_seed(0)
    source = torchvision.models.detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    file = cache_folder() / "torchvision-retinanet_resnet50_fpn.coco_v1-eeacb38b.safetensors"
    save_safetensors(source, file)
    teacher = pkdzoo.create_teacher("torchvision:retinanet_resnet50_fpn")
    assert isinstance(teacher, pkdzoo.Teacher)
    norm: Any = teacher.backbone.backbone.body.bn1  # type: ignore[union-attr, operator]
    assert type(norm).__name__ == "FrozenBatchNorm2d" and norm.eps == 0
    state = teacher.backbone.state_dict()
    assert all(torch.equal(value, source[key]) for key, value in state.items())
    assert teacher.loaded_from == "torchvision:retinanet_resnet50_fpn.coco_v1"
    assert teacher.origin is not None and teacher.origin.sha256 == "eeacb38b" in row.url
    assert "get_state_dict" not in vars(type(row))  # torchvision is as it was


def test_weights_in_a_file(tmp_path: Path) -> None:
    name = "ssdlite320_mobilenet_v3_large"
    net: Any = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    file = tmp_path / "mine.safetensors"
    save_safetensors(net.state_dict(), file)
    teacher = teacher_of_library(f"torchvision:{name}", weights=file)
    assert teacher.origin is not None and teacher.origin.sha256 == sha256_of_file(file)
    assert teacher.loaded_from == "mine.safetensors"
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in teacher.backbone.state_dict().items())


def test_weights_of_timm_in_a_file(tmp_path: Path) -> None:
    """A file as timm saves it, with its classifier; a file of another network is refused."""
    timm = pytest.importorskip("timm")
    net, file = timm.create_model("test_resnet"), tmp_path / "mine.safetensors"
    save_safetensors(net.state_dict(), file)
    teacher: Any = teacher_of_library("timm:test_resnet", weights=file)
    assert torch.equal(teacher.backbone.network.state_dict()["conv1.0.weight"], net.state_dict()["conv1.0.weight"])
    assert teacher.origin.sha256 == sha256_of_file(file) and teacher.loaded_from == "mine.safetensors"
    save_safetensors({"conv1.0.bias": torch.zeros(3)}, file)
    with pytest.raises(ValueError, match=r"the weights of timm's test_resnet.* lack"):
        teacher_of_library("timm:test_resnet", weights=file)


def test_a_backbone_of_timm_takes_gray_images() -> None:
    pytest.importorskip("timm")
    teacher = pkdzoo.create_teacher("timm:test_resnet", pretrained=False, in_chans=1)
    assert teacher.pixel_mean.shape == (1,)
    assert teacher.extract_features(pkdzoo.Batch(torch.rand(1, 1, 64, 64) * 255, [(64, 64)])).levels[0].shape[2] == 16
    with pytest.raises(ValueError, match="in_chans"):
        pkdzoo.create_teacher("timm:test_resnet", pretrained=False, in_chans=0)


@pytest.mark.parametrize("kind", [k if k == "d_fine" else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
def test_detectors_of_transformers_teach(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    net = tiny_model(kind)
    net.save_pretrained(tmp_path / kind)
    (tmp_path / kind / "README.md").write_text("---\nlicense: apache-2.0\ntags:\n- vision\n---\n# Model\n")
    teacher = pkdzoo.create_teacher(f"transformers:{tmp_path / kind}", input_size=(128, 160))
    assert isinstance(teacher, pkdzoo.Teacher) and teacher.origin is not None
    assert teacher.pyramid_shape.strides == (8, 16, 32) and teacher.pyramid_shape.channels == (32,) * 3
    assert (teacher.origin.name, teacher.origin.license) == (f"transformers:{kind}", "apache-2.0")
    assert teacher.origin.sha256 == sha256_of_file(tmp_path / kind / "model.safetensors")
    images = torch.rand(2, 3, 128, 160)
    with torch.no_grad():
        own = net(images).encoder_last_hidden_state
        found = teacher.extract_features(pkdzoo.Batch(images * 255, [(128, 160)] * 2)).levels
    for one, other in zip(own, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert learn(teacher)["loss_pkd"] > 0


@pytest.mark.parametrize(
    ("kind", "size"), [pytest.param("deimv2", (128, 160), marks=pytest.mark.slow), ("rf_detr", (112, 140))]
)
def test_maps_of_other_transformers_are_those_of_its_own_forward(
    kind: str, size: tuple[int, int], tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    net, seen = tiny_model(kind), []
    net.save_pretrained(tmp_path / kind)
    (tmp_path / kind / "preprocessor_config.json").write_text('{"do_normalize": false}')
    teacher = pkdzoo.create_teacher(f"transformers:{tmp_path / kind}", input_size=size)
    assert isinstance(teacher, pkdzoo.Teacher)
    part = net.model.encoder if kind == "deimv2" else net.model.backbone
    part.register_forward_hook(lambda *args: seen.append(args[2]))
    images = torch.rand(2, 3, *size)
    with torch.no_grad():
        net(images)
        found = teacher.extract_features(pkdzoo.Batch(images * 255, [size] * 2)).levels
    own = seen[0].feature_maps if kind == "deimv2" else [seen[0][0]]
    assert teacher.pyramid_shape.strides == ((8, 16, 32) if kind == "deimv2" else (14,))
    for one, other in zip(own, found, strict=True):
        torch.testing.assert_close(one / one.abs().max(), other / one.abs().max(), rtol=1e-3, atol=1e-4)
    assert learn(teacher)["loss_pkd"] > 0
    with pytest.raises(ValueError, match="cannot be a student"):
        pkdzoo.Student.transformers(net)
    divisor = 32 if kind == "deimv2" else 28
    with pytest.raises(ValueError, match=f"multiples of {divisor} up to 4096: write teacher_args="):
        pkdzoo.create_teacher(f"transformers:{tmp_path / kind}", input_size=[100, 160])


def test_the_input_is_that_of_the_preprocessor(saved: Path) -> None:
    teacher = pkdzoo.create_teacher(f"transformers:{saved}", pretrained=False)
    assert isinstance(teacher, pkdzoo.Teacher) and teacher.input_size == (640, 640)
    assert teacher.pixel_mean.tolist() == [0] * 3 and teacher.pixel_std.tolist() == [255] * 3
    (saved / "preprocessor_config.json").write_text('{"size": 96, "do_rescale": false}')  # the model takes 0..255
    teacher = pkdzoo.create_teacher(f"transformers:{saved}", pretrained=False)
    assert isinstance(teacher, pkdzoo.Teacher) and teacher.input_size == (96, 96)
    assert teacher.pixel_std.tolist() == [1] * 3
    (saved / "preprocessor_config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"transformers:.*holds a list"):
        pkdzoo.create_teacher(f"transformers:{saved}", pretrained=False)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"backbone_config": {"model_type": "hgnet_v2", "auto_map": {"AutoConfig": "evil.C"}}}, "runs code of its own"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "is quantized: take its weights in float32"),
        ({"backbone": "evil/repository", "backbone_config": None}, "without a pinned commit: save the model with"),
        ({"backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:evil/x"}}, "without a pinned commit"),
        ({"backbone_config": {"model_type": "unheard_of"}}, "no model can be built by its config.json .*unheard_of"),
        ({"num_queries": "many"}, "no model can be built by its config.json .*num_queries"),
        ({"encoder_hidden_dim": -1}, "no model can be built by its config.json"),
    ],
)
def test_configs_that_cannot_be_used_are_refused(change: dict[str, Any], says: str, saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=says):
        pkdzoo.create_teacher(f"transformers:{saved}", pretrained=False)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "_experts_implementation"])
def test_a_config_chooses_no_kernel(key: str, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel is a repository with code of its own; the library would download and import it."""
    config = json.loads((saved / "config.json").read_text())
    evil = {key: "evil/kernel@main"}
    changed = {**config, **evil, "backbone_config": {**config["backbone_config"], **evil}}
    (saved / "config.json").write_text(json.dumps(changed))
    teacher = pkdzoo.create_teacher(f"transformers:{saved}", pretrained=False)
    own = teacher.backbone.config  # type: ignore[union-attr]
    assert "evil" not in json.dumps([own.to_dict(), str(own._attn_implementation)])


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("mobilenetv4_conv_small", (4, 8, 16, 32)),
        ("vit_tiny_patch16_224", (16,)),
        pytest.param("mambaout_femto", (4, 8, 16, 32), marks=pytest.mark.slow),
    ],
)
def test_backbones_of_timm_teach(name: str, strides: tuple[int, ...]) -> None:
    timm = pytest.importorskip("timm")
    teacher = pkdzoo.create_teacher(f"timm:{name}", pretrained=False)
    assert isinstance(teacher, pkdzoo.Teacher) and teacher.pyramid_shape.strides == strides
    mean = [255 * value for value in timm.get_pretrained_cfg(teacher.backbone.facts.name).mean]  # type: ignore[union-attr]
    torch.testing.assert_close(teacher.pixel_mean, torch.tensor(mean))
    for where in ("neck", "backbone"):
        assert learn(teacher, where=where)["loss_pkd"] > 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("torchvision:retinanet_resnet50_fpn_v3", "retinanet_resnet50_fpn_v2"),
        ("torchvision:fcos_resnet50_fpn.coco_v2", "coco_v1"),
        ("torchvision:fcos_resnet50_fpn.", "has no weights ''"),
        ("torchvision:resnet50", "has no detector 'resnet50'"),
        ("transformers:no/such/folder", "there is no such folder"),
        ("transformers:dfine-xlarge-coco", "ORGANIZATION/NAME"),
        ("timm:mobilenetv4_conv_smal", "mobilenetv4_conv_small"),
        ("torchvison:retinanet_resnet50_fpn", "Did you mean torchvision:"),
        (5, "5 is no name: write that of a distilled student, or LIBRARY:NAME"),
    ],
)
def test_unknown_names_are_refused(name: Any, says: str) -> None:
    library = str(name).partition(":")[0]
    if library in ("timm", "transformers"):
        pytest.importorskip(library)
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        pkdzoo.create_teacher(name)


@pytest.mark.parametrize("library", ["transformers", "timm"])
def test_a_missing_library_names_its_extra(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ValueError, match=rf"extra \[{library}\]"):
        pkdzoo.create_teacher(f"{library}:org/name" if library == "transformers" else f"{library}:resnet18")


def test_pickled_weights_and_remote_code_are_refused(saved: Path) -> None:
    config = (saved / "config.json").read_text()
    (saved / "config.json").write_text(config.replace('"model_type": "d_fine"', '"model_type": "detr"'))
    with pytest.raises(
        ValueError, match="is a 'detr', and pkdzoo knows the maps of rt_detr, rt_detr_v2, d_fine, deimv2"
    ):
        pkdzoo.create_teacher(f"transformers:{saved}")
    (saved / "config.json").write_text(config.replace("{", '{"auto_map": {"AutoModel": "evil.Model"},', 1))
    (saved / "evil.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(ValueError, match="runs code of its own repository"):
        pkdzoo.create_teacher(f"transformers:{saved}")
    (saved / "config.json").write_text(config)
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="pickled weights beside it are never loaded"):
        pkdzoo.create_teacher(f"transformers:{saved}")


def test_a_file_that_lacks_tensors_is_refused(saved: Path) -> None:
    state = tiny_model("d_fine").state_dict()
    del state["model.encoder_input_proj.0.0.weight"]
    save_safetensors(state, saved / "model.safetensors")
    with pytest.raises(ValueError, match=r"lack 1 of its tensors, e.g. .* which is missing"):
        pkdzoo.create_teacher(f"transformers:{saved}")
    state = tiny_model("d_fine").state_dict()
    state["model.encoder_input_proj.0.0.weight"] = torch.zeros(2, 2)
    save_safetensors(state, saved / "model.safetensors")
    with pytest.raises(ValueError, match=r"lack 1 of .* which has shape \(2, 2\), not \(32, 16, 1, 1\)"):
        pkdzoo.create_teacher(f"transformers:{saved}")


@pytest.mark.parametrize("name", ["torchvision:retinanet_resnet50_fpn", "timm:resnet18", "transformers:a/b"])
def test_where_a_model_of_another_library_belongs_is_said(name: str) -> None:
    with pytest.raises(ValueError, match=r"is a model of another library, which is a teacher \(pkdzoo.create_teacher"):
        pkdzoo.create_detector(name)


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="has no argument 'with_wings'"):
        pkdzoo.create_teacher(SMALL, pretrained=False, with_wings=True)
    with pytest.raises(ValueError, match="adapter=True"):
        pkdzoo.Distiller(tiny_detector(), pkdzoo.create_teacher(SMALL, pretrained=False), {"pkd": {}})
