"""Modules of other origin learn: by a function, and detectors of torchvision and transformers by name."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from helpers.kd_reference import tiny_batch, tiny_detector
from helpers.tiny_transformers import KINDS, tiny_model
from safetensors.torch import load_file
from torch import Tensor, nn

import pkdzoo
from pkdzoo.distill.adapters.students import saved_student, student_of_library
from pkdzoo.export import FixedSize, export_litert, export_onnx, export_openvino

BUILD = torchvision.models.detection
CLASSES = ("a", "b", "c")
KINDS_OF_TORCHVISION = ["retinanet", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("fcos", "fasterrcnn"))]


class Net(nn.Module):
    """Two maps of stride 8 and 16, and class scores of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 64, 8, stride=8), nn.BatchNorm2d(64)
        self.down, self.head = nn.Conv2d(64, 64, 2, stride=2), nn.Linear(64, 3)


def forward(net: Net, images: Tensor, instances: list[pkdzoo.Instances]) -> tuple[dict[str, Tensor], list[Tensor]]:
    fine = net.norm(net.stem(images)).relu()
    coarse = net.down(fine)
    wanted = torch.stack([torch.bincount(o.labels, minlength=3).clamp(max=1).float() for o in instances])
    scores = net.head(coarse.mean(dim=(2, 3)))
    return {"loss_cls": nn.functional.binary_cross_entropy_with_logits(scores, wanted)}, [fine, coarse]


def small(kind: str, **args: Any) -> Any:
    """A RetinaNet, FCOS or Faster R-CNN of torchvision on a small backbone, for three classes."""
    torch.manual_seed(0)
    if kind == "fasterrcnn":
        return BUILD.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=4, **args)
    body = BUILD.backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    if kind == "fcos":
        anchors = BUILD.anchor_utils.AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5)
        return BUILD.FCOS(body, 3, anchor_generator=anchors, **args)
    sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
    anchors = BUILD.anchor_utils.AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    return BUILD.RetinaNet(body, 3, anchor_generator=anchors, **args)


def test_any_module_learns_in_ones_own_loop() -> None:
    net, teacher = Net(), tiny_detector()
    student = pkdzoo.Student(net, forward, num_classes=3)
    assert student.pyramid_shape.strides == (8, 16) and net.norm.num_batches_tracked == 0
    distiller = pkdzoo.Distiller(student, teacher, {"pkd": {}, "mgd": {"levels": 2}}).train()
    optimizer = torch.optim.SGD(distiller.parameters(), 0.01)
    seen = []
    for _ in range(4):
        losses = distiller(tiny_batch())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        seen.append(float(losses["loss_pkd"].detach()))
    assert set(losses) == {"loss_cls", "loss_pkd", "loss_mgd"} and seen[-1] < seen[0]
    assert net.norm.num_batches_tracked == 4 and distiller.student.backbone is net


