"""Training with images without annotations beside the labeled ones, through the training script."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from helpers.processes import Run
from helpers.scripts import assert_same_run, log_lines

from pkdzoo.data import make_shapes
from pkdzoo.hub.card import Card, DataSet
from pkdzoo.training import Distill, Recipe, Unlabeled, checkpoint
from pkdzoo.training.publish import without_local_paths

CARD = Card("mine", "retina_r50", "Apache-2.0", ("cell",), DataSet("cells"))
TAUGHT = """
from dataclasses import replace
TEACHER = Distill("fcos_r10w16", {"pkd": {}, "fgd": {}}, teacher_args={"num_classes": 6}, teacher_weights="random")
RECIPE = replace(RECIPE, distill=TEACHER)
"""


def sets(*assignments: str) -> list[str]:
    return [word for each in assignments for word in ("--set", each)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images, none of which is labeled."""
    root = make_shapes(tmp_path_factory.mktemp("photos") / "data", train=7, val=1, size=(64, 80), seed=9)
    shutil.rmtree(root / "annotations")
    return root


@pytest.fixture
def taught(recipe: Path) -> Path:
    """The tiny recipe with a teacher, as a file."""
    recipe.write_text(recipe.read_text() + TAUGHT)
    return recipe


@pytest.fixture
def refusal(train, shapes, taught, tmp_path):
    """The message of a run that does not begin, or does not go on."""

    def call(*argv: object, output: Path | None = None) -> str:
        with pytest.raises(SystemExit) as ended:
            train(taught, "--data", shapes, "--output", output or tmp_path / "refused", *argv)
        return str(ended.value.code)

    return call


def test_a_step_takes_both_and_the_summary_says_how_many(train, shapes, taught, photos, tmp_path, capsys) -> None:
    copied = Path(shutil.copytree(photos, tmp_path / "photos"))
    shutil.copy(shapes / "val2017" / "000010000001.jpg", copied / "leak.jpg")
    words = sets("distill.unlabeled.ratio=0.5", "distill.unlabeled.weight=0.25", "logging.log_every=1")
    train(taught, "--data", shapes, "--output", tmp_path / "run", "--unlabeled", copied, *words,
          *sets("schedule.max_steps=2"))  # fmt: skip
    said = capsys.readouterr().out
    assert f"unlabeled {copied}: 8 images without labels; left out: 1 of the same bytes as an image of the val" in said
    assert (
        "unlabeled 2 a step beside 4 labeled ones, each 0.5 times in all, with weight 0.25, for the features of pkd"
        in said
    )
    assert "fgd from labeled images alone" in said
    steps = [line for line in log_lines(tmp_path / "run") if "loss" in line]
    assert len(steps) == 2
    for line in steps:
        assert line["loss_pkd_unlabeled"] == pytest.approx(0.25 * line["loss_pkd"], rel=0.2)  # r is near 0 in both
        total = sum(value for key, value in line.items() if key.startswith("loss_"))
        assert line["loss"] == pytest.approx(total, rel=1e-5)
    content = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert content["distill"]["unlabeled"] == {"folder": str(copied), "ratio": 0.5, "weight": 0.25}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["unlabeled_images"] == 8


def test_images_of_the_test_split_are_left_out(train, shapes, taught, photos, tmp_path, capsys) -> None:
    """They used to be trained on: only those of the training and the validation split were known."""
    data = Path(shutil.copytree(shapes, tmp_path / "data"))
    other = make_shapes(tmp_path / "other", train=1, val=2, size=(64, 80), seed=5)
    shutil.copytree(other / "val2017", data / "test2017")
    truth = data / "annotations" / "instances_test2017.json"
    shutil.copy(other / "annotations" / "instances_val2017.json", truth)
    train(taught, "--data", data, "--output", tmp_path / "run", "--unlabeled", tmp_path, *sets("schedule.max_steps=1"))
    said = capsys.readouterr().out
    names = [f"'{folder}/{path.name}'" for path in sorted((data / "test2017").iterdir()) for folder in
             ("data/test2017", "other/val2017")]  # fmt: skip
    assert f"{tmp_path}: 1 image without labels" in said  # the training image of the other data set
    assert "4 of the same bytes as an image of the test split (" in said and any(name in said for name in names)
    shutil.rmtree(data / "test2017")  # annotations without their images, as of a challenge, stop nothing
    train(taught, "--data", data, "--output", tmp_path / "b", "--unlabeled", photos, *sets("schedule.max_steps=1"))
    assert "8 images without labels\n" in capsys.readouterr().out


