"""Licenses, data sets and provenance of what is published: stated or recorded, never guessed, lost or replaced."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.finished_run import FILES, OF_A_RUN, names_in
from helpers.foreign_checkpoints import checkpoint, register, tensors
from safetensors.torch import load_file, save_file

import pkdzoo
from pkdzoo.evaluation import write_metrics
from pkdzoo.hub.card_licenses import ForbiddenLicense
from pkdzoo.hub.weights import Weights
from pkdzoo.training import Distill
from pkdzoo.training.provenance import about_teacher
from pkdzoo.training.publish import prepare

PETS = {"data": "pets", "data_license": "CC0-1.0"}


@pytest.mark.parametrize(
    ("given", "whose"),
    [({"teacher_license": "MIT"}, "the weights"), ({"license": "MIT"}, r"the teacher \(big_teacher\)")],
)
def test_unknown_licenses(run: Path, tmp_path: Path, given: dict[str, str], whose: str) -> None:
    with pytest.raises(ValueError, match=f"license of {whose} is unknown"):
        prepare(str(run), tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_of_registered_names_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = checkpoint(tensors(pkdzoo.create_detector("retina_r10w16")))
    file = tmp_path / "published.pth"
    file.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    row = Weights(
        "coco_1x", url="https://host/x.pth", sha256=digest[:8], metrics={"AP": 1.5}, source="them", license="MIT"
    )
    register(monkeypatch, row)
    monkeypatch.setenv("PKDZOO_CACHE", str(tmp_path / "cache"))
    by_file = prepare(str(file), tmp_path / "b", "org/b", arch="test_retina.coco_1x")
    card = (by_file / "README.md").read_text()
    assert digest in card
    assert "Source: them." in card
    assert names_in(by_file) == [".eval_results/coco-2017.yaml", *FILES]
    file.write_bytes(checkpoint(tensors(pkdzoo.create_detector("retina_r10w16"), 1)))
    with pytest.raises(ValueError, match=r"published\.pth is not test_retina\.coco_1x: its SHA-256 begins with"):
        prepare(str(file), tmp_path / "c", arch="test_retina.coco_1x")
    file.write_bytes(content)
    register(monkeypatch, Weights("coco_1x", url="https://host/zoo/x.pth", sha256=digest[:8], license="MIT"))
    monkeypatch.setenv("PKDZOO_MIRROR", str(tmp_path))
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "x.pth").write_bytes(content)
    by_name = prepare("test_retina.coco_1x", tmp_path / "a", "org/a")
    assert "converted from: <https://host/zoo/x.pth>" in (by_name / "README.md").read_text()
    assert (by_name / "model.safetensors").read_bytes() == (by_file / "model.safetensors").read_bytes()


def test_weights_without_a_license_are_published_once_the_caller_states_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = checkpoint(tensors(pkdzoo.create_detector("retina_r10w16")))
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "x.pth").write_bytes(content)
    monkeypatch.setenv("PKDZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PKDZOO_MIRROR", str(tmp_path))
    digest = hashlib.sha256(content).hexdigest()
    register(monkeypatch, Weights("coco_1x", url="https://host/zoo/x.pth", sha256=digest[:8]))
    with pytest.raises(ValueError, match="license of the weights is unknown"):
        prepare("test_retina.coco_1x", tmp_path / "a", "org/a")
    folder = prepare("test_retina.coco_1x", tmp_path / "a", "org/a", license="GPL-3.0")
    assert "license: gpl-3.0" in (folder / "README.md").read_text()
    assert all(pkdzoo.get_weights(name).license == "unknown" for name in ("rtmdet_s_yolo", "rtmdet_tiny_kd_s"))


def test_images_of_other_data_are_not_taken_for_generated_ones(run: Path, tmp_path: Path) -> None:
    """A recipe that generates its data can be trained on a data set; its images are not published unasked."""
    pkdzoo.create_detector("retina_r10w16", label_names=["cat", "dog"], resize=(64, 96)).save_pretrained(run / "best")
    (run / "best" / "metrics.json").unlink()
    facts = {"license": "MIT", "teacher_license": "MIT"}
    with pytest.raises(ValueError, match=r"license of the data set \(a custom data set\) is unknown"):
        prepare(str(run), tmp_path / "a", **facts)
    folder = prepare(str(run), tmp_path / "b", **facts, data="pets", data_license="CC0-1.0")
    assert "predictions.png" not in names_in(folder) and "generated shapes" not in (folder / "README.md").read_text()


def test_a_published_folder_keeps_its_license_and_provenance(run: Path, tmp_path: Path) -> None:
    """It can be published again under another name: from the folder alone, without the run and the teacher."""
    first = prepare(str(run), tmp_path / "a", "org/pets", license="CC-BY-NC-4.0", teacher_license="MIT")
    run.parent.rename(tmp_path / "moved")
    (tmp_path / "annsmith" / "big").rename(tmp_path / "big")
    second = prepare(str(first), tmp_path / "b", "org/pets")
    assert names_in(second) == OF_A_RUN
    for name in OF_A_RUN:
        assert (second / name).read_bytes() == (first / name).read_bytes(), name
    third = prepare(str(second), tmp_path / "c", "org/other", license="cc-by-nc-4.0", data_license="Apache-2.0")
    card = (first / "README.md").read_text().replace("org/pets", "org/other").replace("# pets", "# other")
    assert (third / "README.md").read_text() == card.replace("name: pets", "name: other")
    for given, message in (
        ({"license": "MIT"}, "a, which was published before, is under CC-BY-NC-4.0, which stays: leave --license out"),
        ({"teacher_license": "Apache-2.0"}, "teacher big_teacher is under MIT, which stays"),
        ({"data": "pets"}, "was published with the data set generated shapes: leave --data out"),
        ({"data_license": "MIT"}, "generated shapes is under Apache-2.0, which stays"),
        ({"baseline": tmp_path / "moved" / "plain"}, "was published before, and a baseline is compared with a run"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(str(first), tmp_path / "d", **given)
    model = pkdzoo.create_detector(f"local-dir:{first}")
    with pytest.raises(ForbiddenLicense, match="nothing is published under MIT, because its training started from a,"):
        model.push_to_hub("org/mine", "MIT", **PETS)
    with pytest.raises(ValueError, match=r"a is under CC-BY-NC-4\.0, which stays: leave --license out"):
        prepare(str(first / "model.safetensors"), tmp_path / "d", arch="retina_r10w16", license="MIT", **PETS)


def test_a_published_folder_with_other_weights_is_none(run: Path, tmp_path: Path) -> None:
    folder = prepare(str(run), tmp_path / "a", license="MIT", teacher_license="MIT")
    state = load_file(folder / "model.safetensors")
    save_file({key: value + 1 for key, value in state.items()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.safetensors is not what was published"):
        prepare(str(folder), tmp_path / "b")


@pytest.mark.parametrize("card", [[], {"data": {}}, {"name": 3}, {"data": {"name": "x"}, "pair": {"teacher": 1}}])
def test_facts_that_pkdzoo_did_not_write(run: Path, tmp_path: Path, card: object) -> None:
    folder = prepare(str(run), tmp_path / "a", license="MIT", teacher_license="MIT")
    config = json.loads((folder / "config.json").read_text())
    config["pkdzoo_cfg"]["card"] = card
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json: card.*: publish the run or the file that it was made from"):
        prepare(str(folder), tmp_path / "b")


def changed(folder: Path, target: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a published folder with another config."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    change(config)
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_a_folder_of_a_newer_version_says_so(run: Path, tmp_path: Path) -> None:
    folder = prepare(str(run), tmp_path / "a", license="MIT", teacher_license="MIT")

    def add_fact(config: dict[str, Any]) -> None:
        config["pkdzoo_cfg"]["card"]["later"] = 1

    def add_newer_fact(config: dict[str, Any]) -> None:
        add_fact(config)
        config["pkdzoo_version"] = "9.1.0"

    message = r"newer: config\.json: card has 'later', which this version does not know: publish the run.*\. "
    with pytest.raises(ValueError, match=message + r"It was saved by pkdzoo 9\.1\.0, and this is .*: pip install"):
        prepare(str(changed(folder, tmp_path / "newer", add_newer_fact)), tmp_path / "b")
    with pytest.raises(ValueError, match=r"^(?!.*upgrade).*card has 'later'"):
        prepare(str(changed(folder, tmp_path / "same", add_fact)), tmp_path / "b")
    newer = changed(folder, tmp_path / "known", lambda config: config.update(pkdzoo_version="9.1.0"))
    prepare(str(newer), tmp_path / "b")  # with nothing unknown in it
    weights = changed(
        folder, tmp_path / "c", lambda c: (add_newer_fact(c), c["pkdzoo_cfg"]["postprocess"].update(later=1))
    )
    with pytest.raises(ValueError, match=r"postprocess has 'later'.*saved by pkdzoo 9\.1\.0"):
        prepare(str(weights / "model.safetensors"), tmp_path / "d", arch="retina_r10w16", license="MIT", **PETS)


def test_a_license_cannot_be_taken_out(run: Path, tmp_path: Path) -> None:
    folder = prepare(str(run), tmp_path / "a", license="CC-BY-NC-4.0", teacher_license="MIT")
    without = changed(folder, tmp_path / "b", lambda config: config["pkdzoo_cfg"].pop("license"))
    with pytest.raises(ValueError, match=r"was published, and its config\.json has no license any more: put it back"):
        prepare(str(without), tmp_path / "c", license="MIT", teacher_license="MIT")


def test_numbers_of_a_published_folder_are_those_of_its_card(run: Path, tmp_path: Path) -> None:
    """Changed by hand they are refused; measured again, they have the command, images and hardware of then."""
    folder = prepare(str(run), tmp_path / "a", license="MIT", teacher_license="MIT")
    path = folder / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "AP": 99.0}))
    with pytest.raises(ValueError, match=r"has AP 99\.0, and config\.json says that 31\.5 was published: put it back"):
        prepare(str(folder), tmp_path / "b")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    about = {"command": f"pkdzoo eval {folder} --data other", "hardware": "1 x CPU", "ms_per_image": 50.0, "images": 99}
    write_metrics(path, {"AP": 77.0}, **about, weights_sha256=digest)
    again = prepare(str(folder), tmp_path / "b")
    card = (again / "README.md").read_text()
    assert "| AP |\n| ---: |\n| 77.0 |\n\nSource: `pkdzoo eval a --data other`." in card
    assert "50 ms an image, one at a time, on 1 x CPU." in card and "H200" not in card
    facts = json.loads((again / "config.json").read_text())["pkdzoo_cfg"]
    assert facts["AP"] == 77.0 and facts["provenance"]["images"] == 99
    assert "annotations_sha256" not in facts["provenance"] and facts["provenance"]["seed"] == 3
    third = prepare(str(again), tmp_path / "c")
    assert all((third / name).read_bytes() == (again / name).read_bytes() for name in names_in(again))


def test_the_start_of_a_detector_is_named_by_its_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(str(run), tmp_path / "pets", license="MIT", teacher_license="MIT")
    monkeypatch.chdir(tmp_path)
    for place in ("pets", "local-dir:pets", tmp_path / "pets"):
        start = pkdzoo.from_pretrained(place).initial_weights
        assert start is not None and start.name == "pets"
    monkeypatch.chdir(tmp_path / "pets")
    start = pkdzoo.from_pretrained(".").initial_weights
    assert start is not None and start.name == "pets"


def test_a_teacher_of_a_file_is_not_given_the_license_of_its_architecture(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where the file is the one that is published under it, or belongs to a saved detector."""
    state = tensors(pkdzoo.create_detector("retina_r10w16"))
    file = tmp_path / "teacher.pth"
    file.write_bytes(checkpoint(state))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    register(monkeypatch, Weights("coco_1x", url="https://host/x.pth", sha256=digest[:8], license="CC-BY-4.0"))
    distill = Distill("test_retina", {"pkd": {}}, teacher_weights=str(file))
    known = about_teacher(distill)
    assert (known["teacher"], known["teacher_license"]) == ("test_retina.coco_1x", "CC-BY-4.0")
    assert known["teacher_sha256"] == digest
    file.write_bytes(checkpoint(tensors(pkdzoo.create_detector("retina_r10w16"), 1)))
    other = about_teacher(distill)
    assert other["teacher"] == "test_retina" and "teacher_license" not in other
    recipe = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(
        json.dumps({**recipe, "distill": {**recipe["distill"], "teacher": "test_retina", "teacher_weights": str(file)}})
    )
    (run / "run.json").write_text(json.dumps({"teacher": other}))
    with pytest.raises(ValueError, match=r"license of the teacher \(test_retina\) is unknown"):
        prepare(str(run), tmp_path / "out", license="MIT")
    saved = prepare(str(tmp_path / "annsmith" / "big"), tmp_path / "published", license="MIT", **PETS)
    for weights in (saved, saved / "model.safetensors"):
        taught = about_teacher(Distill("fcos_r10w16", {"pkd": {}}, teacher_weights=str(weights)))
        assert (taught["teacher_license"], taught["teacher_architecture"]) == ("MIT", "fcos_r10w16")


