"""From a run, a registered name or a file to the folder that is published, and nothing else of them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.request import urlopen

import pytest
from helpers.finished_run import NAMES, OF_A_RUN, names_in
from helpers.loopback_hub import TOKEN
from helpers.scripts import ROOT
from PIL import Image

import pkdzoo
from pkdzoo.hub.upload import text_of
from pkdzoo.training import Data, Distill, Recipe, load_recipe, run_folder
from pkdzoo.training.provenance import about_teacher
from pkdzoo.training.publish import prepare
from pkdzoo.training.run_table import STUDENT


def test_of_a_run(run: Path, tmp_path: Path) -> None:
    folder = prepare(str(run), tmp_path / "out", "org/pets", license="MIT", teacher_license="MIT")
    assert names_in(folder) == OF_A_RUN
    for path in folder.iterdir():  # what is published knows nothing of where it was made
        # Of tensors their head: three letters stand in millions of random bytes every few times.
        content = text_of(path).encode() if path.suffix == ".safetensors" else path.read_bytes()
        for word in (str(tmp_path), "annsmith", "optimizer.bin", "/home/", "/data/", "/annsmith", "hf_"):
            assert word.encode() not in content, (path.name, word)
    facts = json.loads((folder / "config.json").read_text())["pkdzoo_cfg"]["provenance"]
    assert (facts["teacher"], facts["teacher_architecture"], facts["teacher_AP"]) == (
        "big_teacher",
        "fcos_r10w16",
        55.25,
    )
    assert facts["teacher_AP_source"] == "`recipes/evaluate.py best --data shapes`"
    digest = hashlib.sha256((tmp_path / "annsmith" / "big" / "best" / "model.safetensors").read_bytes()).hexdigest()
    assert facts["teacher_sha256"] == digest
    options = {"weight": 6.0, "levels": 4, "pair": "index", "resize": "larger", "sync": False, "adapter": False}
    assert facts["methods"] == {"pkd": {**options, "where": "neck"}}
    assert facts["AP"] == {"teacher": 55.25, "plain": 20.0, "distilled": 31.5}
    assert facts["gap_closed"] == pytest.approx(11.5 / 35.25)
    assert (facts["recipe"], facts["seed"], facts["torch"]) == ("distilled", 3, "2.6")
    assert (facts["images"], facts["annotations_sha256"]) == (7, "ab12")
    published = json.loads((folder / "metrics.json").read_text())
    assert (published["AP"], published["annotations_sha256"], published["images"]) == (31.5, "ab12", 7)
    assert pkdzoo.create_detector(f"local-dir:{folder}").label_names == tuple(NAMES)


def test_card_of_a_run(run: Path, tmp_path: Path) -> None:
    folder = prepare(str(run), tmp_path / "out", "org/pets", license="MIT", teacher_license="MIT")
    card = (folder / "README.md").read_text()
    for text in (
        "distilled from `big_teacher`. It detects 2 classes of generated shapes: circle, square.",
        "![Predictions](predictions.png)",
        'create_detector("hf-hub:org/pets")',
        "Teacher: `big_teacher`. Methods: pkd.",
        "| teacher `big_teacher` | 55.2 |\n| plain student `retina_r10w16` | 20.0 |\n| distilled student | 31.5 |",
        "Distillation closes 33% of the gap from plain student to teacher. Source: measured after the last epoch of "
        "one run each, seed 3, `recipes/train.py recipes/mine.py --output demo --set optim.lr=0.1`.",
        "| AP | AP50 | APl | AR100 |\n| ---: | ---: | ---: | ---: |\n| 31.5 | 60.0 | - | 44.0 |",
        "| circle | 40.0 |",
        "0.72 million parameters, 0.038 billion multiply-adds for an image of 96 x 64; 2.9 MB; 12.3 ms an image, one "
        "at a time, on 1 x H200.",
        "accelerate launch recipes/train.py recipes/mine.py --output demo --set optim.lr=0.1\n",
        "accelerate launch recipes/train.py recipe.json\n",
        "- methods: pkd weight 6.0, levels 4, pair index",
        "- data set generated shapes: Apache-2.0",
        "- teacher big_teacher: MIT",
    ):
        assert text in card, text


def test_the_published_recipe_runs_again(run: Path, tmp_path: Path) -> None:
    folder = prepare(str(run), tmp_path / "out", license="MIT", teacher_license="MIT")
    recipe = load_recipe(folder / "recipe.json")
    assert recipe.distill is not None and recipe.distill.teacher == "local-dir:big_teacher"
    assert recipe == replace(
        load_recipe(run / "recipe.json"), distill=replace(recipe.distill, teacher="local-dir:big_teacher")
    )


def test_of_folders_with_spaces_and_weights_on_the_hub(run: Path, tmp_path: Path) -> None:
    """Whose disk it was must not show in half a path; what others can fetch stays."""
    about, content = (json.loads((run / name).read_text()) for name in ("run.json", "recipe.json"))
    place = "'/home/Jane Doe/my images'"
    about["command"] = (
        f"'/home/Jane Doe/recipes/train.py' mine.py --data {place} --set 'data.generate={{\"train\": 9}}'"
    )
    content["init"] = "hf-hub:org/pets@v1"
    (run / "run.json").write_text(json.dumps(about))
    (run / "recipe.json").write_text(json.dumps(content))
    folder = prepare(str(run), tmp_path / "out", license="MIT", teacher_license="MIT")
    card = (folder / "README.md").read_text()
    launch = "launch recipes/train.py mine.py --data 'my images' --set 'data.generate={\"train\": 9}'\n"
    assert launch in card and "Jane" not in card
    assert load_recipe(folder / "recipe.json").init == "hf-hub:org/pets@v1"


def test_numbers_of_other_weights_are_not_published(run: Path, tmp_path: Path) -> None:
    """What a run leaves that is killed after it has written its weights and before their numbers."""

    def export() -> None:
        model = pkdzoo.create_detector("retina_r10w16", label_names=NAMES, resize=(64, 96))
        run_folder.export(model, run, {"AP": 31.5}, {"command": "train.py"}, best=False)

    def published(folder: Path) -> dict[str, Any]:
        prepare(str(run / "last"), folder, license="MIT", teacher_license="MIT")
        return dict(json.loads((folder / "metrics.json").read_text()))

    export()
    numbers = published(tmp_path / "a")
    assert numbers["AP"] == 31.5 and "weights_sha256" not in numbers
    with (
        mock.patch.object(run_folder, "write_metrics", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        export()
    with pytest.raises(ValueError, match=r"metrics\.json was measured with other weights .* --resume, or measure"):
        published(tmp_path / "b")
    assert not (tmp_path / "b").exists()
    taught = about_teacher(Distill(f"local-dir:{run / 'last'}", {"pkd": {}}))
    assert "teacher_AP" not in taught and taught["teacher_sha256"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", [1], "holds no JSON object but a list"),
        ("recipe.json", [1], "holds no JSON object but a list"),
        (
            "metrics.json",
            {"ms_per_image": "fast"},
            "ms_per_image is 'fast' in its metrics, which is no number: run `pkdzoo eval`",
        ),
        ("metrics.json", {"per_class": [1.0]}, "per_class is a list in its metrics"),
    ],
)
def test_files_that_no_run_wrote(run: Path, tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = run / ("best" if name == "metrics.json" else "") / name
    if name == "metrics.json" and isinstance(content, dict):
        content = {**json.loads(path.read_text()), **content}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        prepare(str(run), tmp_path / "out", license="MIT", teacher_license="MIT")
    assert not (tmp_path / "out").exists()


def test_class_names_stay_in_their_cells(run: Path, tmp_path: Path) -> None:
    content = json.loads((run / "best" / "metrics.json").read_text())
    content["per_class"] = {"cup | glass": 40.0, "two\nlines": 23.0}
    (run / "best" / "metrics.json").write_text(json.dumps(content))
    folder = prepare(str(run), tmp_path / "out", license="MIT", teacher_license="MIT")
    assert "| cup \\| glass | 40.0 |\n| two lines | 23.0 |" in (folder / "README.md").read_text()


@pytest.mark.parametrize("numbers", [{"AP": float("nan")}, {"AR100": "high"}, {"per_class": {"star": float("inf")}}])
def test_numbers_that_are_none(run: Path, tmp_path: Path, numbers: dict[str, Any]) -> None:
    content = json.loads((run / "best" / "metrics.json").read_text())
    (run / "best" / "metrics.json").write_text(json.dumps({**content, **numbers}))
    with pytest.raises(ValueError, match=r"(AP|AR100|per_class star) is .* in its metrics and should be a number"):
        prepare(str(run), tmp_path / "out", license="MIT", teacher_license="MIT")
    assert not (tmp_path / "out").exists()
    (run / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is not JSON"):
        prepare(str(run), tmp_path / "out", license="MIT", teacher_license="MIT")


def test_images_of_others_are_published_only_when_asked(run: Path, tmp_path: Path) -> None:
    content = json.loads((run / "recipe.json").read_text())
    content["data"]["generate"] = None
    (run / "recipe.json").write_text(json.dumps(content))
    facts = {"license": "MIT", "teacher_license": "MIT", "data": "pets", "data_license": "CC0-1.0"}
    folder = prepare(str(run), tmp_path / "a", **facts)
    assert names_in(folder) == [name for name in OF_A_RUN if name != "predictions.png"]
    exif = Image.Exif()
    exif[0x013B] = "Ann Smith"  # artist
    Image.new("RGB", (90, 60), "teal").save(tmp_path / "cat.jpg", exif=exif)
    folder = prepare(str(run), tmp_path / "b", **facts, image=tmp_path / "cat.jpg")
    assert "![Predictions](predictions.png)" in (folder / "README.md").read_text()
    assert Image.open(folder / "predictions.png").getpixel((0, 0))[2] > 99
    assert b"Smith" in (tmp_path / "cat.jpg").read_bytes()
    assert b"Smith" not in (folder / "predictions.png").read_bytes()


def test_runs_that_differ_in_more_are_not_compared(run: Path, tmp_path: Path) -> None:
    other = Recipe("plain", "retina_r10w16", {"norm": "gn"}, data=Data(generate={"train": 9}), seed=3)
    (run.parent / "plain" / "recipe.json").write_text(json.dumps(other.to_dict()))
    folder = prepare(str(run / "last"), tmp_path / "out", license="MIT", teacher_license="MIT")
    card = (folder / "README.md").read_text()
    assert "plain student" not in card
    assert "AP of the teacher: 55.2, source: `recipes/evaluate.py best --data shapes`." in card


@pytest.mark.parametrize("where", ["image", "metrics", "recipe", "best", "comparison"])
def test_links_in_a_run_are_not_followed(run: Path, tmp_path: Path, where: str) -> None:
    """A run folder of somebody else could show a private file to whoever publishes it."""
    path = {
        "image": run / "predictions.png",
        "metrics": run / "best" / "metrics.json",
        "recipe": run / "recipe.json",
        "best": run / "best",
        "comparison": run.parent / "comparison.json",
    }[where]
    outside = tmp_path / "private"
    if path.exists():
        path.rename(outside)
    else:
        outside.write_text("private key")
    path.symlink_to(outside)
    with pytest.raises(ValueError, match=f"{path.name} is a symbolic link.*put a copy"):
        prepare(str(run), tmp_path / "out", license="MIT", teacher_license="MIT")
    assert not (tmp_path / "out").exists()


def test_a_plain_student_of_another_seed_is_no_baseline(run: Path, tmp_path: Path) -> None:
    recipe = run.parent / "plain" / "recipe.json"
    recipe.write_text(json.dumps({**json.loads(recipe.read_text()), "seed": 4}))
    folder = prepare(str(run), tmp_path / "out", "org/pets", license="MIT", teacher_license="MIT")
    facts = json.loads((folder / "config.json").read_text())["pkdzoo_cfg"]["provenance"]
    assert facts.get("gap_closed") is None and "gap" not in (folder / "README.md").read_text()


def test_a_baseline_whose_annotations_are_several_files(run: Path, tmp_path: Path) -> None:
    """Without a hash of one file, as in YOLO, that of run.json tells whether the images are the same."""
    (run.parent / "comparison.json").unlink()
    plain = run.parent / "plain"
    for folder in (run, plain):
        metrics = json.loads((folder / "best" / "metrics.json").read_text())
        del metrics["annotations_sha256"]
        (folder / "best" / "metrics.json").write_text(json.dumps(metrics))
        about = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**about, "data": {"val_sha256": "ab"}}))
    facts = {"license": "MIT", "teacher_license": "MIT", "baseline": plain}
    card = (prepare(str(run), tmp_path / "a", **facts) / "README.md").read_text()
    assert "| plain student | 31.5 |" in card
    (plain / "run.json").write_text(json.dumps({"data": {"val_sha256": "cd"}}))
    with pytest.raises(ValueError, match=r"cannot be compared .* other validation images"):
        prepare(str(run), tmp_path / "b", **facts)


def test_a_baseline_from_another_folder(run: Path, tmp_path: Path) -> None:
    """The plain student's AP comes from its own run; the teacher's is shown only if it is of the same images."""
    (run.parent / "comparison.json").unlink()
    plain = tmp_path / "elsewhere"
    (run.parent / "plain").rename(plain)
    content = json.loads((plain / "best" / "metrics.json").read_text())
    (plain / "best" / "metrics.json").write_text(json.dumps({**content, "AP": 21.25}))
    facts = {"license": "MIT", "teacher_license": "MIT"}
    card = (prepare(str(run), tmp_path / "a", **facts, baseline=plain) / "README.md").read_text()
    assert "| plain student | 21.2 |\n| distilled student | 31.5 |\n\nThe distilled student has +10.2 AP." in card
    assert "teacher was not evaluated on these images" in card
    about = json.loads((run / "run.json").read_text())
    about["teacher"]["teacher_annotations_sha256"] = "ab12"
    (run / "run.json").write_text(json.dumps(about))
    card = (prepare(str(run), tmp_path / "b", **facts, baseline=plain) / "README.md").read_text()
    assert "| plain student `retina_r10w16` | 21.2 |\n| distilled student | 31.5 |" in card
    assert "closes 30% of the gap" in card and "seeds 3 and 3 (plain)" in card
    (plain / "best" / "metrics.json").write_text(json.dumps({**content, "annotations_sha256": "cd34"}))
    with pytest.raises(ValueError, match=r"cannot be compared .* other validation images"):
        prepare(str(run), tmp_path / "c", **facts, baseline=plain)
    recipe = json.loads((plain / "recipe.json").read_text())
    (plain / "best" / "metrics.json").write_text(json.dumps(content))
    for field in STUDENT:
        other = f"{recipe.get(field)}, changed" if field in ("model", "init") else {"changed": 1}
        (plain / "recipe.json").write_text(json.dumps({**recipe, field: other}))
        with pytest.raises(ValueError, match=rf"cannot be compared .* another {field}$"):
            prepare(str(run), tmp_path / "c", **facts, baseline=plain)
    (plain / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(ValueError, match="it has a teacher"):
        prepare(str(run), tmp_path / "c", **facts, baseline=run)
    with pytest.raises(ValueError, match="was trained without a teacher"):
        prepare(str(plain), tmp_path / "c", **facts, baseline=run)


def test_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no folder .* for a checkpoint file write --arch"):
        prepare(str(tmp_path / "x.pth"), tmp_path / "out")


def publish(*words: object, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    """The script as people start it."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PKDZOO_"))}
    more = os.environ.get("PKDZOO_TEST_HUB_CLIENT", "")
    path = os.pathsep.join([more, str(ROOT)]).strip(os.pathsep)
    command = [sys.executable, str(ROOT / "recipes" / "publish.py"), *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**clean, "PYTHONPATH": path, **env}
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture
def hub() -> Iterator[tuple[str, Callable[..., dict[str, Any]]]]:
    """A Hub in a process of its own: its address, and a call that sets faults and tells what it was asked and holds."""
    pipe = subprocess.PIPE
    served = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "helpers" / "loopback_hub.py")], stdin=pipe, stdout=pipe, text=True
    )
    assert served.stdin is not None and served.stdout is not None

    def ask(*faults: tuple[str, int]) -> dict[str, Any]:
        served.stdin.write(json.dumps(faults) + "\n")
        served.stdin.flush()
        return json.loads(served.stdout.readline())

    yield json.loads(served.stdout.readline()), ask
    served.stdin.close()
    served.stdout.close()
    served.wait(30)


