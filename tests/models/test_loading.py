"""Files in all supported key layouts are loaded; wrong files are refused with their error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.foreign_checkpoints import mmdetection_names, tensors

import pkdzoo
from pkdzoo.hub.weights import InitialWeights
from pkdzoo.models._loading import is_our_layout
from pkdzoo.structures import PixelNorm, PostProcess
from pkdzoo.training.checkpoint import Progress, save_checkpoint, snapshot
from pkdzoo.training.optim import build_average


@pytest.fixture
def model() -> pkdzoo.Detector:
    return pkdzoo.create_detector("retina_r10w16")


def test_one_stray_tensor_does_not_change_the_layout(model: pkdzoo.Detector) -> None:
    ours = tensors(model)
    theirs = mmdetection_names(ours)
    assert is_our_layout(model, ours) and not is_our_layout(model, theirs)
    with pytest.raises(ValueError, match=r"1 unexpected: bbox_head\.scale$"):
        pkdzoo.load_checkpoint(model, {**ours, "bbox_head.scale": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"1 key .* matches no rule .*: head\.cls\.bias"):
        pkdzoo.load_checkpoint(model, {**theirs, "head.cls.bias": ours["head.cls.bias"]})


def test_a_backbone_alone_is_told_what_it_lacks(model: pkdzoo.Detector) -> None:
    backbone = {key: value for key, value in tensors(model).items() if key.startswith("backbone.")}
    with pytest.raises(ValueError, match=r"32 missing: neck\.lateral"):
        pkdzoo.load_checkpoint(model, backbone)


# -- students in the files of trainings ------------------------------------------------------------------------------


def equal(model: pkdzoo.Detector, state: Mapping[str, torch.Tensor]) -> bool:
    own = model.state_dict()
    return set(own) == set(state) and all(torch.equal(own[key], state[key]) for key in own)


def distiller(student: pkdzoo.Detector, methods: Mapping[str, Any]) -> pkdzoo.Distiller:
    return pkdzoo.Distiller(student, pkdzoo.create_detector("fcos_r10w16"), methods)


def test_the_student_of_a_distiller(model: pkdzoo.Detector, tmp_path: Path) -> None:
    student = pkdzoo.create_detector("retina_r10w16")
    state = distiller(student, {"pkd": {}, "fbkd": {}}).state_dict()
    assert any(key.startswith("methods.") for key in state)
    assert equal(pkdzoo.load_checkpoint(model, state), student.state_dict())
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "file.pth")
    assert equal(pkdzoo.load_checkpoint(model, tmp_path / "file.pth"), student.state_dict())


@pytest.mark.parametrize("kind", ["student", "distiller", "part", "parallel", "average"])
def test_compiled_and_wrapped_students(model: pkdzoo.Detector, kind: str) -> None:
    student = pkdzoo.create_detector("retina_r10w16")
    expected = dict(student.state_dict())
    wrapped: torch.nn.Module
    if kind == "student":
        wrapped = torch.compile(student)  # type: ignore[assignment]
    elif kind == "distiller":
        wrapped = torch.compile(distiller(student, {"pkd": {}}))  # type: ignore[assignment]
    elif kind == "part":
        student.backbone = torch.compile(student.backbone)  # type: ignore[assignment]
        wrapped = student
    elif kind == "parallel":
        wrapped = torch.nn.DataParallel(torch.compile(student))  # type: ignore[type-var]
    else:
        wrapped = torch.optim.swa_utils.AveragedModel(student)  # type: ignore[no-untyped-call]
    state = wrapped.state_dict()
    assert set(state) != set(expected)
    assert equal(pkdzoo.load_checkpoint(model, state), expected)


@pytest.mark.parametrize("averaged", [False, True])
def test_the_student_of_a_checkpoint_of_the_training(model: pkdzoo.Detector, tmp_path: Path, averaged: bool) -> None:
    student = pkdzoo.create_detector("retina_r10w16")
    task = distiller(student, {"pkd": {}})
    average = build_average(student, 0.9 if averaged else None)
    optimizer = torch.optim.SGD(task.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    expected = {key: value.clone() for key, value in student.state_dict().items()}
    if averaged:  # the student trains on; its average is what is evaluated and published
        with torch.no_grad():
            next(student.parameters()).add_(1.0)
    (tmp_path / "checkpoints").mkdir()
    tensors, rest = snapshot(task, optimizer, scheduler, None, average)
    folder = save_checkpoint(tmp_path, Progress(step=3), tensors, rest, keep=1)
    assert equal(pkdzoo.load_checkpoint(model, folder), expected)
    assert equal(pkdzoo.load_checkpoint(model, folder / "model.safetensors"), expected)
    with pytest.raises(FileNotFoundError, match=r"is a folder without model\.safetensors: write the path of a file"):
        pkdzoo.load_checkpoint(model, tmp_path)


def test_a_saved_folder_is_a_checkpoint_too(model: pkdzoo.Detector, tmp_path: Path) -> None:
    student = pkdzoo.create_detector("retina_r10w16")
    assert equal(pkdzoo.load_checkpoint(model, student.save_pretrained(tmp_path / "saved")), student.state_dict())


@pytest.mark.parametrize("place", ["", "model.safetensors"])
def test_a_saved_folder_of_another_detector(model: pkdzoo.Detector, tmp_path: Path, place: str) -> None:
    norm = PixelNorm((50.0, 60.0, 70.0), (10.0, 11.0, 12.0), "bgr")
    saved = pkdzoo.create_detector("retina_r10w16", pixel_norm=norm).save_pretrained(tmp_path / "saved") / place
    with pytest.raises(ValueError, match=r"normalized with mean 50, 60, 70.*write pkdzoo\.from_pretrained"):
        pkdzoo.load_checkpoint(model, saved)
    other = pkdzoo.create_detector("retina_r18", num_classes=2).save_pretrained(tmp_path / "other") / place
    with pytest.raises(ValueError, match=r"holds a retina_r18, and this is a retina_r10w16: write pkdzoo\.from_pre"):
        pkdzoo.load_checkpoint(model, other)


def test_a_saved_folder_brings_its_license_and_its_class_names_are_compared(tmp_path: Path) -> None:
    first = pkdzoo.create_detector("retina_r10w16", label_names=("cat", "dog"))
    first.initial_weights = InitialWeights("timm/x", "cc-by-nc-4.0")
    folder = first.save_pretrained(tmp_path / "saved")
    second = pkdzoo.create_detector("retina_r10w16", label_names=("dog", "cat"))
    with pytest.warns(UserWarning, match="was trained to detect 'cat', 'dog', and .* calls its classes 'dog', 'cat'"):
        pkdzoo.load_checkpoint(second, folder)
    assert second.initial_weights == first.initial_weights


def test_a_saved_folder_brings_its_image_size_and_thresholds(tmp_path: Path) -> None:
    first = pkdzoo.create_detector("rtmdet_w12", num_classes=2, resize=(320, 320))
    first.postprocess_config = PostProcess(0.25, 100, 0.5, 7)
    folder = first.save_pretrained(tmp_path / "saved")
    second = pkdzoo.load_checkpoint(pkdzoo.create_detector("rtmdet_w12", num_classes=2), folder)
    assert (second.resize, second.letterbox, second.postprocess_config) == (
        first.resize,
        first.letterbox,
        first.postprocess_config,
    )
    chosen = pkdzoo.create_detector("rtmdet_w12", num_classes=2, resize=(64, 64))
    assert pkdzoo.load_checkpoint(chosen, folder).resize == (64, 64)


def test_names_that_are_no_strings(model: pkdzoo.Detector) -> None:
    with pytest.raises(ValueError, match=r"names that are not strings: save model\.state_dict"):
        pkdzoo.load_checkpoint(model, {0: torch.zeros(1)})  # type: ignore[dict-item]
