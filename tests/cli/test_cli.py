"""The command line: what it prints for people and for machines, its exit codes, and errors in one line."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.commands import fails, run
from PIL import Image

import pkdzoo
from pkdzoo.checkpoints.io import save_safetensors
from pkdzoo.cli import VERBS, build_parser, main, predict, writers
from pkdzoo.cli import data as cli_data
from pkdzoo.cli import export as cli_export
from pkdzoo.cli.common import Verb
from pkdzoo.cli.models import model_facts
from pkdzoo.data import CocoDataset, make_shapes, open_dataset
from pkdzoo.data.formats.read import FORMATS
from pkdzoo.data.labels import COCO_IDS, COCO_NAMES
from pkdzoo.export import WHAT
from pkdzoo.inference import PredictOptions

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved detector of three classes with random weights."""
    torch.manual_seed(0)
    model = pkdzoo.create_detector("retina_r10w16", label_names=("cat", "dog", "red fox"), resize=(64, 96))
    return str(model.save_pretrained(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    (root / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (60, 80)), ("b.jpg", (90, 50)), ("more/a.png", (40, 40)), ("more/c.bmp", (30, 70))):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(root / name)
    (root / "notes.txt").write_text("no image")
    return root


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=3, val=2, size=(64, 96))


def every_verb() -> Iterator[tuple[str, Verb]]:
    for name, verb in VERBS.items():
        if isinstance(verb, Verb):
            yield name, verb
        else:
            yield from ((f"{name} {inner}", what) for inner, what in verb.items())


