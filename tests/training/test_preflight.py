"""What is looked at before the first step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

import pkdzoo
from pkdzoo.data import CocoDataset, make_shapes
from pkdzoo.data.synthetic import CLASSES
from pkdzoo.structures import Detections
from pkdzoo.training import build, preflight, teacher_check
from pkdzoo.training.preflight import (
    Report,
    check_run,
    largest_image,
    warn_of_frozen_random_layers,
    warn_of_shared_images,
)
from pkdzoo.training.recipe import Data, Distill, Mix, Optim, Recipe, Schedule, Warmup
from pkdzoo.training.schedule_checks import method_warnings, mix_warnings, schedule_warnings
from pkdzoo.training.task import SupervisedTask
from pkdzoo.training.teacher_check import check_teacher

RECIPE = Recipe(
    "tiny",
    "retina_r10w16",
    data=Data(short=64, long=96, batch_size=4, workers=0, min_image_size=0),
    optim=Optim(base_batch_size=16),
    schedule=Schedule(epochs=3),
    expect={"AP": 12.5, "source": "table 1"},
)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=6, val=3, size=(64, 96))
    return build.build_datasets(RECIPE, build.find_data(RECIPE.data, folder))


def test_the_summary_names_models_data_steps_and_costs(sets) -> None:
    distill = Distill("fcos_r10w16", teacher_args={"num_classes": 6}, teacher_weights="random")
    recipe = replace(RECIPE, distill=distill)
    student = build.build_student(recipe, CLASSES)
    task = build.build_task(recipe, student, build.build_teacher(distill, CLASSES))
    text = str(check_run(recipe, task, *sets, processes=2, steps_per_epoch=5))
    for words in (
        "retina_r10w16, 0.75 M parameters", "fcos_r10w16, 0.66 M parameters", "AP 12.5 (table 1)", "by pkd",
        "4 = processes 2 x passes 1 x images 2", "15 = 3 epochs of 5", "of 6 classes, 6 images",
        "classes   6 of the student; the teacher's have no names", "costs     ",
        "GMACs per image of 96 x 64", "memory    about ", "teacher 2.65 MB, gradients 5.96 MB",
        "student rgb, mean 123.7 116.3 103.5, std 58.4 57.12 57.38; teacher rgb", "time      printed after a few steps",
        "warning: the teacher has random weights", "published for a batch of 16, this run has 4",
    ):  # fmt: skip
        assert words in text
    assert student.training is False  # as it was


def test_the_summary_says_which_classes_both_have(sets) -> None:
    recipe = replace(RECIPE, distill=Distill("fcos_r10w16", teacher_args={"num_classes": 3}, teacher_weights="random"))
    student, teacher = build.build_student(recipe, CLASSES), build.build_teacher(recipe.distill, CLASSES)
    task = build.build_task(recipe, student, teacher)

    def line() -> str:
        return next(x for x in str(check_run(recipe, task, *sets, 1, 5)).splitlines() if x.startswith("classes"))

    assert line() == "classes   6 of the student; the teacher's have no names"
    teacher.label_names = ("moon", "cat", CLASSES[0])
    pairs = f"{CLASSES[0]} 0 is 2, moon {CLASSES.index('moon')} is 0"
    assert line() == f"classes   6 of the student, 3 of the teacher, 2 in both ({pairs})"
    teacher.label_names = ("a", "b", "c")
    assert line() == "classes   6 of the student, 3 of the teacher, 0 in both"


def test_the_summary_says_where_the_classes_of_a_teacher_are_not_known(sets, tmp_path) -> None:
    saved = pkdzoo.create_detector("fcos_r10w16", num_classes=6, label_names=CLASSES).save_pretrained(tmp_path / "a")
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes((saved / "model.safetensors").read_bytes())
    for file, words in ((saved / "model.safetensors", ""), (bare, "those of the teacher are not known")):
        recipe = replace(RECIPE, distill=Distill("fcos_r10w16", teacher_weights=str(file)))
        student, teacher = build.build_student(recipe, CLASSES), build.build_teacher(recipe.distill, CLASSES)
        text = str(check_run(recipe, build.build_task(recipe, student, teacher), *sets, 1, 5))
        (line,) = (line for line in text.splitlines() if line.startswith("classes"))
        assert line.startswith("classes   the same 6 for student and teacher") and words in line
        assert ("are not known" in line) is bool(words)


def test_scaled_rate_is_not_warned_about(sets) -> None:
    recipe = replace(RECIPE, optim=Optim(lr=0.01, base_batch_size=16, scale_lr=True))
    task = SupervisedTask(build.build_student(recipe, CLASSES))
    text = str(check_run(recipe, task, *sets, processes=1, steps_per_epoch=5))
    assert "sgd at 0.0025 (0.01 x 4/16)" in text and "published for" not in text


def test_a_gpu_that_is_too_small_is_warned_about(sets, monkeypatch) -> None:
    task = SupervisedTask(build.build_student(RECIPE, CLASSES))
    assert preflight.free_memory(torch.device("cpu")) is None
    for free, warned in ((10**6, True), (10**12, False)):
        monkeypatch.setattr(preflight, "free_memory", lambda device, free=free: free)
        gpu = torch.device("cuda", 0)
        text = str(check_run(RECIPE, task, *sets, processes=1, steps_per_epoch=5, device=gpu, precision="bf16"))
        assert (
            "will hardly fit into the 1 MB that are free on cuda:0: write --set optim.accumulate=2" in text
        ) is warned
        assert "printed after a few steps, when it is measured" in text


def test_the_image_that_costs_are_told_for() -> None:
    assert largest_image(Data()) == (800, 1344)
    assert largest_image(Data(short=(480, 640), long=1333, mode="range")) == (640, 1344)
    assert largest_image(Data(crop=(512, 600))) == (512, 608)


@pytest.mark.parametrize(("args", "warned"), [
    ({"norm": "gn", "frozen_stages": 0}, False),
    ({"norm": "bn", "frozen_stages": 0}, False),
    ({"norm": "gn", "frozen_stages": 1}, True),
    ({"norm": "frozen_bn", "frozen_stages": 0}, True),
])  # fmt: skip
def test_frozen_layers_that_were_never_loaded(args, warned) -> None:
    model = pkdzoo.create_detector("retina_r10w16", **args)
    report = Report()
    warn_of_frozen_random_layers(report, model)
    assert bool(report.warnings) is warned
    model.loaded_from = "somewhere"
    report = Report()
    warn_of_frozen_random_layers(report, model)
    assert not report.warnings


def test_a_teacher_is_measured_against_its_row(sets, monkeypatch) -> None:
    torch.manual_seed(0)
    teacher = pkdzoo.create_detector("fcos_r10w16", num_classes=6, label_names=CLASSES, resize=(128, 192))
    truth = {int(number): sets[1].load_instances(i) for i, number in enumerate(sets[1].image_ids)}

    def perfect(batch, inference=None):
        assert batch.sizes == [(128, 192)] * len(batch.sizes)  # the teacher's size, not that of the student
        found = [truth[m["image_id"]] for m in batch.meta]
        return [Detections(2 * i.boxes, torch.ones(len(i)), i.labels) for i in found]

    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(teacher, "detect", perfect)
    line = check_teacher("local-dir:x", teacher, sets[1], 2, 0, accelerator)
    assert line == "teacher   AP 100.0 on 2 images"
    monkeypatch.setattr(
        teacher, "detect", lambda batch: [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0))]
    )
    monkeypatch.setattr(teacher, "detect", perfect)
    # a registered name with a published AP, as if these were the weights
    line = check_teacher("fcos_r18w24.shapes", teacher, sets[1], 2, 0, accelerator)
    assert line == "teacher   AP 100.0 on 2 images, published 57.0 on all"
    monkeypatch.setattr(teacher_check, "evaluate", lambda *args, **kwargs: {"AP": 28.0})
    line = check_teacher("fcos_r18w24.shapes", teacher, sets[1], 2, 0, accelerator)
    assert line.endswith("published 57.0 on all; less than half of it: are these the right images, and enough of them?")
    monkeypatch.undo()
    monkeypatch.setattr(
        teacher, "detect", lambda batch: [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0))]
    )
    with pytest.raises(ValueError, match="detects nothing in 3 images"):
        check_teacher("local-dir:x", teacher, sets[1], 99, 0, accelerator)
    stranger = pkdzoo.create_detector("fcos_r10w16", num_classes=6)
    with pytest.raises(ValueError, match="has other classes"):
        check_teacher("local-dir:x", stranger, sets[1], 2, 0, accelerator)


def test_val_images_that_are_training_images_are_warned_about(sets, tmp_path) -> None:
    def warnings(train, val) -> list[str]:
        report = Report()
        warn_of_shared_images(report, train, val)
        return report.warnings

    train, val = sets
    assert not warnings(train, val)
    (tmp_path / "images").mkdir()
    names = [val.file_name(index) for index in range(len(val))]
    for index, name in enumerate(names):
        source = train.image_dir / train.file_name(0) if index == 1 else val.image_dir / name
        (tmp_path / "images" / name).symlink_to(source)
    linked = CocoDataset(val.json_path, tmp_path / "images", label_names=val.label_names)
    assert warnings(train, linked) == [
        f"1 of 3 val images are training images ('{names[1]}'): AP will be too high. Take them out of one of the splits"
    ]
    assert warnings(train, train)[0].startswith("6 of 6 val images are training images (")


def test_images_kept_in_memory_are_reported(tmp_path) -> None:
    folder = make_shapes(tmp_path, train=6, val=3, size=(64, 96))
    recipe = replace(RECIPE, data=replace(RECIPE.data, decode="fast"))
    train, val = build.build_datasets(recipe, build.find_data(recipe.data, folder), cache=8 * 64 * 96 * 3)
    text = str(check_run(recipe, SupervisedTask(build.build_student(recipe, CLASSES)), train, val, 1, 2))
    assert "JPEG files decoded at reduced size (decode=fast); 6 of 6 images kept in 0.111 MB of memory" in text
    assert "2 of 3 images kept" in text  # with what the training images left


def test_schedules_that_do_not_fit_the_run_are_told() -> None:
    def warnings(schedule: Schedule, steps: int) -> list[str]:
        return schedule_warnings(replace(RECIPE, schedule=schedule), SupervisedTask(student), steps, schedule.epochs)

    student = build.build_student(RECIPE, CLASSES)

    (long,) = warnings(Schedule(epochs=12), 228)
    assert long == (
        "the warmup takes 500 of 228 steps, so the learning rate is never reached: write --set schedule.warmup.steps=22"
    )
    (third,) = warnings(Schedule(epochs=12, warmup=Warmup(steps=100)), 228)
    assert third.startswith("the warmup takes 100 of 228 steps: write")
    (late,) = warnings(Schedule(epochs=2, warmup=None), 228)
    assert late == (
        "the learning rate falls after 8 and 11 epochs, and the run has 2: write --set schedule.milestones=1.33,1.83"
    )
    assert not warnings(Schedule(epochs=2, milestones=(1.33, 1.83), warmup=None), 228)
    assert not warnings(Schedule(epochs=12), 90_000)
    assert not warnings(Schedule(epochs=2, max_steps=2), 2)
    assert not warnings(Schedule(epochs=2, decay="cosine", warmup=None), 228)


def test_mosaic_and_mixup_that_never_happen_are_told() -> None:
    assert mix_warnings(Data(mix=Mix()), 12) == [
        "mosaic and mixup are off in the last 20 epochs, and the run has 12: write --set data.mix.last_epochs=1"
    ]
    assert not mix_warnings(Data(mix=Mix(last_epochs=1)), 12)
    assert not mix_warnings(Data(mix=Mix(mosaic=0.0, mixup=0.0)), 12)
    assert not mix_warnings(Data(), 12)


def test_methods_that_begin_or_end_after_the_run_are_told() -> None:
    model, settings = "retina_r10w16", {"teacher_weights": "random", "teacher_args": {"num_classes": 6}}

    def warnings(methods: dict, steps: int) -> list[str]:
        recipe = replace(RECIPE, distill=Distill(model, methods, **settings))
        student, teacher = build.build_student(recipe, CLASSES), build.build_teacher(recipe.distill, CLASSES)
        return method_warnings(build.build_task(recipe, student, teacher), steps, 12)

    (end,) = warnings({"pkd": {"stop_epoch": 280}}, 228)
    assert end.startswith("pkd ends after 280 epochs, and the run has 12, so it never ends")
    assert end.endswith("write --set distill.methods.pkd.stop_epoch=11, or none")
    (delay,) = warnings({"fgfi": {"version": "original"}}, 228)
    assert delay == (
        "fgfi begins after 400 of 228 steps, so the student is nearly the plain one: write --set "
        "distill.methods.fgfi.schedule=delay:22"
    )
    (warmup,) = warnings({"frs": {}}, 1000)
    assert warmup == (
        "frs reaches its full weight after 500 of 1000 steps: write --set distill.methods.frs.schedule=warmup:100"
    )
    assert not warnings({"frs": {"schedule": "warmup:100"}, "pkd": {"stop_epoch": 11}}, 1000)