def test_a_module_in_bfloat16_is_measured() -> None:
    assert pkdzoo.Student(Net().bfloat16(), forward, num_classes=3).pyramid_shape.strides == (8, 16)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in ("fbkd", "defeat", "mgd") else n for n in pkdzoo.list_methods()],
)
def test_every_method_learns_or_refuses(name: str) -> None:
    """No method fails in the middle of a run because a student of other origin has no head."""
    student = pkdzoo.Student(Net(), forward, num_classes=3)
    try:
        distiller = pkdzoo.Distiller(student, tiny_detector(), {name: {"levels": 2} if name == "mgd" else {}})
    except ValueError:
        assert name not in ("pkd", "cwd", "norm_kl", "mse", "gt_mask", "fgd", "mgd")
        return
    distiller.on_epoch_start(0, [tiny_batch()])
    losses = distiller(tiny_batch())
    assert all(value.isfinite() for value in losses.values()) and len(losses) > 1


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda *_: ({}, [torch.zeros(1, 1, 32, 48)]), "returned no losses"),
        (lambda *_: [torch.zeros(1, 1, 32, 48)], "must return \\(losses, maps\\)"),
        (lambda *_: ({"loss": torch.zeros(4)}, [torch.zeros(1, 1, 32, 48)]), "no single number"),
        (lambda *_: ({"loss": torch.zeros(())}, []), "must return a list of maps"),
        (lambda *_: ({"loss": torch.zeros(())}, [torch.zeros(1, 32, 48, 5)]), "channels last"),
    ],
)
def test_a_forward_that_returns_something_else_is_refused(broken: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        pkdzoo.Student(Net(), broken)


def test_what_a_student_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnx", "openvino", "litert_torch"):  # is not asked for where the file could not be written anyway
        monkeypatch.setitem(sys.modules, package, None)
    student = pkdzoo.Student(Net(), forward, num_classes=3)
    with pytest.raises(ValueError, match="gives no detections"):
        student.detect(tiny_batch())
    with pytest.raises(ValueError, match="is saved by you"):
        student.save_pretrained("anywhere")
    with pytest.raises(ValueError, match="export it as that library does"):
        student.extract_features(tiny_batch())
    for what in ("features", "detections"):
        with pytest.raises(ValueError, match="Net belongs to another library: export it as that library does"):
            export_onnx(student, "anywhere.onnx", what=what)
        with pytest.raises(ValueError, match="Net belongs to another library: export it as that library does"):
            export_openvino(student, "anywhere.xml", what=what)
    with pytest.raises(ValueError, match="Net belongs to another library: export it as that library does"):
        export_litert(student, "anywhere.tflite", FixedSize(64, 64), "features")
    assert not Path("anywhere.onnx").exists()
    with torch.device("meta"):
        ssd = BUILD.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    for net in (ssd, Net()):
        with pytest.raises(ValueError, match="RetinaNet, FCOS or Faster R-CNN can"):
            pkdzoo.Student.torchvision(net)
    with pytest.raises(ValueError, match="cannot be a student"):
        pkdzoo.Student.transformers(Net())
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        pkdzoo.Student.torchvision(small("fasterrcnn"), label_names=["a", "b"])
    with pytest.raises(ValueError, match="bare backbone"):
        student_of_library("timm:resnet18", CLASSES, {})


@pytest.mark.parametrize("kind", KINDS_OF_TORCHVISION)
def test_losses_of_torchvision_are_its_own(kind: str) -> None:
    net = small(kind, min_size=96, max_size=128)
    student = pkdzoo.Student.torchvision(net, CLASSES)
    batch = tiny_batch()
    assert batch.instances is not None
    whole = pkdzoo.Batch(batch.images[:1], [(96, 128)], batch.instances[:1])
    first = int(kind == "fasterrcnn")
    targets = [{"boxes": batch.instances[0].boxes, "labels": batch.instances[0].labels + first}]
    for module in net.modules():  # as in training, but for the norms
        module.training = not isinstance(module, nn.BatchNorm2d)
    torch.manual_seed(0)
    own = net([whole.images[0] / 255], targets)
    student.eval()
    torch.manual_seed(0)
    found = student(whole)
    assert {f"loss_{key.removeprefix('loss_')}" for key in own} == set(found)
    for key, value in own.items():
        torch.testing.assert_close(found[f"loss_{key.removeprefix('loss_')}"], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retinanet", "fcos", "fasterrcnn"])
def test_detections_of_torchvision_are_its_own(kind: str) -> None:
    net = small(kind, min_size=96, max_size=128).eval()
    student = pkdzoo.Student.torchvision(net, CLASSES)
    part = student.detecting_part  # type: ignore[attr-defined]
    part.score_thresh = 0.0
    images = torch.rand(1, 3, 96, 128) * 255
    with torch.no_grad():
        own = net([images[0] / 255])[0]
    config = pkdzoo.structures.PostProcess(0.0, 1000, part.nms_thresh, part.detections_per_img)
    found = student.train().detect(pkdzoo.Batch(images, [(96, 128)]), config)[0]
    assert len(found) == len(own["boxes"]) > 0 and student.training
    order = own["scores"].argsort(descending=True, stable=True)
    torch.testing.assert_close(found.scores, own["scores"][order], rtol=1e-4, atol=1e-6)
    assert int(found.labels.min()) >= 0 and int(found.labels.max()) < 3


@pytest.mark.parametrize("kind", [pytest.param("retinanet", marks=pytest.mark.slow), "fasterrcnn"])
def test_students_of_torchvision_learn_from_a_detector(kind: str) -> None:
    student = pkdzoo.Student.torchvision(small(kind), CLASSES)
    assert student.two_stage == (kind == "fasterrcnn")
    distiller = pkdzoo.Distiller(student, tiny_detector(), {"pkd": {"adapter": True}}).train()
    losses = distiller(tiny_batch())
    sum(losses.values()).backward()
    assert "loss_pkd" in losses
    missing = [name for name, p in student.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) if k != "d_fine" else k for k in KINDS])
