"""Releases: the versions of all files agree, notes come from the changelog, and nothing is missing in the sdist."""

from __future__ import annotations

import datetime
import itertools
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from helpers.scripts import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pkdzoo
from pkdzoo.maintain import release

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest needs there

FILES = ("pkdzoo/version.py", "CITATION.cff", "CHANGELOG.md")
PROJECT = (ROOT / "pyproject.toml").read_text()


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pkdzoo").mkdir()
    for file in FILES:
        shutil.copyfile(ROOT / file, tmp_path / file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_prepared_files_agree_with_their_tag(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (clone / "CHANGELOG.md").read_text()
    release.main(["prepare", "9.1.0"])
    assert "git tag v9.1.0" in capsys.readouterr().out
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    assert f"## [Unreleased]\n\n## [9.1.0] - {today}\n" in (clone / "CHANGELOG.md").read_text()
    citation = yaml.safe_load((clone / "CITATION.cff").read_text())
    assert (citation["version"], citation["date-released"]) == ("9.1.0", today)
    release.main(["notes", "v9.1.0"])
    unreleased = before.partition("## [Unreleased]\n")[2].partition("\n## [")[0].strip()
    assert capsys.readouterr().out == f"{unreleased}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prepare", "1.0"], "'1.0' is no version: write e.g. 0.2.0"),
        (["notes", "v9.9.9"], "pkdzoo/version.py names version .*, and the tag is v9.9.9"),
        (["notes", f"v{pkdzoo.__version__}"], r'CHANGELOG.md has no section "## \[.*\] - YEAR-MONTH-DAY"'),
    ],
    ids=["version", "tag", "section"],
)
def test_what_does_not_fit_is_refused(words: list[str], message: str, clone: Path) -> None:
    text = f"# Changelog\n\n{release.UNRELEASED}\n\n### Added\n- x\n"
    (clone / "CHANGELOG.md").write_text(text)
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        release.main(words)
    assert (clone / "CHANGELOG.md").read_text() == text


def test_a_release_of_nothing_is_refused(clone: Path) -> None:
    (clone / "CHANGELOG.md").write_text(f"# Changelog\n\n{release.UNRELEASED}\n\n## [0.1.0] - 2026-01-01\n\n- x\n")
    with pytest.raises(SystemExit, match=r"the section of 0\.2\.0 in CHANGELOG\.md is empty"):
        release.main(["prepare", "0.2.0"])
    with pytest.raises(SystemExit, match=r"has a section for 0\.1\.0 already"):
        release.main(["prepare", "0.1.0"])
    assert (clone / "pkdzoo" / "version.py").read_text() == (ROOT / "pkdzoo" / "version.py").read_text()


def test_the_version_is_written_once_in_the_package() -> None:
    assert 'dynamic = ["version"]' in PROJECT and "pkdzoo.version.__version__" in PROJECT
    code = [path for path in (ROOT / "pkdzoo").rglob("*.py") if f'"{pkdzoo.__version__}"' in path.read_text()]
    assert code == [ROOT / "pkdzoo" / "version.py"]


def test_the_release_workflow_checks_before_it_publishes_without_a_token() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    jobs = yaml.safe_load(text)["jobs"]
    steps = [step.get("run", "") for step in jobs["build"]["steps"]]
    order = [next(k for k, step in enumerate(steps) if part in step) for part in ("release notes", ".ci/package dist")]
    assert order == sorted(order) and jobs["publish"]["needs"] == "build" and jobs["release"]["needs"] == "publish"
    assert jobs["publish"]["permissions"] == {"id-token": "write"} and "secrets." not in text
    script = (ROOT / ".ci" / "package").read_text()
    assert script.index("-m build") < script.index("check --strict") < script.index("empty/bin/pkdzoo --version")


