"""Teachers of other libraries are evaluated on the classes of the data, where they give detections."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from accelerate import Accelerator
from helpers.commands import run
from helpers.kd_reference import tiny_batch, tiny_detector
from helpers.tiny_transformers import tiny_model
from PIL import Image
from torch import Tensor, nn

import pkdzoo
from pkdzoo.data import CocoDataset, find_split, make_shapes
from pkdzoo.distill.adapters.detecting import RelabeledDetector, detecting_teacher
from pkdzoo.distill.adapters.students import saved_student
from pkdzoo.hub.weights import InitialWeights
from pkdzoo.training.teacher_check import check_teacher

SMALL = "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn"


def test_labels_become_those_of_the_data_and_other_classes_are_left_out() -> None:
    net = nn.Conv2d(3, 8, 8, stride=8)

    def forward(net: nn.Module, images: Tensor, _: list[pkdzoo.Instances]) -> tuple[dict[str, Tensor], list[Tensor]]:
        maps = net(images)
        return {"loss": maps.mean()}, [maps]

    def detect(*_: object) -> list[pkdzoo.Detections]:
        return [pkdzoo.Detections(torch.arange(16.0).reshape(4, 4), torch.rand(4), torch.tensor([2, 0, 1, 2]))]

    detector = pkdzoo.Student(net, forward, detect, num_classes=3).with_labels(["person", "N/A", "car"])
    detector.resize = (96, 128)
    relabeled = RelabeledDetector(detector, ["car", "person"])
    assert relabeled.resize == (96, 128)
    found = relabeled.detect(tiny_batch())[0]
    assert found.labels.tolist() == [0, 1, 0] and found.boxes[:, 0].tolist() == [0, 4, 12]


def test_classes_of_torchvision_are_those_of_its_weights() -> None:
    teacher = pkdzoo.create_teacher(SMALL, pretrained=False)
    assert isinstance(teacher, pkdzoo.Teacher)
    assert detecting_teacher(teacher, ["person", "car"]).label_names[0] == "class_0"  # random weights have no names
    assert detecting_teacher(teacher, ["person", "car"]).resize == (320, 640)  # the library's own size
    as_many = [f"thing {i}" for i in range(90)]  # those of a teacher with as many classes are the data's
    assert detecting_teacher(teacher, as_many).label_names == tuple(as_many)
    teacher.origin = InitialWeights(f"{SMALL}.coco_v1", "BSD-3-Clause")
    names = torchvision.models.get_model_weights(SMALL.partition(":")[2]).DEFAULT.meta["categories"]
    detector = detecting_teacher(teacher, ["car", "person"])
    assert isinstance(detector, RelabeledDetector) and detector.label_names == ("car", "person")
    assert detector.numbers[names.index("person") - 1] == 1 and detector.numbers[names.index("car") - 1] == 0
    assert int((detector.numbers >= 0).sum()) == 2 and not detector.training
    assert len(detecting_teacher(teacher, ["circle"]).label_names) == 90  # the caller compares them


def test_a_teacher_of_transformers_detects_as_the_library_does(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    net = tiny_model("d_fine")
    net.config.id2label = {0: "a", 1: "b", 2: "c"}
    net.save_pretrained(tmp_path)
    teacher = pkdzoo.create_teacher(f"transformers:{tmp_path}", input_size=(96, 128))
    images = torch.rand(1, 3, 96, 128) * 255
    found = detecting_teacher(teacher, ["c", "b", "a"]).detect(pkdzoo.Batch(images, [(96, 128)]))[0]
    with torch.no_grad():
        outputs = net(images / 255)
    own = transformers.RTDetrImageProcessor().post_process_object_detection(outputs, 0.0, target_sizes=[(96, 128)])[0]
    count = min(len(found), len(own["scores"]))
    torch.testing.assert_close(found.scores[:count], own["scores"][:count], rtol=1e-3, atol=1e-5)
    assert torch.equal(2 - found.labels[:3], own["labels"][:3])


@pytest.mark.parametrize("door", ["check_teacher", "eval", "predict"])
def test_a_detector_of_transformers_sees_each_image_resized_once_as_its_processor_does(
    door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    names = ("circle", "square", "triangle")
    net = tiny_model("d_fine")
    net.config.id2label = dict(enumerate(names))
    net.save_pretrained(tmp_path / "net")
    processor = transformers.RTDetrImageProcessor(size={"height": 96, "width": 128})
    processor.save_pretrained(tmp_path / "net")
    photos = make_shapes(tmp_path / "photos", train=1, val=1, size=(150, 170))
    (photo,) = (photos / "val2017").iterdir()
    seen: list[Tensor] = []
    forward: Callable[..., Any] = type(net).forward

    def recorded(net: nn.Module, pixels: Tensor, *args: Any, **more: Any) -> Any:
        seen.append(pixels.clone())
        return forward(net, pixels, *args, **more)

    monkeypatch.setattr(type(net), "forward", recorded)
    if door == "check_teacher":
        teacher = pkdzoo.create_teacher(f"transformers:{tmp_path / 'net'}")
        val = CocoDataset(*find_split(photos, "val"), label_names=names, skip_other_classes=True)
        with suppress(ValueError):  # random weights may detect nothing
            check_teacher("transformers:net", teacher, val, 1, 0, Accelerator(cpu=True))
    elif door == "eval":
        code, _, _ = run(
            capsys, "eval", tmp_path / "net", "--data", photos, "--skip-other-classes", "--cpu", "--workers", 0
        )
        assert code == 0
    else:
        model = saved_student(tmp_path / "net")
        again = saved_student(model.save_pretrained(tmp_path / "again"))
        assert again.resizes_itself and not pkdzoo.Student.transformers(net).resizes_itself
        with pytest.raises(ValueError, match="brings every image to its own size: leave sizes out"):
            model.predict(photo, sizes=64)
        model.predict(photo)
    expected = processor(images=Image.open(photo).convert("RGB"), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(seen[-1], expected, rtol=0, atol=1.01 / 255)  # it rounds to whole pixel values


def test_teachers_without_detections_are_refused() -> None:
    teacher = pkdzoo.Teacher(nn.Conv2d(3, 8, 8, stride=8), lambda net, images: [net(images)], [0.5] * 3, [0.5] * 3)
    with pytest.raises(ValueError, match=r"Conv2d gives maps and no detections here.* Leave --check-teacher out"):
        detecting_teacher(teacher, ["a"])
    own = tiny_detector()
    assert detecting_teacher(own, ["a"]) is own
