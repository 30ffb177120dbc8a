"""What the training script says to bad input, and that it leaves alone what was written before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from helpers.processes import happening
from helpers.scripts import script
from PIL import Image

from pkdzoo.dataset_tools.convert import convert
from pkdzoo.training import checkpoint


@pytest.fixture
def copy(shapes, tmp_path) -> Path:
    """A data set of one's own to break."""
    return Path(shutil.copytree(shapes, tmp_path / "data"))


def edit(data: Path, split: str, change) -> None:
    """Change an annotation file."""
    path = data / "annotations" / f"instances_{split}2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refusal(train, capsys, *argv: object) -> str:
    """The message of a run that ends with one."""
    with pytest.raises(SystemExit) as ended:
        train(*argv)
    assert ended.value.code not in (0, None)
    return str(ended.value.code)


@pytest.fixture
def threads_as_before() -> Iterator[None]:
    """Puts the number of threads and Accelerate's singletons back."""
    AcceleratorState._reset_state(True)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    AcceleratorState._reset_state(True)


def test_a_batch_norm_that_gets_a_single_value_is_explained(train, capsys, recipe, shapes, tmp_path) -> None:
    """The message of torch says nothing about what to write."""
    norms = 'model_args={"norm": "bn", "neck_norm": "bn"}'
    words = [word for each in ("data.batch_size=1", "data.short=48", "data.long=64", norms) for word in ("--set", each)]
    said = refusal(train, capsys, recipe, "--data", shapes, "--output", tmp_path / "run", *words)
    assert "a batch norm that is trained got one value per channel" in said
    assert "data.batch_size" in said and "model_args.norm=gn" in said


@pytest.fixture
def says(train, capsys, recipe, copy, tmp_path):
    def run(*argv: object) -> str:
        return refusal(train, capsys, recipe, "--data", copy, "--output", tmp_path / "run", *argv)

    return run


def test_no_data(train, capsys, recipe, tmp_path) -> None:
    assert "no data: write --data" in refusal(train, capsys, recipe, "--output", tmp_path / "run")
    said = refusal(train, capsys, recipe, "--output", tmp_path / "run2", "--data", tmp_path / "nowhere")
    assert "nowhere does not exist" in said


