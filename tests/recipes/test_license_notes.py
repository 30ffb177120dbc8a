"""What a run says of licenses before it trains, through the script."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import pkdzoo
from pkdzoo.data.synthetic import CLASSES
from pkdzoo.training.publish import prepare

STEP = ("--set", "schedule.max_steps=1", "--set", "logging.log_every=1")
DISTILL = """
from dataclasses import replace
RECIPE = replace(RECIPE, distill=Distill("retina_r10w16"))
"""


@pytest.fixture
def notes(
    train: Callable[..., None], recipe: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """The lines on licenses that a run prints before its first step."""

    def run(*words: object) -> list[str]:
        capsys.readouterr()
        output = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        train(recipe, "--data", shapes, "--output", output, *STEP, *words)
        before = capsys.readouterr().out.partition("step 1")[0]
        return [line for line in before.splitlines() if line.startswith("license")]

    return run


def published(folder: Path, license: str) -> Path:
    saved = pkdzoo.create_detector("retina_r10w16", label_names=CLASSES).save_pretrained(folder / "saved")
    return prepare(str(saved), folder / "published", license=license, data="pets", data_license="CC0-1.0")


def test_the_start_of_the_student(notes: Callable[..., list[str]], tmp_path: Path) -> None:
    assert notes() == []
    assert notes("--set", f"init={published(tmp_path / 'a', 'MIT')}") == []
    assert notes("--set", f"init={tmp_path / 'a' / 'saved'}") == []  # of the user's own
    (line,) = notes("--set", f"init={published(tmp_path / 'b', 'CC-BY-NC-4.0')}")
    assert "student starts from published, which is under CC-BY-NC-4.0: the result can be published under this" in line
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes((tmp_path / "a" / "saved" / "model.safetensors").read_bytes())
    (line,) = notes("--set", f"init={bare}")
    assert "starts from bare.safetensors, whose license is unknown" in line and "write --init-license ID" in line


def test_the_teacher(notes: Callable[..., list[str]], recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(recipe.read_text() + DISTILL)
    random = ("--set", "distill.teacher_weights=random", "--set", 'distill.teacher_args={"num_classes": 6}')
    assert notes(*random) == []
    assert notes("--set", f"distill.teacher={published(tmp_path / 'a', 'Apache-2.0')}") == []
    (line,) = notes("--set", f"distill.teacher={tmp_path / 'a' / 'saved'}")
    assert "unknown for the teacher, retina_r10w16: to publish the result, write --teacher-license ID" in line
    restricted = published(tmp_path / "b", "CC-BY-NC-4.0")
    (line,) = notes("--set", f"distill.teacher={restricted}")
    assert "teacher retina_r10w16 is under CC-BY-NC-4.0: read its terms before you publish" in line
    tuned = pkdzoo.from_pretrained(restricted).save_pretrained(tmp_path / "tuned")  # its own license is not stated
    (line,) = notes("--set", f"distill.teacher={tuned}")
    assert "is under CC-BY-NC-4.0" in line
    for weights in (restricted, restricted / "model.safetensors"):
        (line,) = notes("--set", f"distill.teacher_weights={weights}")
        assert "is under CC-BY-NC-4.0" in line
    inherited = ("--set", 'distill.inherit=["backbone"]')
    assert len(notes(*inherited, "--set", f"distill.teacher={tuned}")) == 2
