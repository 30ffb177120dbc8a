"""The command line as a whole: help, exit codes, errors in one line, and what goes to stdout."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.commands import fails, run

import pkdzoo
from pkdzoo.cli import VERBS, build_parser, main, predict
from pkdzoo.cli import data as cli_data
from pkdzoo.cli import export as cli_export
from pkdzoo.cli.common import Verb
from pkdzoo.data.formats.read import FORMATS
from pkdzoo.export import WHAT
from pkdzoo.inference import PredictOptions

ROOT = Path(__file__).parents[2]


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
        ("line", "message"),
        [
            ("predict NAME a.jpg --threshold 2", "2: write a number from 0 to 1"),
            ("predict NAME a.jpg --threshold high", "high: write a number from 0 to 1, or none"),
            ("predict NAME a.jpg --nms-threshold -1", "-1: write a number from 0 to 1"),
            ("predict NAME a.jpg --overlap x", "x: write a number from 0 to 1"),
            ("predict NAME a.jpg --batch-size 0", "0: write a whole number of at least 1"),
            ("predict NAME a.jpg --max-detections x", "x: write a whole number of at least 1"),
            ("predict NAME a.jpg --sizes 640x480", "640x480: write a whole number of at least 1"),
            ("predict NAME a.jpg --workers -1", "-1: write a whole number of at least 0"),
            ("eval NAME --workers -1", "-1: write a whole number of at least 0"),
            ("export NAME --size 640x", "640x: write one side or WIDTHxHEIGHT, of at most 16384 pixels"),
            ("export NAME --size 0", "0: write one side or WIDTHxHEIGHT"),
            ("export NAME --size wide", "wide: write one side or WIDTHxHEIGHT"),
        ],
    )
    def test_what_is_no_such_number(self, capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
        code, _, err = run(capsys, *line.replace("NAME", "retina_r10w16").split())
        assert code == 2 and message in err

    def test_debug_shows_where(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "Did you mean retina_r50" in fails(capsys, "info", "retina_r5O")
        with pytest.raises(ValueError, match="no detector"):
            main(["info", "retina_r5O", "--debug"])

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (KeyError("two\nlines"), "KeyError: 'two\\nlines'"),
            (
                RuntimeError("operator torchvision::nms does not exist"),
                "RuntimeError: operator torchvision::nms does not exist. torch and torchvision do not fit each other: "
                "install both in one command, from the same index",
            ),
        ],
    )
    def test_an_error_of_ours_names_itself(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("pkdzoo.cli.models.list_detectors", broken)
        assert fails(capsys, "list") == f"pkdzoo: {message} (--debug shows the traceback)\n"

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
        changed = {"batch_size": 1, "flip": False, "workers": 1}
        assert all(args[name] == changed.get(name) for name in predict.PREDICT_OPTIONS)

    @pytest.mark.parametrize(
        ("words", "work"),
        [
            (("export", "retina_r10w16", "--format", "torch"), "pkdzoo.cli.export.detector_from_args"),
            (("data", "preview", "DATA"), "pkdzoo.dataset_tools.preview.preview"),
            (("data", "label", "DATA", "--model", "retina_r10w16"), "pkdzoo.cli.data.detector_from_args"),
            (("report", "DATA"), "pkdzoo.training.report.page.write_report"),
        ],
    )
    def test_a_file_that_cannot_be_written_is_refused_before_the_work(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words, work
    ) -> None:
        monkeypatch.setattr(work, None)
        (tmp_path / "file").write_text("")
        start = [str(tmp_path) if word == "DATA" else word for word in words]
        suffix = ".pt2" if words[0] == "export" else ".json"
        said = fails(capsys, *start, "--output", tmp_path / "file" / f"new{suffix}")
        assert f"{tmp_path / 'file'} is a file, and nothing can be written below it" in said
        (tmp_path / f"folder{suffix}").mkdir()
        said = fails(capsys, *start, "--output", tmp_path / f"folder{suffix}")
        assert "takes a file" in said or "exists already" in said

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(capsys, "--version") == (0, f"pkdzoo {pkdzoo.__version__}\n", "")

    def test_the_script_is_declared(self) -> None:
        assert 'pkdzoo = "pkdzoo.cli:main"' in (ROOT / "pyproject.toml").read_text()
