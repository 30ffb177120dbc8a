"""Two versions of pkdzoo are measured in one run, each with its own package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import pkdzoo
from recipes.benchmarks import versions
from recipes.benchmarks.measure import LOAD, Row
from recipes.benchmarks.profiles import Profile
from recipes.benchmarks.table import profile_line

HERE = Path(pkdzoo.__file__).parents[1]


def part(ours: float, theirs: float, *names: str, share: float = 0.5) -> dict:
    rows = [Row(1, name, "b", theirs / ours, ours=ours, theirs=theirs).to_dict() for name in names]
    profile = Profile("RetinaNet", 0.2, share, 0.1, 0.2, 0.1, 0.3, 0.1).to_dict()
    return {"rows": rows, "curves": [], "profiles": [profile]}


def test_rows_have_the_medians_of_both_versions_and_profiles_stand_in_pairs() -> None:
    sides = {"earlier": [part(0.4, 0.6, "a"), part(0.6, 0.6, "a", share=0.9)], "now": [part(0.1, 0.6, "a", "new")]}
    about = {
        "threads": 1,
        "machine": "CPU",
        "vectors": "AVX2",
        "python": "3.11",
        "torch": "2.14",
        "torchvision": "0.29",
    }
    found = {"about": about, "commits": {"earlier": "a" * 40, "now": "b" * 40}, "parts": {"p": sides}}
    lines = versions.markdown(found).splitlines()
    assert lines[1] == "Earlier is aaaaaaaaa, now is bbbbbbbbb."
    assert "| a | 500 ms | 100 ms | 5.00 | 1.25 | 6.00 |" in lines
    assert "| new | not there | 100 ms | | | 6.00 |" in lines
    found["parts"]["p"]["earlier"][0]["own benchmark"] = True
    assert "| a (by its own benchmark) | 500 ms |" in versions.markdown(found)
    shares = "200 ms | 50.0 % | 10.0 % | 20.0 % | 10.0 % | 30.0 % | 10.0 % |"
    assert lines[-2:] == [f"| RetinaNet, {side} | {shares}" for side in ("earlier", "now")]
    assert profile_line(part(1, 1)["profiles"][0]) == f"| RetinaNet | {shares}"


@pytest.mark.slow
def test_each_version_is_measured_with_its_own_package(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The earlier version here builds detectors only after a pause."""
    earlier = tmp_path / "earlier"
    shutil.copytree(HERE / "pkdzoo", earlier / "pkdzoo", ignore=shutil.ignore_patterns("__pycache__"))
    init = earlier / "pkdzoo" / "__init__.py"
    slower = "import time\n    from pkdzoo.models._factory import create_detector\n    time.sleep(0.5)\n"
    init.write_text(
        f"{init.read_text()}\ndef create_detector(*a, **k):\n    {slower}    return create_detector(*a, **k)\n"
    )
    output = tmp_path / "results" / "versions.json"
    options = ["--rows", "create", "--quick", "--rounds", "1", "--threads", "1", "--output", str(output)]
    assert versions.main([str(earlier), *options]) == 0
    found = json.loads(output.read_text())
    rows = {side: found["parts"]["create"][side][0]["rows"][0] for side in versions.SIDES}
    assert rows["earlier"]["ours"] > 0.5 > rows["now"]["ours"]
    assert f"| {rows['now']['name']} |" in capsys.readouterr().out
    before = {**found, "parts": {"loss": found["parts"]["create"]}}
    now = {**found, "about": {**found["about"], LOAD: 9.0}}
    output.write_text(json.dumps(before))
    assert versions.read_parts(output, now) == before["parts"]  # --update keeps the parts that it does not measure
    with pytest.raises(SystemExit, match=r"versions\.json was measured with another commits: write a new file"):
        versions.read_parts(output, {**now, "commits": {}})


@pytest.mark.slow
def test_a_part_that_the_earlier_version_lacks_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "pkdzoo").mkdir()
    (tmp_path / "pkdzoo" / "__init__.py").touch()
    assert versions.main([str(tmp_path), "--rows", "create", "--quick", "--rounds", "1", "--threads", "1"]) == 0
    out, error = capsys.readouterr()
    assert "| does not run |" in out and "create: AttributeError: module 'pkdzoo' has no attribute" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere"], "nowhere: no pkdzoo/__init__.py there: write the folder of a clone"),
        ([str(HERE), "--rows", "lose"], "no part lose; write loss, projected"),
        ([str(HERE), "--rounds", "0"], "--rounds: 0: write a whole number of at least 1"),
        ([str(HERE), "--update", "--output", "none.json"], "--output has to be the file of an earlier run"),
    ],
)
def test_wrong_options_are_refused(options: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        versions.parse_arguments(options)
    assert message in capsys.readouterr().err