def test_weights_that_cannot_be_had(says, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PKDZOO_CACHE", str(tmp_path / "empty"))
    assert "HF_HUB_OFFLINE forbids downloading it" in says("--set", "model=retina_r18", "--set", "init=imagenet")


def test_a_file_that_is_not_coco(says, copy) -> None:
    (copy / "annotations" / "instances_train2017.json").write_text("[1, 2]")
    assert "instances_train2017.json" in says()


def test_no_box_at_all(says, copy) -> None:
    edit(copy, "train", lambda content: content["annotations"].clear())
    assert "0 of 13 images have a box" in says()


def test_an_empty_image_folder(says, copy) -> None:
    shutil.rmtree(copy / "train2017")
    (copy / "train2017").mkdir()
    assert "train2017 is empty" in says()


def test_missing_images_are_named_before_the_first_step(says, copy) -> None:
    gone = sorted((copy / "train2017").iterdir())[:2]
    for path in gone:
        path.unlink()
    said = says()
    assert "2 of 13 train images are not in" in said and gone[0].name in said


def test_what_is_wrong_with_the_data_is_said_before_steps_are_measured(
    recipe, copy, tmp_path, monkeypatch, threads_as_before
) -> None:
    """Without --threads, a long run measures steps; it must not load images that the check would name."""
    monkeypatch.setattr("pkdzoo.training.threads.share_of_cores", lambda processes, threads: 2)
    shutil.rmtree(copy / "train2017")
    (copy / "train2017").mkdir()
    words = [recipe, "--data", copy, "--output", tmp_path / "run", "--cpu", "--set", "schedule.epochs=50"]
    with pytest.raises(SystemExit) as ended:
        script("train").main(list(map(str, words)))
    assert "train2017 is empty" in str(ended.value.code)


def test_truncated_images_stop_the_run_with_their_names(says, copy) -> None:
    for path in sorted((copy / "train2017").iterdir())[:3]:
        path.write_bytes(path.read_bytes()[:300])
    said = says()
    assert "images cannot be read, more than 1%" in said and ".jpg" in said and "Traceback" not in said


def test_a_truncated_image_in_a_large_set_is_skipped_and_counted(train, recipe, copy, tmp_path, capsys) -> None:
    victim = min((copy / "train2017").iterdir())
    victim.write_bytes(victim.read_bytes()[:300])

    def grow(content) -> None:  # 1 of 118 is less than 1 %
        for k in range(105):
            twin = {**content["images"][1 + k % 12], "id": 1000 + k}
            content["images"].append(twin)
            content["annotations"].append({**content["annotations"][-1], "id": 5000 + k, "image_id": 1000 + k})

    edit(copy, "train", grow)
    train(
        recipe,
        "--data",
        copy,
        "--output",
        tmp_path / "run",
        "--set",
        "schedule.epochs=1",
        "--set",
        "data.batch_size=16",
    )
    assert "skipped 1 of 118 images that cannot be read" in capsys.readouterr().out


def test_an_image_that_turns_unreadable_while_it_trains(train, recipe, copy, tmp_path, capsys) -> None:
    victims = sorted((copy / "train2017").iterdir())[:3]

    def grow(content) -> None:
        for k in range(105):
            content["images"].append({**content["images"][4 + k % 9], "id": 1000 + k})
            content["annotations"].append({**content["annotations"][-1], "id": 5000 + k, "image_id": 1000 + k})

    edit(copy, "train", grow)
    words = [recipe, "--data", copy, "--set", "data.batch_size=8", "--set", "data.short=32"]
    with happening(15, victims[0].unlink):  # the first epoch is over
        train(*words, "--output", tmp_path / "run")
    assert "skipped 1 of 118 images that cannot be read" in capsys.readouterr().out
    with happening(3, lambda: [path.write_bytes(b"") for path in victims[1:]]), pytest.raises(SystemExit) as ended:
        train(*words, "--output", tmp_path / "stopped", "--set", "schedule.epochs=3")
    said = str(ended.value.code)
    assert "images cannot be read, more than 1%" in said and victims[1].name in said


def test_an_unreadable_validation_image_is_an_error(says, copy) -> None:
    victim = min((copy / "val2017").iterdir())
    Image.new("F", (96, 64)).save(victim, format="TIFF")
    assert victim.name in says()


def test_images_of_every_kind_train(train, recipe, copy, tmp_path, capsys) -> None:
    """One pixel, CMYK, 16 bits, alpha, an animation: none is skipped."""
    paths = sorted((copy / "train2017").iterdir())
    pixel = paths[0].name
    Image.new("RGB", (1, 1), "red").save(paths[0])
    whole = [Image.open(path).convert("RGB") for path in paths[1:6]]
    whole[0].convert("CMYK").save(paths[1], format="JPEG")
    Image.fromarray(np.asarray(whole[1].convert("L")).astype(np.uint16) << 8).save(paths[2], format="PNG")
    whole[2].convert("RGBA").save(paths[3], format="PNG")
    whole[3].save(paths[4], format="GIF", save_all=True, append_images=whole[:2])
    whole[4].quantize(8).save(paths[5], format="PNG", transparency=0)

    def shrink(content) -> None:
        row = next(row for row in content["images"] if row["file_name"] == pixel)
        row.update(width=1, height=1)
        for box in content["annotations"]:
            if box["image_id"] == row["id"]:
                box["bbox"] = [0, 0, 1, 1]

    edit(copy, "train", shrink)
    train(recipe, "--data", copy, "--output", tmp_path / "run", "--set", "schedule.epochs=1")
    said = capsys.readouterr().out
    assert "skipped" not in said and "13 images" in said


def test_boxes_without_area_or_outside_are_left_out_and_counted(train, recipe, copy, tmp_path, capsys) -> None:
    def spoil(content) -> None:
        content["annotations"][0]["bbox"][2] = 0
        content["annotations"][1]["bbox"][3] = -4
        content["annotations"][2]["bbox"] = [500, 500, 10, 10]

    edit(copy, "train", spoil)
    train(recipe, "--data", copy, "--output", tmp_path / "run", "--set", "schedule.max_steps=1")
    said = capsys.readouterr().out
    assert "2 boxes left out: width or height is not above zero" in said and "1 box left out: outside" in said


def test_category_ids_with_holes_train(train, recipe, copy, tmp_path) -> None:
    def spread(content) -> None:
        for row in content["categories"]:
            row["id"] = row["id"] * 10 + 7
        for row in content["annotations"]:
            row["category_id"] = row["category_id"] * 10 + 7

    for split in ("train", "val"):
        edit(copy, split, spread)
    train(recipe, "--data", copy, "--output", tmp_path / "run", "--set", "schedule.max_steps=1")
    assert (tmp_path / "run" / "last" / "model.safetensors").is_file()


def test_categories_of_the_validation_set_that_training_does_not_know(says, copy) -> None:
    edit(copy, "val", lambda content: content["categories"][0].update(name="hexagon"))
    assert "hexagon" in says()


def test_number_of_classes_that_is_not_the_datas(says) -> None:
    assert "num_classes=80, but the data has 6 classes" in says("--set", "model_args.num_classes=80")


def test_weights_of_other_classes(says, train, recipe, shapes, tmp_path) -> None:
    train(recipe, "--data", shapes, "--output", tmp_path / "three", "--set", "schedule.max_steps=1")
    weights = tmp_path / "three" / "last" / "model.safetensors"
    teacher = f'Distill("retina_r10w16", teacher_args={{"num_classes": 3}}, teacher_weights="{weights}")'
    recipe.write_text(
        recipe.read_text() + f"from dataclasses import replace\nRECIPE = replace(RECIPE, distill={teacher})\n"
    )
    said = says()
    assert "head.cls.weight" in said


def test_teachers_that_cannot_teach(says, recipe) -> None:
    text = recipe.read_text()
    row = "from dataclasses import replace\nRECIPE = replace(RECIPE, distill=Distill({}))\n"
    recipe.write_text(text + row.format('"retina_r10w16"'))
    assert "the teacher 'retina_r10w16' cannot be loaded: there are no weights" in says()
    recipe.write_text(text + row.format('"retina_r10w16", teacher_args={"width": 32}, teacher_weights="random"'))
    said = says()
    assert "64 of them" in said and "the teacher 32" in said
    recipe.write_text(text + row.format('"retina_r10w16", {"pkdd": {}}, teacher_weights="random"'))
    assert "no distillation method 'pkdd'" in says()
    recipe.write_text(text + row.format('"fcos_r10w16", teacher_weights="random", inherit=("head",)'))
    assert "distill.inherit='head'" in says()


def test_a_folder_that_holds_something_else(says, train, recipe, copy, tmp_path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    assert "is not empty and holds no run" in says()
    assert (out / "thesis.tex").read_text() == "years of work"
    (out / "thesis.tex").unlink()
    train(recipe, "--data", copy, "--output", out, "--set", "schedule.max_steps=1")
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert "holds a run of 'tiny' already: continue it with --resume" in says()
    said = says("--resume", "--set", "model=fcos_r10w16")
    assert "holds another run" in said and 'model: "retina_r10w16" -> "fcos_r10w16"' in said
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_a_loss_that_stops_being_a_number(says, copy, tmp_path) -> None:
    said = says("--set", "optim.lr=1e30", "--set", "optim.clip=none", "--set", "schedule.warmup=none",
                "--set", "logging.save_every=1")  # fmt: skip
    assert "became nan" in said or "became inf" in said
    assert ".jpg" in said and "checkpoints/step_0000000" in said
    good = checkpoint.find_checkpoint(tmp_path / "run")
    assert good is not None
    assert all(bool(value.isfinite().all()) for value in checkpoint.read_checkpoint(good[0])[0].values())


def test_a_batch_that_cannot_be_shared(says) -> None:
    assert "cannot be divided by 1 process x 3 accumulated passes" in says("--set", "optim.accumulate=3")


def test_frozen_layers_that_were_never_loaded_are_warned_about(train, recipe, copy, tmp_path, capsys) -> None:
    train(recipe, "--data", copy, "--output", tmp_path / "run", "--set", "schedule.max_steps=1",
          "--set", "model_args.frozen_stages=1")  # fmt: skip
    assert "were never loaded: random layers that are not trained" in capsys.readouterr().out


def test_an_unknown_field_and_an_unknown_model(says) -> None:
    assert "Did you mean lr" in says("--set", "optim.lrate=1")
    assert "Did you mean retina_r10w16" in says("--set", "model=retina_r10w61")
    assert "has no argument 'norms'" in says("--set", "model_args.norms=gn")


def test_training_says_what_data_check_calls_an_error(train, recipe, copy, tmp_path, capsys) -> None:
    convert(copy, tmp_path / "yolo", "yolo")
    labels = tmp_path / "yolo" / "labels" / "train"
    first = min(labels.iterdir())
    first.rename(tmp_path / "yolo" / "images" / "train" / first.name)  # beside its image, where it is not read
    description = tmp_path / "yolo" / "data.yaml"
    description.write_text(f"{description.read_text()}nc: 5\n")
    words = [recipe, "--data", tmp_path / "yolo", "--output", tmp_path / "run", "--set", "schedule.max_steps=1"]
    train(*words)
    said = capsys.readouterr().out
    assert "warning: the train set has label files that are not where" in said and first.name in said
    assert said.count("set has nc in data.yaml is not the number of names, which decides") == 2 and "nc: 5" in said