@pytest.mark.slow  # as a process of its own; test_dry_runs and tests/hub/test_loopback.py test the parts
def test_the_script_sends_and_goes_on_after_a_broken_upload(run: Path, tmp_path: Path, hub: Any) -> None:
    url, ask = hub
    env = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    words = (run, "--repo", "org/pets", "--license", "MIT", "--teacher-license", "MIT")
    ask(*[("POST /api/models/org/pets/commit", 503)] * 20)
    broken = publish(*words, check=False, **env)
    assert broken.returncode == 1
    assert "pkdzoo: org/pets was not written (HTTP 503)" in broken.stderr
    assert "run it again, uploaded files are not sent twice" in broken.stderr
    assert "Traceback" not in broken.stderr
    seen = ask()
    assert seen["files"] == {"org/pets": []}  # all or nothing
    assert sum(line.startswith("PUT /objects") for line in seen["requests"]) == 1
    done = publish(*words, **env)
    assert f"{url}/org/pets/commit/" in done.stdout
    assert "model.safetensors" in done.stderr
    seen = ask()
    assert seen["files"] == {"org/pets": OF_A_RUN}
    assert not any(line.startswith("PUT /objects") for line in seen["requests"])
    with urlopen(f"{url}/org/pets/resolve/main/model.safetensors") as response:
        assert response.read() == (run / "best" / "model.safetensors").read_bytes()


def test_dry_runs(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dry(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["publish.py", str(run), "--repo", "org/pets", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "recipes" / "publish.py"), run_name="__main__")
        return (int(end.value.code or 0), *capsys.readouterr())

    licensed = ("--license", "MIT", "--teacher-license", "MIT", "--dry-run")
    code, out, err = dry(*licensed)
    assert code == 0 and out.startswith("---\nlibrary_name: pkdzoo\n") and "## Distillation" in out
    assert "model.safetensors" in err
    code, out, err = dry(*licensed, tmp_path / "out")
    assert code == 0 and out == (tmp_path / "out" / "README.md").read_text() + "\n"
    assert f"nothing was uploaded; the files are in {tmp_path / 'out'}" in err
    assert names_in(tmp_path / "out") == OF_A_RUN
    code, out, err = dry("--dry-run")  # a preview, and all that is missing at once
    assert code == 1 and out.startswith("---\nlibrary_name: pkdzoo\n") and "- these weights: unknown" in out
    assert re.search(r"licenses of the weights and of the teacher \(big_teacher\) are .* --license ID --teacher-", err)