class TestDoor:
    @pytest.mark.parametrize(("name", "verb"), [pytest.param(*item, id=item[0]) for item in every_verb()])
    def test_help_shows_examples_that_can_be_parsed(
        self, capsys: pytest.CaptureFixture[str], name: str, verb: Verb
    ) -> None:
        code, out, _ = run(capsys, *name.split(), "--help")
        assert code == 0
        assert verb.examples
        for line in verb.examples:
            assert line in out
            program, *words = shlex.split(line.partition(" > ")[0])
            assert program == "pkdzoo"
            args = build_parser().parse_args(words)
            assert args.verb is verb
            assert not hasattr(args, "model") or Path(args.model).parent.name or pkdzoo.is_detector(args.model)

    @pytest.mark.parametrize("argv", [[], ["data"], ["lsit"], ["list", "--nonsense"], ["data", "convert", "a", "b"]])
    def test_what_cannot_be_understood_is_code_2(self, capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
        code, out, err = run(capsys, *argv)
        assert code == 2
        assert out == ""
        assert "usage: pkdzoo" in err

    @pytest.mark.parametrize(
        "words", [["--threshold", "2"], ["--batch-size", "0"], ["--max-detections", "x"], ["--nms-threshold", "-1"]]
    )
    def test_numbers_out_of_range(self, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
        assert run(capsys, "predict", "retina_r10w16", "a.jpg", *words)[0] == 2

    def test_debug_shows_where(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "Did you mean retina_r50" in fails(capsys, "info", "retina_r5O")
        with pytest.raises(ValueError, match="no detector"):
            main(["info", "retina_r5O", "--debug"])

    def test_an_error_of_ours_names_itself(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise KeyError("two\nlines")

        monkeypatch.setattr("pkdzoo.cli.models.list_detectors", broken)
        assert fails(capsys, "list") == "pkdzoo: KeyError: 'two\\nlines' (--debug shows the traceback)\n"

    def test_an_interruption_is_quiet(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("pkdzoo.dataset_tools.check.check", interrupted)
        assert fails(capsys, "data", "check", ".", code=130) == "pkdzoo: interrupted\n"

    def test_as_a_process(self, tmp_path: Path) -> None:
        """Through the real door: stdout holds the result alone, a reader may stop early, an error is one line."""
        command = f"{shlex.quote(sys.executable)} -m pkdzoo"
        lines = (
            f"{command} list --json > list.json; echo $?",
            f"{command} info no_such_name; echo $?",
            f"{command} list 2> errors | true; echo ${{PIPESTATUS[0]}}; wc -c < errors",
        )
        around = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            ["bash", "-c", "; ".join(lines)], cwd=tmp_path, capture_output=True, text=True, env=around, timeout=300
        )
        assert done.stdout.split() == ["0", "1", "1", "0"]
        assert done.stderr.startswith("pkdzoo: no detector 'no_such_name'")
        assert done.stderr.count("\n") == 1
        assert [row["name"] for row in json.loads((tmp_path / "list.json").read_text())] == pkdzoo.list_detectors()

    @pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are POSIX's")
    def test_a_bar_where_there_is_a_terminal_for_it(self, folder: str, photos: Path) -> None:
        import fcntl
        import pty
        import struct
        import termios

        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        command = [sys.executable, "-m", "pkdzoo", "predict", folder, str(photos), "--json"]
        around = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=around, timeout=300)
        shown = os.read(ours, 1 << 16).decode()
        os.close(ours)
        os.close(theirs)
        assert done.returncode == 0 and len(done.stdout.splitlines()) == 2
        assert "100%|" in shown and "2/2" in shown  # elsewhere stderr is empty: every other test sees to that

    def test_choices_and_options_are_those_of_the_functions(self) -> None:
        assert cli_data.FORMATS == FORMATS
        assert cli_export.WHAT == WHAT
        assert tuple(PredictOptions.__annotations__) == predict.PREDICT_OPTIONS
        args = vars(build_parser().parse_args(["predict", "retina_r50", "a.jpg"]))
        changed = {"threshold": predict.THRESHOLD, "batch_size": 1, "flip": False}
        assert all(args[name] == changed.get(name) for name in predict.PREDICT_OPTIONS)

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(capsys, "--version") == (0, f"pkdzoo {pkdzoo.__version__}\n", "")

    def test_the_script_is_declared(self) -> None:
        assert 'pkdzoo = "pkdzoo.cli:main"' in (ROOT / "pyproject.toml").read_text()


class TestListAndInfo:
    def test_list(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, out, err = run(capsys, "list", "*pkd*", "--family", "retina")
        assert (code, err) == (0, "")
        rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[1:]}
        assert rows["retina_r50_pkd_swin"] == ["41.5", "COCO", "2017", "mask_rcnn_swin_s.coco_3x"]
        assert all(name.startswith("retina") and "pkd" in name for name in rows)

    def test_data_sets_are_listed_one_after_another(self, capsys: pytest.CaptureFixture[str]) -> None:
        rows = json.loads(run(capsys, "list", "--json")[1])
        data = {row["name"]: (row["data"], row["AP"]) for row in rows}
        lines = run(capsys, "list")[1].splitlines()[1:]
        order = [data[line.split()[0]] for line in lines]
        assert len(order) == len(rows)
        named = [name for name, ap in order if ap is not None]
        assert named == sorted(named, key=lambda name: (name != "COCO 2017", name))
        assert {"COCO 2017", "generated shapes", "BCCD"} == set(named)
        assert all(ap is None for _, ap in order[len(named) :])
        assert all(name in line for line, (name, ap) in zip(lines, order) if ap is not None)

    def test_list_for_machines(self, capsys: pytest.CaptureFixture[str]) -> None:
        rows = json.loads(run(capsys, "list", "--pretrained", "--pairs", "--json")[1])
        assert [row["name"] for row in rows] == [
            name for name in pkdzoo.list_detectors(pretrained=True) if name.split(".")[0] in pkdzoo.list_pairs()
        ]
        assert {"name", "family", "AP", "data", "weights", "teacher", "methods"} == set(rows[0])
        assert len(rows) < len(json.loads(run(capsys, "list", "--json")[1]))

    def test_nothing_fits(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "no detector matches 'retina_r51'. Did you mean" in fails(capsys, "list", "retina_r51")
        assert "no family 'yolo'." in fails(capsys, "list", "--family", "yolo")

    def test_info(self, capsys: pytest.CaptureFixture[str]) -> None:
        out = run(capsys, "info", "retina_r50_pkd_swin")[1]
        assert "teacher 48.2, plain student 37.4, distilled 41.5" in out
        assert "80: person, bicycle" in out
        printed = json.loads(run(capsys, "info", "retina_r50_pkd_swin.coco_2x", "--json")[1])
        assert printed["distilled"]["teacher"] == "mask_rcnn_swin_s.coco_3x"
        assert [row["tag"] for row in printed["weights"]] == ["coco_2x"]
        assert printed["resize"] == [800, 1333]

    def test_info_counts_the_weights_classes(self, capsys: pytest.CaptureFixture[str]) -> None:
        printed = json.loads(run(capsys, "info", "fcos_r18w24", "--json")[1])
        model = pkdzoo.create_detector("fcos_r18w24", pretrained=True)
        assert printed["label_names"] == list(model.label_names) and printed["num_classes"] == 6
        assert printed["parameters"] == sum(p.numel() for p in model.parameters())

    @pytest.mark.parametrize("name", ["retina_r10w16", "fcos_r18w24.shapes", "retina_r10w16_pkd_gfl_r18", "tood_r50"])
    def test_info_from_the_index_is_that_of_the_detector(self, capsys: pytest.CaptureFixture[str], name: str) -> None:
        content = json.loads(run(capsys, "info", name, "--json")[1])
        weights = [row["labels"] for row in content["weights"]]
        labels = weights[0] if weights else None
        facts = model_facts(pkdzoo.create_detector(name, label_names=labels))
        assert {key: content[key] for key in facts} == json.loads(json.dumps(facts))

    def test_info_of_a_folder(self, capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path) -> None:
        printed = json.loads(run(capsys, "info", folder, "--json")[1])
        model = pkdzoo.create_detector(f"local-dir:{folder}")
        assert printed["label_names"] == ["cat", "dog", "red fox"]
        assert printed["architecture"] == "retina_r10w16"
        assert printed["parameters"] == sum(p.numel() for p in model.parameters())
        assert "classes      3: cat, dog, red fox" in run(capsys, "info", folder)[1]
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "best").symlink_to(folder)
        assert "classes      3: cat, dog, red fox" in run(capsys, "info", tmp_path / "run")[1]


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
        ("save", "around"), [("a.jsonl", {"LC_ALL": "C.UTF-8"}), ("a.json", {"PYTHONIOENCODING": "ascii"})]
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
        monkeypatch.setattr(predict, "open_detector", None)
        start = ("predict", "retina_r10w16")
        assert "there is no such file or folder" in fails(capsys, *start, tmp_path / "none.jpg")
        assert "no file matches" in fails(capsys, *start, photos / "*.webp")
        (tmp_path / "empty").mkdir()
        assert "has no images" in fails(capsys, *start, tmp_path / "empty")
        assert "ends in .jsonl or .json" in fails(capsys, *start, photos, "--save", "found.txt")
        assert "would overwrite" in fails(capsys, *start, photos, "--output", photos)
        assert "would overwrite" in fails(capsys, *start, photos / "a.png", "--output", photos / "more" / "..")

    def test_annotated_images(self, capsys: pytest.CaptureFixture[str], folder: str, photos: Path) -> None:
        output = photos.parent / "new" / "drawn"
        code, _, _ = run(capsys, "predict", folder, photos / "**" / "*.[pbj]*", "--threshold", 0, "--output", output)
        assert code == 0
        assert sorted(p.name for p in output.iterdir()) == ["a.png", "a_2.png", "b.jpg", "c.png"]
        before, after = np.asarray(Image.open(photos / "a.png")), np.asarray(Image.open(output / "a.png"))
        assert after.shape == (360, 480, 3) and before.shape == (60, 80, 3)  # enlarged, so that captions can be read
        assert Image.open(output / "a_2.png").size == (480, 480)

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
        written: dict[str, Any] = json.loads(Path("found.json").read_text())
        assert written["categories"] == [
            {"id": 1, "name": "cat"},
            {"id": 2, "name": "dog"},
            {"id": 3, "name": "red fox"},
        ]
        assert [row["id"] for row in written["annotations"]] == list(range(1, 61))
        assert all(0 <= row["score"] <= 1 for row in written["annotations"])
        dataset = CocoDataset("found.json", ".")
        assert dataset.label_names == ["cat", "dog", "red fox"]
        assert len(dataset) == 2
        assert dataset[1].image.shape == (3, 90, 50)
        assert not [p.name for p in Path().iterdir() if p.name.startswith(".found")]

    def test_no_detection_at_all(self, capsys: pytest.CaptureFixture[str], folder: str, photos: Path) -> None:
        save = photos.parent / "found.json"
        run(capsys, "predict", folder, photos, "--threshold", 1, "--save", save)
        written = json.loads(save.read_text())
        assert (written["annotations"], len(written["images"])) == ([], 2)

    def test_half_a_coco_file_is_never_there(self, tmp_path: Path) -> None:
        (tmp_path / "found.json").write_text("earlier")
        with pytest.raises(RuntimeError), writers.open_detection_writer(tmp_path / "found.json", ("cat",)):
            raise RuntimeError
        assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("found.json", "earlier")]

    def test_cocos_own_numbers(self, tmp_path: Path) -> None:
        with writers.open_detection_writer(tmp_path / "found.json", COCO_NAMES):
            pass
        written = json.loads((tmp_path / "found.json").read_text())
        assert tuple(c["id"] for c in written["categories"]) == COCO_IDS

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


class TestData:
    def test_check(self, capsys: pytest.CaptureFixture[str], shapes: Path) -> None:
        code, out, err = run(capsys, "data", "check", shapes)
        assert (code, err) == (0, "")
        assert "train: 3 images" in out
        printed = json.loads(run(capsys, "data", "check", shapes, "--split", "val", "--json", "--headers")[1])
        assert [part["split"] for part in printed["splits"]] == ["val"]

    def test_a_finding_that_breaks_training_is_code_1(
        self, capsys: pytest.CaptureFixture[str], shapes: Path, tmp_path: Path
    ) -> None:
        assert run(capsys, "data", "convert", shapes, tmp_path / "yolo", "--to", "yolo")[0] == 0
        next((tmp_path / "yolo/images/val").iterdir()).write_bytes(b"no image")
        code, out, _ = run(capsys, "data", "check", tmp_path / "yolo")
        assert code == 1
        assert "ERROR  unreadable images: 1" in out

    def test_convert(self, capsys: pytest.CaptureFixture[str], shapes: Path, tmp_path: Path) -> None:
        start = ("data", "convert", shapes, tmp_path / "voc", "--to", "voc")
        printed = json.loads(run(capsys, *start, "--link", "--split", "train", "--json")[1])
        assert printed["images"] == {"train": 3}
        assert len(open_dataset(tmp_path / "voc", "train")) == 3
        assert "is not empty" in fails(capsys, *start)
        out = run(capsys, "data", "convert", tmp_path / "voc", tmp_path / "yolo", "--to", "yolo")[1]
        assert "voc to yolo" in out

    def test_preview(self, capsys: pytest.CaptureFixture[str], shapes: Path, tmp_path: Path) -> None:
        sheet = tmp_path / "new" / "sheet.png"
        start = ("data", "preview", shapes, "--output", sheet, "--count", 2, "--columns", 2, "--tile", 100)
        assert run(capsys, *start) == (0, f"{sheet}\n", "")
        assert Image.open(sheet).size[0] == 2 * 106 + 6
        assert "test split" in fails(capsys, *start, "--split", "test")
        assert "unknown file extension" in fails(capsys, *start[:3], "--output", tmp_path / "sheet.what")