def test_a_run_that_goes_on_within_an_epoch_is_the_same_and_the_folder_may_have_moved(
    train, shapes, taught, photos, refusal, tmp_path
) -> None:
    words = [taught, "--data", shapes, *sets("optim.accumulate=2", "schedule.epochs=1")]
    moved = Path(shutil.copytree(photos, tmp_path / "moved"))
    train(*words, "--output", tmp_path / "whole", "--unlabeled", photos)
    train(*words, "--output", tmp_path / "parts", "--unlabeled", photos, *sets("schedule.max_steps=1"))
    with pytest.warns(UserWarning, match=r"distill\.unlabeled\.folder"):
        train(*words, "--output", tmp_path / "parts", "--unlabeled", moved, "--resume")
    whole, parts = (checkpoint.find_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    assert whole is not None and parts is not None and whole[1].step == parts[1].step == 4
    tensors, others = (checkpoint.read_checkpoint(found[0])[0] for found in (whole, parts))
    assert all(torch.equal(value, others[key]) for key, value in tensors.items())

    more = ["--resume", *sets("optim.accumulate=2", "schedule.epochs=1")]
    assert "holds another run" in refusal(*more, output=tmp_path / "parts")  # without its unlabeled images
    next((moved / "train2017").iterdir()).unlink()
    said = refusal("--unlabeled", moved, *more, output=tmp_path / "parts")
    assert "the data changed since" in said and "the unlabeled images" in said


def test_folders_and_recipes_that_cannot_be_used(refusal, taught, recipe_text, photos, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty has no images" in refusal("--unlabeled", tmp_path / "empty")
    broken = Path(shutil.copytree(photos, tmp_path / "broken"))
    victim = next((broken / "train2017").iterdir())
    victim.write_bytes(b"no image")
    said = refusal("--unlabeled", broken)
    assert "1 of 8 unlabeled images cannot be read" in said and str(victim) in said
    said = refusal("--unlabeled", photos, *sets('distill.methods={"fgd": {}}'))
    assert "there is only fgd: write pkd beside it" in said
    assert "write unlabeled images per labeled one, above 0" in refusal(
        "--unlabeled", photos, *sets("distill.unlabeled.ratio=0")
    )
    taught.write_text(recipe_text)
    said = refusal("--unlabeled", photos)
    assert "unlabeled images are for a distillation, and tiny has none: write distill=Distill(TEACHER" in said
    assert not (tmp_path / "refused").exists()


def test_a_published_recipe_names_the_folder_without_its_path() -> None:
    for folder in ("/home/me/photos/", "C:\\me\\photos", "photos"):
        distill = Distill("retina_r101.coco_2x", unlabeled=Unlabeled(folder, ratio=2.0))
        content = without_local_paths(Recipe("mine", "retina_r50", distill=distill).to_dict(), CARD)
        assert content["distill"]["unlabeled"] == {"folder": "photos", "ratio": 2.0, "weight": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_goes_on_to_the_last_bit(processes, workers, shapes, taught, photos, tmp_path) -> None:
    words = [taught, "--data", shapes, "--unlabeled", photos, "--cpu", "--threads", 1]
    words += sets(
        "logging.save_every=2", f"data.workers={workers}", "model_args.norm=bn", "distill.unlabeled.ratio=1.5"
    )

    def run(name: str, *more: object, **options) -> Run:
        said = tmp_path / f"{name}.said"
        return Run("train", *words, "--output", tmp_path / name, *more, said=said, processes=processes, **options)

    run("whole").finish()
    part = run("cut", signal_at=(0, 3, signal.SIGKILL))
    assert part.wait()[0] == -signal.SIGKILL, part.text()
    found = checkpoint.find_checkpoint(tmp_path / "cut")
    assert found is not None and found[1].step_in_epoch == 2
    run("cut", "--resume").finish()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(recipe, photos, tmp_path) -> None:
    """Statistics of PKD over all processes; images of one size, so that every batch has the same padding."""
    recipe.write_text(recipe.read_text() + TAUGHT.replace('"pkd": {}, "fgd": {}', '"pkd": {"sync": True, "levels": 3}'))
    even = make_shapes(tmp_path / "even", train=16, val=2, size=(64, 96))
    for processes in (1, 2):
        output = tmp_path / str(processes)
        words = [recipe, "--data", even, "--unlabeled", photos, "--output", output, "--cpu", "--threads", 1]
        words += sets("data.short=64", "logging.log_every=1", "schedule.epochs=1")
        Run("train", *words, said=tmp_path / f"{processes}.said", processes=processes).finish()
    one, two = (log_lines(tmp_path / name) for name in "12")
    assert len(one) == len(two) == 5
    for step in range(4):
        for key in ("loss_pkd_unlabeled", "loss_pkd", "loss_cls", "loss_box", "grad_norm"):
            assert two[step][key] == pytest.approx(one[step][key], rel=1e-5 if step == 0 else 1e-3), (step, key)
