"""``pkdzoo predict``: inputs, settings, annotated images and files of detections."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.commands import fails, run
from PIL import Image

import pkdzoo
from pkdzoo.checkpoints.io import save_safetensors
from pkdzoo.cli import predict, writers
from pkdzoo.data import CocoDataset
from pkdzoo.data.labels import COCO_IDS, COCO_NAMES

ROOT = Path(__file__).parents[2]


class TestPredict:
    def test_for_people(self, capsys: pytest.CaptureFixture[str], folder: str, photos: Path) -> None:
        code, out, err = run(capsys, "predict", folder, photos, "--threshold", 0, "--max-detections", 2)
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert lines[0] == f"{photos / 'a.png'} (80 x 60): 2 detections"
        assert lines[1].split() == ["class", "score", "x1", "y1", "x2", "y2"]
        assert lines[4] == f"{photos / 'b.jpg'} (50 x 90): 2 detections"
        assert len(lines) == 8

    def test_for_machines(self, capsys: pytest.CaptureFixture[str], folder: str, photos: Path) -> None:
        out = run(capsys, "predict", folder, photos / "a.png", "--threshold", 0, "--json", "--max-detections", 5)[1]
        (row,) = [json.loads(line) for line in out.splitlines()]
        expected = pkdzoo.create_detector(f"local-dir:{folder}").predict(
            photos / "a.png", threshold=0.0, max_detections=5
        )
        assert row == expected.to_json()
        assert len(row["detections"]) == 5

    def test_settings_reach_the_detector(self, capsys: pytest.CaptureFixture[str], folder: str, photos: Path) -> None:
        def names(*words: object) -> list[str]:
            out = run(capsys, "predict", folder, photos / "a.png", "--threshold", 0, "--json", *words)[1]
            return [found["name"] for found in json.loads(out)["detections"]]

        assert set(names()) == {"cat", "dog", "red fox"}
        assert set(names("--classes", "red fox,cat")) == {"red fox", "cat"}
        assert len(names("--nms-threshold", 0.1)) < len(names("--nms-threshold", 0.9))
        assert "is empty: leave it out" in fails(capsys, "predict", folder, photos, "--classes", ",")
        out = run(capsys, "predict", folder, photos / "a.png", "--threshold", 1)[1]
        assert out.endswith("0 detections\n")

    def test_files_folders_and_wildcards(self, capsys: pytest.CaptureFixture[str], folder: str, photos: Path) -> None:
        def found(*given: object) -> list[str]:
            out = run(capsys, "predict", folder, *given, "--json")[1]
            return [str(Path(json.loads(line)["path"]).relative_to(photos)) for line in out.splitlines()]

        assert found(photos) == ["a.png", "b.jpg"]
        assert found(photos / "**" / "*.png") == ["a.png", "more/a.png"]
        assert found(photos / "more" / "c.bmp", photos, photos / "a.png") == ["more/c.bmp", "a.png", "b.jpg"]
        (photos / "odd [1].png").write_bytes((photos / "a.png").read_bytes())
        assert found(photos / "odd [1].png") == ["odd [1].png"]  # a file's name goes before a wildcard

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every file name is Unicode")
    @pytest.mark.parametrize(
        ("save", "around"),
        [
            ("a.jsonl", {"LC_ALL": "C.UTF-8"}),
            pytest.param("a.json", {"PYTHONIOENCODING": "ascii"}, marks=pytest.mark.slow),
        ],
    )
    def test_a_name_that_is_no_utf8(self, folder: str, photos: Path, save: str, around: dict[str, str]) -> None:
        (photos / "b.jpg").rename(os.fsdecode(os.fsencode(photos / "ü") + b"\xff.jpg"))
        command = [
            sys.executable,
            "-m",
            "pkdzoo",
            "predict",
            folder,
            str(photos),
            "--threshold",
            "0",
            "--max-detections",
            "1",
        ]
        command += ["--json", "--save", str(photos / save)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **around}
        done = subprocess.run(command, capture_output=True, env=environment, timeout=300)
        assert (done.returncode, done.stderr) == (0, b"")
        printed = [json.loads(line)["path"] for line in done.stdout.decode().splitlines()]
        saved = (photos / save).read_text(encoding="utf-8")
        if save == "a.jsonl":
            names = [json.loads(line)["path"] for line in saved.splitlines()]
        else:
            names = [image["file_name"] for image in json.loads(saved)["images"]]
        assert printed == names == [str(photos / "a.png"), str(photos / "ü\udcff.jpg")]

    def test_a_broken_link_does_not_stop_the_others(
        self, capsys: pytest.CaptureFixture[str], folder: str, photos: Path
    ) -> None:
        code, out, err = run(capsys, "predict", folder, "http://[", photos / "a.png", "--output", photos / "drawn")
        assert code == 1 and str(photos / "a.png") in out
        assert err.splitlines() == ["pkdzoo: http://[: Invalid IPv6 URL", "pkdzoo: 1 of 2 images could not be read"]

    def test_devices(self, capsys: pytest.CaptureFixture[str], folder: str, photos: Path) -> None:
        start = ("predict", folder, photos / "a.png", "--device")
        assert "write cpu, cuda, cuda:1 or mps" in fails(capsys, *start, "gpu")
        if not torch.cuda.is_available():
            assert fails(capsys, *start, "cuda").endswith("write --device cpu\n")

    def test_nothing_is_loaded_for_a_slip(
        self, capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(predict, "detector_from_args", None)
        start = ("predict", "retina_r10w16")
        assert "there is no such file or folder" in fails(capsys, *start, tmp_path / "none.jpg")
        assert "no file matches" in fails(capsys, *start, photos / "*.webp")
        (tmp_path / "empty").mkdir()
        assert "has no images" in fails(capsys, *start, tmp_path / "empty")
        assert "ends in .jsonl or .json" in fails(capsys, *start, photos, "--save", "found.txt")
        assert "would overwrite" in fails(capsys, *start, photos, "--output", photos)
        assert "would overwrite" in fails(capsys, *start, photos / "a.png", "--output", photos / "more" / "..")

    def test_nothing_is_written_before_the_options_are_accepted(
        self, capsys: pytest.CaptureFixture[str], folder: str, photos: Path, tmp_path: Path
    ) -> None:
        targets = ("--output", tmp_path / "drawn", "--save", tmp_path / "new" / "found.jsonl")
        for words, reason in ((("--classes", "nosuch"), "no class 'nosuch'"), (("--overlap", "0.2"), "overlap")):
            assert reason in fails(capsys, "predict", folder, photos, *words, *targets)
            assert not (tmp_path / "drawn").exists() and not (tmp_path / "new").exists()

    def test_places_that_cannot_be_written_are_refused_before_the_detector_is_built(
        self, capsys: pytest.CaptureFixture[str], photos: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(predict, "detector_from_args", None)
        start, file = ("predict", "retina_r10w16", photos), photos / "notes.txt"
        for words in (("--output", file), ("--output", file / "new"), ("--save", file / "a.json")):
            assert "is a file, and nothing can be written below it" in fails(capsys, *start, *words)
        (photos / "folder.json").mkdir()
        assert "is a folder: --save takes a file" in fails(capsys, *start, "--save", photos / "folder.json")

    def test_options_without_effect_are_refused(
        self, capsys: pytest.CaptureFixture[str], folder: str, photos: Path
    ) -> None:
        assert "--every 5 is for videos" in fails(capsys, "predict", folder, photos, "--every", 5)
        assert "runs on the CPU here: leave --device" in fails(capsys, "predict", "a.onnx", photos, "--device", "cuda")
        start = ("eval", "found.json", "--annotations", "truth.json")
        for option in (("--labels", "cat"), ("--skip-other-classes",), ("--mixed-precision", "bf16")):
            assert f"no detector runs: leave {option[0]} out" in fails(capsys, *start, *option)

    def test_annotated_images(self, capsys: pytest.CaptureFixture[str], folder: str, photos: Path) -> None:
        output = photos.parent / "new" / "drawn"
        code, _, _ = run(capsys, "predict", folder, photos / "**" / "*.[pbj]*", "--threshold", 0, "--output", output)
        assert code == 0
        assert sorted(p.name for p in output.iterdir()) == ["a.png", "a_2.png", "b.jpg", "c.png"]
        before, after = np.asarray(Image.open(photos / "a.png")), np.asarray(Image.open(output / "a.png"))
        assert after.shape == before.shape == (60, 80, 3)
        assert not np.array_equal(after, before)
        assert Image.open(output / "a_2.png").size == (40, 40)

    def test_a_broken_image_fails_alone(self, capsys: pytest.CaptureFixture[str], folder: str, photos: Path) -> None:
        (photos / "a.png").write_bytes(b"no image")
        save = photos.parent / "found.json"
        output = photos.parent / "drawn"
        code, out, err = run(capsys, "predict", folder, photos, "--json", "--save", save, "--output", output)
        assert code == 1
        assert "error" in json.loads(out.splitlines()[0])
        assert "error" not in json.loads(out.splitlines()[1])
        assert err.splitlines()[0].startswith(f"pkdzoo: {photos / 'a.png'}: ")
        assert err.splitlines()[1] == "pkdzoo: 1 of 2 images could not be read"
        assert [image["file_name"] for image in json.loads(save.read_text())["images"]] == [str(photos / "b.jpg")]
        assert [p.name for p in output.iterdir()] == ["b.jpg"]
        assert str(photos / "a.png") not in run(capsys, "predict", folder, photos)[1]

    def test_saved_lines(self, capsys: pytest.CaptureFixture[str], folder: str, photos: Path) -> None:
        save = photos.parent / "out" / "found.jsonl"
        printed = run(capsys, "predict", folder, photos, "--threshold", 0, "--json", "--save", save)[1]
        assert save.read_text() == printed

    def test_saved_as_coco(
        self, capsys: pytest.CaptureFixture[str], folder: str, photos: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(photos)
        run(
            capsys,
            "predict",
            folder,
            ".",
            "--threshold",
            0,
            "--max-detections",
            30,
            "--save",
            "found.json",
            "--batch-size",
            2,
        )
        parsed: dict[str, Any] = json.loads(Path("found.json").read_text())
        assert parsed["categories"] == [
            {"id": 1, "name": "cat"},
            {"id": 2, "name": "dog"},
            {"id": 3, "name": "red fox"},
        ]
        assert [row["id"] for row in parsed["annotations"]] == list(range(1, 61))
        assert all(0 <= row["score"] <= 1 for row in parsed["annotations"])
        dataset = CocoDataset("found.json", ".")
        assert dataset.label_names == ["cat", "dog", "red fox"]
        assert len(dataset) == 2
        assert dataset[1].image.shape == (3, 90, 50)
        assert not [p.name for p in Path().iterdir() if p.name.startswith(".found")]

    def test_no_detection_at_all(self, capsys: pytest.CaptureFixture[str], folder: str, photos: Path) -> None:
        save = photos.parent / "found.json"
        run(capsys, "predict", folder, photos, "--threshold", 1, "--save", save)
        parsed = json.loads(save.read_text())
        assert (parsed["annotations"], len(parsed["images"])) == ([], 2)

    def test_half_a_coco_file_is_never_there(self, tmp_path: Path) -> None:
        (tmp_path / "found.json").write_text("earlier")
        with pytest.raises(RuntimeError), writers.open_detection_writer(tmp_path / "found.json", ("cat",)):
            raise RuntimeError
        assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("found.json", "earlier")]

    def test_cocos_own_numbers(self, tmp_path: Path) -> None:
        with writers.open_detection_writer(tmp_path / "found.json", COCO_NAMES):
            pass
        parsed = json.loads((tmp_path / "found.json").read_text())
        assert tuple(c["id"] for c in parsed["categories"]) == COCO_IDS

    def test_a_checkpoint_of_ones_own(self, capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path) -> None:
        torch.manual_seed(1)
        model = pkdzoo.create_detector("retina_r10w16", num_classes=2)
        save_safetensors(model.state_dict(), tmp_path / "mine.safetensors")
        (tmp_path / "names.txt").write_text("cat\nred fox\n")
        start = ("predict", "retina_r10w16", photos / "a.png", "--threshold", 0, "--json", "--max-detections", 20)
        start = (*start, "--checkpoint", tmp_path / "mine.safetensors", "--device", "cpu")
        for labels in ("cat, red fox", tmp_path / "names.txt"):
            (line,) = run(capsys, *start, "--labels", labels)[1].splitlines()
            expected = next(model.predict_stream(photos / "a.png", threshold=0.0, max_detections=20))
            assert [d["box_xyxy"] for d in json.loads(line)["detections"]] == expected.boxes.tolist()
            assert {d["name"] for d in json.loads(line)["detections"]} <= {"cat", "red fox"}
        assert "head.cls" in fails(capsys, *start)  # of another number of classes: the keys are named
        assert "there are no weights for 'retina_r10w16'" in fails(capsys, *start[:3])
        assert "--labels belongs to --checkpoint" in fails(capsys, *start[:3], "--labels", "cat")