def test_a_known_license_of_a_teacher_is_not_replaced(run: Path, tmp_path: Path) -> None:
    about = json.loads((run / "run.json").read_text())
    about["teacher"]["teacher_license"] = "CC-BY-NC-4.0"
    (run / "run.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"--teacher-license MIT: the teacher big_teacher is under CC-BY-NC-4\.0"):
        prepare(str(run), tmp_path / "out", license="MIT", teacher_license="MIT")
    folder = prepare(str(run), tmp_path / "out", license="MIT")
    assert "- teacher big_teacher: CC-BY-NC-4.0" in (folder / "LICENSE").read_text()


def test_what_training_started_from_decides_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of registered weights, and of a published detector: the license goes with the detector through folders."""
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "x.pth").write_bytes(checkpoint(tensors(pkdzoo.create_detector("retina_r10w16"))))
    monkeypatch.setenv("PKDZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PKDZOO_MIRROR", str(tmp_path))
    row = Weights("coco_1x", url="https://host/zoo/x.pth", license="CC-BY-NC-4.0")
    register(monkeypatch, row)
    model = pkdzoo.create_detector("test_retina", pretrained=True, label_names=["cat", "dog"])
    saved = pkdzoo.from_pretrained(model.save_pretrained(tmp_path / "saved"))
    for source in (model, saved):
        with pytest.raises(ForbiddenLicense, match=r"started from test_retina\.coco_1x, which is under CC-BY-NC-4\.0"):
            source.push_to_hub("org/mine", "MIT", **PETS)
    with pytest.raises(ForbiddenLicense, match=r"--license CC-BY-NC-4\.0"):
        prepare(str(tmp_path / "saved"), tmp_path / "out", license="MIT", **PETS)
    with pytest.raises(ValueError, match=r"--init-license MIT: test_retina\.coco_1x is under CC-BY-NC-4\.0, which"):
        prepare(str(tmp_path / "saved"), tmp_path / "out", license="CC-BY-NC-4.0", init_license="MIT", **PETS)
    folder = prepare(str(tmp_path / "saved"), tmp_path / "out", license="CC-BY-NC-4.0", **PETS)
    assert "weights that training started from, test_retina.coco_1x: CC-BY-NC-4.0" in (folder / "LICENSE").read_text()
    assert "base_model" not in (folder / "README.md").read_text()


def test_classes_do_not_tell_the_data_set(tmp_path: Path) -> None:
    """Many data sets have COCO's classes; a known one that is named has its license."""
    model = pkdzoo.create_detector("retina_r10w16", label_names="coco", resize=(64, 96))
    model.save_pretrained(tmp_path / "saved")
    missing = r"data set \(a custom data set\) is unknown.*; if it is COCO 2017, write --data coco"
    with pytest.raises(ValueError, match=missing):
        prepare(str(tmp_path / "saved"), tmp_path / "a", license="MIT")
    for k, name in enumerate(("coco", "COCO 2017")):
        folder = prepare(str(tmp_path / "saved"), tmp_path / f"b{k}", license="MIT", data=name)
        assert "- data set COCO 2017: annotations CC-BY-4.0; images" in (folder / "LICENSE").read_text()
    with pytest.raises(ValueError, match="--data-license MIT: COCO 2017 is under"):
        prepare(str(tmp_path / "saved"), tmp_path / "c", license="MIT", data="coco", data_license="MIT")


def test_metrics_that_do_not_say_of_which_weights_they_are(run: Path, tmp_path: Path) -> None:
    path = run / "best" / "metrics.json"
    content = json.loads(path.read_text())
    del content["weights_sha256"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"does not say by weights_sha256 .* measure again, pkdzoo eval"):
        prepare(str(run), tmp_path / "out", license="MIT", teacher_license="MIT")
