"""From a recipe to data, models and tasks: what fits, what is inherited or frozen, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

import pkdzoo
from pkdzoo.checkpoints import save_safetensors
from pkdzoo.data import MixTransform, make_shapes
from pkdzoo.data.synthetic import CLASSES
from pkdzoo.distill import Distiller
from pkdzoo.distill.inherit import inherit
from pkdzoo.hub.weights import InitialWeights
from pkdzoo.structures import Batch, Instances, Letterbox
from pkdzoo.training import build, loaders, override
from pkdzoo.training.arguments import TrainArguments
from pkdzoo.training.preflight import largest_image
from pkdzoo.training.provenance import about_teacher
from pkdzoo.training.recipe import Data, Distill, Mix, Optim, Recipe, Unlabeled
from pkdzoo.training.run import build_parts

DATA = Data(short=64, long=96, batch_size=4, workers=0, min_image_size=0)
RECIPE = Recipe("tiny", "retina_r10w16", data=DATA, seed=3)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=6, val=3, size=(64, 96))


def test_an_option_without_a_value_and_one_of_another_type() -> None:
    """Both used to fail in the first step."""
    recipe = replace(
        RECIPE, model="rtmdet_w12", distill=Distill("rtmdet_w12", {"norm_cwd": {}}, teacher_weights="random")
    )
    teacher = build.build_teacher(recipe.distill, CLASSES)
    student = build.build_student(recipe, CLASSES)
    task = build.build_task(override(recipe, ["distill.methods.norm_cwd.stop_epoch=none"]), student, teacher)
    task.train()
    task.set_progress(0, 10, 0, 1)
    boxes = Instances(torch.tensor([[5.0, 5.0, 40.0, 40.0]]), torch.tensor([0]))
    losses = task(Batch(255 * torch.rand(2, 3, 64, 64), [(64, 64)] * 2, [boxes] * 2))
    assert all(value.isfinite() for value in losses.values())
    for value in ("6x", "1.5"):
        changed = override(recipe, [f"distill.methods.norm_cwd.stop_epoch={value}"])
        with pytest.raises(ValueError, match=rf"norm_cwd: stop_epoch='?{value}'?: write a whole number"):
            build.build_task(changed, student, teacher)


def same(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


def test_data_is_found_or_generated(shapes, tmp_path) -> None:
    places = build.find_data(DATA, shapes)
    assert places.train[0].name == "instances_train2017.json" and places.val[1].name == "val2017"
    generate = {"train": 2, "val": 1, "size": [64, 64]}
    made = build.find_data(replace(DATA, generate=generate), cache=tmp_path)
    assert len(list(made.train[1].iterdir())) == 2
    assert build.find_data(replace(DATA, generate=generate), cache=tmp_path) == made
    assert build.find_data(replace(DATA, generate=generate), shapes) == places  # data at hand comes first
    with pytest.raises(ValueError, match="no data: write --data"):
        build.find_data(DATA)


def test_datasets_are_as_the_recipe_says(shapes) -> None:
    data = replace(DATA, short=(32, 48), long=200, mode="range", crop=(32, 40), test=(40, 60))
    train, val = build.build_datasets(replace(RECIPE, data=data), build.find_data(data, shapes))
    assert all(train[i].size == (32, 40) for i in range(len(train)))
    assert val[0].size == (40, 60)
    assert (train.seed, train.on_error, val.on_error) == (3, "skip", "raise")
    assert build.build_student(replace(RECIPE, data=data), CLASSES).resize == (40, 60)


def test_zoomed_windows_come_before_the_resize() -> None:
    assert [type(step).__name__ for step in build.train_transform(DATA, 1).transforms] == ["Resize", "RandomFlip"]
    steps = build.train_transform(replace(DATA, zoom=0.5, crop=(32, 32)), 1).transforms
    assert [type(step).__name__ for step in steps] == ["RandomZoom", "Resize", "RandomFlip", "RandomCrop"]
    assert steps[0].share == 0.5
    with pytest.raises(ValueError, match=r"data\.zoom=2"):
        replace(RECIPE, data=replace(DATA, zoom=2.0))


def test_the_total_batch_is_shared_out() -> None:
    assert loaders.batch_per_process(RECIPE, 1) == 4
    assert loaders.batch_per_process(replace(RECIPE, optim=Optim(accumulate=2)), 2) == 1
    with pytest.raises(ValueError, match=r"batch of 4 cannot be divided by 3 processes.*data\.batch_size=6"):
        loaders.batch_per_process(RECIPE, 3)


def test_loaders_leave_the_global_generator_alone(shapes) -> None:
    train, _ = build.build_datasets(RECIPE, build.find_data(DATA, shapes))
    loader, sampler = loaders.train_loader(RECIPE, train, 1)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = [[m["image_id"] for m in batch.meta] for batch in loader]
    assert torch.equal(torch.get_rng_state(), before)
    sampler.set_epoch(1)
    assert [[m["image_id"] for m in batch.meta] for batch in loader] != first


def test_the_student_depends_on_the_recipe_alone() -> None:
    torch.manual_seed(99)
    one = build.build_student(RECIPE, CLASSES)
    torch.manual_seed(7)
    assert same(one, build.build_student(RECIPE, CLASSES))
    assert not same(one, build.build_student(replace(RECIPE, seed=4), CLASSES))
    assert one.label_names == CLASSES and one.num_classes == 6
    with pytest.raises(ValueError, match=r"num_classes=5, but the data has 6 classes \(circle"):
        build.build_student(replace(RECIPE, model_args={"num_classes": 5}), CLASSES)


def test_weights_to_start_from(tmp_path) -> None:
    before = pkdzoo.create_detector("retina_r10w16", num_classes=6)
    folder = before.save_pretrained(tmp_path / "saved")
    for init in (str(folder / "model.safetensors"), f"local-dir:{folder}"):
        student = build.build_student(replace(RECIPE, init=init), CLASSES)
        assert same(before, student) and student.loaded_from
        assert student.label_names == CLASSES and student.resize == (64, 96)
    fewer = build.build_student(replace(RECIPE, init=f"local-dir:{folder}"), CLASSES[:2])
    assert same(before.backbone, fewer.backbone) and fewer.num_classes == 2
    with pytest.raises(ValueError, match=r"head\.cls\.weight"):
        build.build_student(replace(RECIPE, init=str(folder / "model.safetensors")), CLASSES[:2])
    with pytest.raises(ValueError, match="are weights of retina_r10w16, but the model is fcos_r10w16"):
        build.build_student(replace(RECIPE, model="fcos_r10w16", init=f"local-dir:{folder}"), CLASSES)
    with pytest.raises(ValueError, match="no weights"):
        build.build_student(replace(RECIPE, init="retina_r10w16"), CLASSES)
    with pytest.raises(
        ValueError, match=r"write 'imagenet', a file, or .* leave it out for random weights; no detector"
    ):
        build.build_student(replace(RECIPE, init="random"), CLASSES)


def test_teachers(tmp_path) -> None:
    teacher = pkdzoo.create_detector("fcos_r10w16", num_classes=6, label_names=CLASSES)
    folder = teacher.save_pretrained(tmp_path / "saved")
    weights = str(folder / "model.safetensors")
    sized = pkdzoo.create_detector("rtmdet_w12", num_classes=6, resize=(96, 96))
    sized.letterbox = Letterbox(fill=7)
    weights_of_sized = str(sized.save_pretrained(tmp_path / "sized") / "model.safetensors")
    for args, size in (({}, (96, 96)), ({"resize": [64, 64]}, (64, 64))):
        found = build.build_teacher(Distill("rtmdet_w12", teacher_args=args, teacher_weights=weights_of_sized), CLASSES)
        assert (found.resize, found.letterbox) == (size, sized.letterbox)
    loaded = build.build_teacher(Distill("fcos_r10w16", teacher_weights=weights), CLASSES)
    assert same(teacher, loaded) and loaded.label_names == CLASSES
    run = tmp_path / "run"
    (run / "best").parent.mkdir()
    folder.rename(run / "best")
    for name in (f"local-dir:{run / 'best'}", str(run / "best"), str(run)):
        assert same(teacher, build.build_teacher(Distill(name), ("other", "names")))
        assert about_teacher(Distill(name))["teacher_architecture"] == "fcos_r10w16"
    for name in (f"local-dir:{tmp_path / 'rum'}", str(tmp_path / "rum")):
        with pytest.raises(ValueError, match=r"there is no such folder: .*rum.*Train the teacher first"):
            build.build_teacher(Distill(name), CLASSES)
    with pytest.raises(ValueError, match=r"cannot be loaded: there are no weights.*distill\.teacher_weights=FILE"):
        build.build_teacher(Distill("fcos_r10w16"), CLASSES)
    assert build.build_teacher(Distill("fcos_r10w16", teacher_weights="random"), CLASSES).loaded_from is None


def test_the_classes_of_a_saved_teacher_are_its_own(tmp_path) -> None:
    """They used to be those of the data, and methods then compared the predictions of different classes."""
    moved = (*CLASSES[1:], CLASSES[0])
    saved = pkdzoo.create_detector("retina_r10w16", num_classes=6, label_names=moved).save_pretrained(tmp_path / "a")
    weights = str(saved / "model.safetensors")
    distill = Distill("retina_r10w16", {"crosskd": {}}, teacher_weights=weights)
    recipe, teacher = replace(RECIPE, distill=distill), build.build_teacher(distill, CLASSES)
    assert teacher.label_names == moved
    with pytest.raises(ValueError, match="class 0 is 'circle' in the student but"):
        build.build_task(recipe, build.build_student(recipe, CLASSES), teacher)
    assert build.build_teacher(distill, CLASSES[:2]).label_names == moved
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes((saved / "model.safetensors").read_bytes())
    assert build.build_teacher(replace(distill, teacher_weights=str(bare)), CLASSES).label_names == CLASSES
    for init in (weights, f"local-dir:{saved}"):
        with pytest.warns(UserWarning, match="was trained to detect .* calls its classes 'circle'"):
            assert build.build_student(replace(RECIPE, init=init), CLASSES).label_names == CLASSES


def test_inherited_parts_are_the_teachers_and_frozen_ones_stay() -> None:
    distill = Distill("retina_r10w16", teacher_weights="random", inherit=("neck", "head"), freeze=("backbone",))
    recipe = replace(RECIPE, distill=replace(distill, teacher_args={"num_classes": 6}), model_args={"norm": "bn"})
    student = build.build_student(recipe, CLASSES)
    teacher = build.build_teacher(recipe.distill, CLASSES)
    task = build.build_task(recipe, student, teacher)
    assert isinstance(task, Distiller) and task.student is student and task.teacher is teacher
    assert same(student.neck, teacher.neck) and same(student.head, teacher.head)
    assert not any(p.requires_grad for p in student.backbone.parameters())
    build.train_mode(task, recipe)
    assert student.neck.training and not any(m.training for m in student.backbone.modules())
    with pytest.raises(ValueError, match=r"has no part 'headd': it has backbone, neck, head"):
        inherit(student, teacher, ("headd",))
    other = pkdzoo.create_detector("retina_r10w16", num_classes=2)
    with pytest.raises(ValueError, match=r"differ in cls\.bias, cls\.weight"):
        inherit(student, other, ("head",))


def test_a_teacher_without_methods_only_hands_down_its_parts() -> None:
    shared = ("backbone", "neck")
    distill = Distill("retina_r10w16", {}, teacher_args={"num_classes": 6}, inherit=shared, freeze=shared)
    recipe = replace(RECIPE, distill=replace(distill, teacher_weights="random"))
    student, teacher = build.build_student(recipe, CLASSES), build.build_teacher(recipe.distill, CLASSES)
    task = build.build_task(recipe, student, teacher)
    assert task.student is student and task.teacher is None and student.loaded_from == "backbone, neck of retina_r10w16"
    assert same(student.neck, teacher.neck) and not same(student.head, teacher.head)
    build.train_mode(task, recipe)
    learning = {name.split(".")[0] for name, p in student.named_parameters() if p.requires_grad}
    assert learning == {"head"} and not student.neck.training
    partly = replace(recipe, distill=replace(recipe.distill, inherit=("neck",)))
    other = build.build_task(partly, build.build_student(partly, CLASSES), teacher).student
    assert other.loaded_from is None  # its backbone is random still, and the checks should say so


def test_a_backbone_that_is_inherited_from_another_library_keeps_its_license() -> None:
    pytest.importorskip("timm")
    name = "timm:test_resnet"
    distill = Distill(name, {"pkd": {"adapter": True}}, teacher_weights="random", inherit=("backbone",))
    recipe = replace(RECIPE, model="gfl_r50", model_args={"backbone": name, "width": 16}, distill=distill)
    student, teacher = build.build_student(recipe, CLASSES), build.build_teacher(distill, CLASSES)
    origin = InitialWeights("timm/test_resnet.r160_in1k", "cc-by-nc-4.0")
    teacher.origin = origin  # type: ignore[assignment]
    assert build.build_task(recipe, student, teacher).student.initial_weights == origin
    teacher.origin = InitialWeights("timm/other", "apache-2.0")  # type: ignore[assignment]
    assert build.build_task(recipe, student, teacher).student.initial_weights == origin  # the head has its terms still


def test_a_file_that_training_starts_from_states_no_license(tmp_path) -> None:
    start = pkdzoo.create_detector("retina_r10w16", label_names=CLASSES)
    save_safetensors(start.state_dict(), tmp_path / "start.safetensors")
    found = build.build_student(replace(RECIPE, init=str(tmp_path / "start.safetensors")), CLASSES).initial_weights
    assert (found.name, found.license, len(found.sha256)) == ("start.safetensors", "unknown", 64)
    own = start.save_pretrained(tmp_path / "own") / "model.safetensors"
    assert build.build_student(replace(RECIPE, init=str(own)), CLASSES).initial_weights is None


def test_statistics_of_pixels_are_written_as_a_dict() -> None:
    pixel_norm = {"mean": [1.0, 2.0, 3.0], "std": [1.0, 1.0, 1.0], "channel_order": "bgr"}
    student = build.build_student(replace(RECIPE, model_args={"pixel_norm": pixel_norm}), CLASSES)
    assert student.pixel_mean.flatten().tolist() == [1.0, 2.0, 3.0] and student.channel_order == "bgr"


def test_without_a_teacher_the_task_has_the_interface_of_a_distiller_and_the_losses_of_the_student() -> None:
    student = build.build_student(RECIPE, CLASSES)
    task = build.build_task(RECIPE, student, None)
    assert (task.student, task.teacher, task.logs, len(task.methods)) == (student, None, {}, 0)
    assert set(task.state_dict()) == {f"student.{key}" for key in student.state_dict()}
    task.set_progress(step=1, total=2, epoch=0, epochs=1)
    task.on_epoch_start(0, [])
    target = pkdzoo.Instances(torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.tensor([1]))
    batch = pkdzoo.Batch(torch.full((1, 3, 64, 64), 90.0), [(64, 64)], [target])
    losses = task(batch)
    for key, value in student(batch).items():
        assert torch.equal(losses.pop(key), value)
    assert losses == {}


@pytest.mark.parametrize(("crop", "side"), [(None, 96), ((64, 64), 64)])
def test_training_images_have_the_border_of_the_evaluation(shapes, tmp_path, crop, side) -> None:
    """Without mosaic and mixup an RTMDet used to be trained on another border than it is evaluated with."""
    photos = make_shapes(tmp_path / "photos", train=2, val=1, size=(64, 96), seed=7)
    taught = Distill("rtmdet_w12", {"norm_cwd": {}}, teacher_weights="random", unlabeled=Unlabeled(str(photos)))
    data = replace(DATA, short=96, long=96, crop=crop)
    recipe = replace(RECIPE, model="rtmdet_w12", data=data, distill=taught)
    parts = build_parts(
        recipe, TrainArguments(tmp_path / "a.py", data=shapes, cpu=True), Accelerator(cpu=True), tmp_path
    )
    for images in parts.train_sets:
        assert images[0].size == (side, side) and (crop or (images[0].image[:, 64:] == 114).all())
    assert (parts.val_set[0].image[:, 64:] == 114).all()
    batch = next(iter(parts.train_loader))
    assert batch.sizes == [(side, side)] * 4  # nothing is left to be padded with zeros
    assert largest_image(data, parts.task.student.letterbox) == (side, side)
    mixed = replace(recipe, data=replace(data, mix=Mix()))
    assert isinstance(build.train_transform(mixed.data, 1, Letterbox()), MixTransform)
    plain = replace(RECIPE, data=data)
    parts = build_parts(
        plain, TrainArguments(tmp_path / "a.py", data=shapes, cpu=True), Accelerator(cpu=True), tmp_path
    )
    assert parts.train_set[0].size == (64, crop[1] if crop else 96)


def test_a_letterbox_of_another_side_is_refused_before_the_first_step(shapes, tmp_path) -> None:
    recipe = replace(RECIPE, model="rtmdet_w12", data=replace(DATA, short=100, long=100))
    args = TrainArguments(tmp_path / "recipe.py", data=shapes, cpu=True)
    with pytest.raises(ValueError, match=r"the side of a letterbox is a multiple of 32, not 100: write e.g. 96"):
        build_parts(recipe, args, Accelerator(cpu=True), tmp_path)