def test_students_of_transformers_learn_from_a_detector(kind: str) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("scipy")
    student = pkdzoo.Student.transformers(tiny_model(kind), (96, 128), CLASSES)
    batch = tiny_batch()
    assert batch.instances is not None
    whole = pkdzoo.Batch(batch.images[:1], [(96, 128)], batch.instances[:1])
    boxes = torchvision.ops.box_convert(batch.instances[0].boxes, "xyxy", "cxcywh") / torch.tensor([128, 96, 128, 96])
    labels = [{"class_labels": batch.instances[0].labels, "boxes": boxes}]
    net: Any = student.eval().backbone
    own = net(whole.images / 255, labels=labels)
    trace = student.trace(whole)
    torch.testing.assert_close(torch.stack(list(trace.losses.values())).sum(), own.loss, rtol=1e-4, atol=1e-4)
    for one, other in zip(own.encoder_last_hidden_state, trace.features.levels, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    distiller = pkdzoo.Distiller(student, tiny_detector(), {"pkd": {"adapter": True}}).train()
    losses = distiller(batch)
    sum(losses.values()).backward()
    assert losses["loss_pkd"] > 0 and any(p.grad.abs().sum() > 0 for p in student.parameters() if p.grad is not None)
    beside = distiller(replace(batch, unlabeled=replace(batch, instances=None)))
    assert set(beside) - set(losses) == {"loss_pkd_unlabeled"}
    torch.testing.assert_close(beside["loss_pkd_unlabeled"], beside["loss_pkd"], rtol=0.2, atol=0)  # the same images


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) if k != "d_fine" else k for k in KINDS])
def test_batches_without_objects_have_the_same_losses_and_gradients(kind: str) -> None:
    """Processes add up their losses by name and wait for every gradient, whatever their images show."""
    pytest.importorskip("transformers")
    pytest.importorskip("scipy")
    student, batch = pkdzoo.Student.transformers(tiny_model(kind), (96, 128), CLASSES).train(), tiny_batch()
    nothing = pkdzoo.Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    names = []
    for objects in (batch.instances, [nothing] * 2):
        student.zero_grad()
        losses = student(pkdzoo.Batch(batch.images, batch.sizes, objects))
        sum(losses.values()).backward()
        assert not [name for name, p in student.named_parameters() if p.requires_grad and p.grad is None]
        assert all(value.isfinite() for value in losses.values())
        names.append(list(losses))
    assert names[0] == names[1] and "loss_vfl_dn" in names[0]


def test_detections_of_transformers_are_its_own(tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    net = tiny_model("d_fine")
    student = pkdzoo.Student.transformers(net, (96, 128), CLASSES)
    images = torch.rand(1, 3, 96, 128) * 255
    found = student.detect(pkdzoo.Batch(images, [(96, 128)]))[0]
    with torch.no_grad():
        outputs = net(images / 255)
    own = transformers.RTDetrImageProcessor().post_process_object_detection(
        outputs, threshold=0.0, target_sizes=[(96, 128)]
    )[0]
    assert len(found) == min(100, len(own["scores"]))
    count = min(len(found), len(own["scores"]))
    torch.testing.assert_close(found.scores[:count], own["scores"][:count], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.boxes[:count], own["boxes"][:count], rtol=1e-2, atol=1e-2)


def test_views_of_transformers_are_merged() -> None:
    """Its detector has no NMS, so every object would be reported once per view."""
    pytest.importorskip("transformers")
    student = pkdzoo.Student.transformers(tiny_model("d_fine"), (96, 128), CLASSES)
    image = torch.randint(0, 255, (3, 96, 128), dtype=torch.uint8)

    def overlaps(**options: Any) -> int:
        result: Any = student.predict(image, threshold=0.0, **options)
        same = result.labels[:, None] == result.labels
        return int(((torchvision.ops.box_iou(result.boxes, result.boxes) > 0.5) & same).triu(1).sum())

    for views in ({"flip": True}, {"sizes": (96, 160)}, {"tiles": 64}):
        assert overlaps(**views) == 0
    assert overlaps(sizes=(96, 160), nms_threshold=1.0) > 0  # as it is asked for
    for name in CLASSES:
        assert set(student.predict(image, threshold=0.0, classes=name).names) == {name}  # type: ignore[union-attr]


def test_options_of_threads_leave_torchvisions_thresholds_alone() -> None:
    student = pkdzoo.Student.torchvision(small("retinanet"), CLASSES)
    image, part = torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8), student.detecting_part  # type: ignore[attr-defined]
    before = (part.score_thresh, part.nms_thresh, part.detections_per_img)
    seen, own = [], part.postprocess_detections

    def watched(self: Any, *args: Any) -> Any:
        seen.append((part.score_thresh, part.nms_thresh, part.detections_per_img))
        return own(*args)

    type(part).postprocess_detections, original = watched, type(part).postprocess_detections
    try:
        student.predict(image, threshold=0.0, nms_threshold=0.9, max_detections=3)
    finally:
        type(part).postprocess_detections = original
    assert seen == [before]  # even while it predicts
    assert len(student.predict(image, threshold=0.0, max_detections=3)) == 3  # type: ignore[arg-type]