def test_the_oldest_versions_are_the_floors() -> None:
    """``.ci/oldest.txt`` pins each dependency at the lowest version that pyproject.toml allows."""
    pinned: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / ".ci" / "oldest.txt").read_text(), re.MULTILINE):
        pinned.setdefault(name, set()).add(version)
    section = PROJECT.partition("\ndependencies = [\n")[2].partition("\n]\n")[0]
    floors: dict[str, set[str]] = {}
    for name, version in re.findall(r'^  "([\w-]+)>=([\d.]+)', section, flags=re.MULTILINE):
        floors.setdefault(name, set()).add(version)

    def parts(versions: set[str]) -> set[tuple[int, ...]]:
        return {tuple(int(part) for part in f"{version}.0.0".split(".")[:3]) for version in versions}

    assert {name: parts(versions) for name, versions in pinned.items()} == {
        name: parts(versions) for name, versions in floors.items()
    }
    table = (ROOT / "docs" / "compatibility.md").read_text()
    for name in ("huggingface_hub", "accelerate", "safetensors", "numpy", "pycocotools"):
        (floor,) = floors[name]
        assert f"\n| {name} | {floor} | " in table


def lock_command() -> str:
    """The command that its first lines name."""
    lines = (ROOT / ".ci" / "lock.txt").read_text().split("\n", 2)
    return lines[1].removeprefix("#").strip()


def test_the_lock_has_every_dependency_that_a_change_is_tested_with() -> None:
    """For each Python and system there is one pinned version of each, with its hashes, that pyproject.toml allows."""
    text = (ROOT / ".ci" / "lock.txt").read_text()
    blocks = re.findall(r"^([a-z0-9].*?)((?: \\\n {4}--hash=sha256:[0-9a-f]{64})+)$", text, flags=re.MULTILINE)
    pins = [Requirement(line) for line, _ in blocks]
    assert len(pins) == len(re.findall("==.*$", text, flags=re.MULTILINE)) > 100, "a pin without its hash"
    project = tomllib.loads(PROJECT)["project"]
    extras = re.findall(r"--extra (\S+)", lock_command())
    wanted = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    for python, system in itertools.product(("3.10", "3.11", "3.12", "3.13", "3.14"), ("linux", "darwin", "win32")):
        place = {"python_version": python, "python_full_version": f"{python}.6", "sys_platform": system}
        for requirement in map(Requirement, wanted):
            if requirement.marker is None or requirement.marker.evaluate(place):
                name = canonicalize_name(requirement.name)
                here = [pin for pin in pins if pin.name == name and (not pin.marker or pin.marker.evaluate(place))]
                assert len(here) == 1, f"{requirement} on Python {python}, {system}: {[str(pin) for pin in here]}"
                (version,) = here[0].specifier
                assert requirement.specifier.contains(version.version), f"{here[0]} is not {requirement}"


def test_the_lock_names_no_index_and_no_build_for_one_kind_of_device() -> None:
    text = (ROOT / ".ci" / "lock.txt").read_text()
    assert re.findall(r"://|^-.*|\+(?:cpu|cu)|@", text, flags=re.MULTILINE) == []
    assert {"torch", "torchvision"} <= set(re.findall(r"^([a-z0-9-]+)==", text, flags=re.MULTILINE))


def test_the_lock_is_for_the_jobs_that_run_at_every_change() -> None:
    """CONTRIBUTING has the command that renews it; its extras are those that the jobs install, and no more."""
    assert f"\n{lock_command()} --upgrade\n" in (ROOT / "CONTRIBUTING.md").read_text()
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text() + (ROOT / ".ci" / "run").read_text()
    locked = [line for line in text.split("\n") if "PKDZOO_INSTALL" in line and "-e" in line]
    installed = {
        extra for line in locked for found in re.findall(r"\.\[([^\]]+)\]", line) for extra in found.split(",")
    }
    assert len(locked) == 3 and installed == set(re.findall(r"--extra (\S+)", lock_command()))


@pytest.mark.slow
def test_the_sdist_holds_what_the_tests_and_the_site_need(tmp_path: Path) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    command = [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, capture_output=True, check=True, timeout=600)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in tracked if name not in held} <= {".gitignore", "__init__.py"}
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "pkdzoo/recipes/pkd/retina_r50_pkd_swin.py" in names and "pkdzoo/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "recipes/", "docs/", "build/"))]
