"""Files around the package agree with each other: versions, citation, workflows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from helpers.scripts import ROOT

import pkdzoo

PROJECT = (ROOT / "pyproject.toml").read_text()
FORMS = sorted((ROOT / ".github").rglob("*.yml"))


def test_one_ruff_version_in_pre_commit_and_in_the_dev_extra() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (pinned,) = [repo["rev"] for repo in hooks if repo["repo"].endswith("/ruff-pre-commit")]
    found = re.search(r'"ruff==([\d.]+)"', PROJECT)
    assert found is not None and pinned == f"v{found[1]}"


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == pkdzoo.__version__
    assert citation["license"] == "Apache-2.0" and citation["cff-version"] == "1.2.0"
    (paper,) = citation["references"]
    assert paper["title"] in (ROOT / "README.md").read_text().replace("{", "").replace("}", "")
    assert paper["authors"][0]["family-names"] == "Cao"
    assert paper["url"] == "https://arxiv.org/abs/2207.02039" and f'Paper = "{paper["url"]}"' in PROJECT


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_workflows_and_forms_are_yaml(path: Path) -> None:
    assert yaml.safe_load(path.read_text())


def test_slow_tests_run_every_night() -> None:
    nightly = yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yml").read_text())
    steps = nightly["jobs"]["slow"]["steps"]
    assert any(step.get("run") == "python -m pytest -m slow" for step in steps)
    assert nightly[True]["schedule"]  # YAML reads the key "on" as true


def test_the_changelog_begins_with_what_is_unreleased() -> None:
    heads = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("##")]
    assert heads[0] == "## [Unreleased]"
    assert heads[1] == "### Added" or re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heads[1])


BRITISH = (
    "colour|centre|metre|litre|behaviour|neighbour|favour|honour|labour|rumour|flavour|"
    "licence|defence|offence|grey|catalogue|dialogue|programme|artefact|whilst|amongst|towards|"
    "afterwards|learnt|spelt|burnt|distil|fulfil|enrol|cheque|sceptic|ageing|judgement|"
    "analysed|analysing"
)
BRITISH_STEMS = (
    "normalis|initialis|optimis|organis|recognis|visualis|summaris|minimis|maximis|serialis|"
    "standardis|synchronis|utilis|generalis|finalis|customis|equalis|stabilis|quantis|"
    "parallelis|randomis|tokenis|specialis|categoris|realis|vectoris|rasteris|labell|modell|"
    "cancell|travell|signall"
)


def test_spelling_is_american() -> None:
    """Names and prose of Python files and pages; words of other programs' interfaces do not occur among these."""
    whole = rf"(?:{BRITISH})(?:s|d|ed|ing|ful|ite)?"
    stem = rf"(?:{BRITISH_STEMS})(?:e|es|ed|er|ing|ation|ations|ion)"
    pattern = re.compile(rf"(?<![a-z])(?:{whole}|{stem})(?![a-z])", flags=re.IGNORECASE)
    files = [path for folder in ("pkdzoo", "recipes", "tests", "docs") for path in (ROOT / folder).rglob("*.*")]
    files = [path for path in (*files, *ROOT.glob("*.md")) if path.suffix in (".py", ".md") and path != Path(__file__)]
    assert len(files) > 300
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for match in pattern.finditer(line)
    ]
    assert found == []