def test_options_reach_the_detections_of_a_function() -> None:
    boxes, scores = torch.tensor([[0.0, 0, 40, 40], [0, 0, 40, 36], [50, 0, 90, 40]]), torch.tensor([0.5, 0.9, 0.7])

    def detect(net: Net, images: Tensor, sizes: list[tuple[int, int]]) -> list[pkdzoo.Detections]:
        return [pkdzoo.Detections(boxes, scores, torch.zeros(3, dtype=torch.int64)) for _ in sizes]

    student = pkdzoo.Student(Net(), forward, detect, num_classes=3)
    image = torch.zeros(3, 800, 800, dtype=torch.uint8)

    def found(**options: Any) -> list[float]:
        return [round(float(score), 1) for score in student.predict(image, **options).scores]  # type: ignore[union-attr]

    assert found(max_detections=2) == [0.9, 0.7]
    assert found(nms_threshold=0.4) == [0.9, 0.7] and found() == [0.9, 0.7, 0.5]


@pytest.mark.slow
@pytest.mark.parametrize("library", ["torchvision", "transformers"])
def test_a_saved_student_is_the_librarys_own_and_loads_again(library: str, tmp_path: Any) -> None:
    if library == "transformers":
        transformers = pytest.importorskip("transformers")
        tiny_model("d_fine").save_pretrained(tmp_path / "config")
        name, args = f"transformers:{tmp_path / 'config'}", {"input_size": (96, 128)}
    else:
        name, args = "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", {}
    student = student_of_library(name, CLASSES, args, (64, 96)).eval()
    folder = student.save_pretrained(tmp_path / "saved")
    if library == "transformers":
        own: Any = transformers.DFineForObjectDetection.from_pretrained(folder)
        assert own.config.id2label == dict(enumerate(CLASSES))
    else:
        own = BUILD.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=4)
        own.load_state_dict(load_file(folder / "model.safetensors"))
    loaded = saved_student(folder)
    assert loaded.label_names == CLASSES
    state = student.backbone.state_dict()
    for other in (own, loaded.backbone):
        assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())
    batch = pkdzoo.Batch(torch.rand(1, 3, 64, 96) * 255, [(64, 96)])
    one, two = student.detect(batch)[0], loaded.detect(batch)[0]
    assert torch.equal(one.boxes, two.boxes) and torch.equal(one.scores, two.scores)


@pytest.mark.parametrize("size", [640, [96.0, 96], [100, 96], [0, 0]])
def test_sizes_that_a_student_does_not_take_are_refused(size: Any, tmp_path: Any) -> None:
    pytest.importorskip("transformers")
    tiny_model("d_fine").config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"multiples of 32 up to 4096: write model_args=\{'input_size'"):
        student_of_library(f"transformers:{tmp_path}", CLASSES, {"input_size": size})


def test_a_saved_student_takes_images_as_before(tmp_path: Any) -> None:
    """Sizes and statistics are kept, and class names that transformers does not write: they are its defaults."""
    pytest.importorskip("transformers")
    tiny_model("d_fine").config.save_pretrained(tmp_path / "config")
    statistics = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.2] * 3}
    (tmp_path / "config" / "preprocessor_config.json").write_text(json.dumps({"size": 96, **statistics}))
    names = ("LABEL_0", "LABEL_1")
    student = student_of_library(f"transformers:{tmp_path / 'config'}", names, {}, (64, 80))
    loaded = saved_student(student.save_pretrained(tmp_path / "saved"))
    assert (loaded.resize, loaded.label_names, loaded.num_classes) == ((64, 80), names, 2)
    assert loaded.input_size == (96, 96)  # type: ignore[attr-defined]
    torch.testing.assert_close(loaded.pixel_mean, torch.tensor([127.5] * 3))
    torch.testing.assert_close(loaded.pixel_std, torch.tensor([51.0] * 3))
