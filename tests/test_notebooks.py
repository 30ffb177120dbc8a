"""The notebooks run from their first to their last cell on a CPU, and their stored outputs are small."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from helpers.scripts import ROOT

from pkdzoo.maintain.site.notebooks import NAMES, install_cell, repository_url, write_notebooks

FOLDER = ROOT / "docs" / "notebooks"
MAX_BYTES = 150_000


@pytest.mark.parametrize("name", NAMES)
def test_they_are_small_and_name_no_place_of_the_machine_that_ran_them(name: str) -> None:
    text = (FOLDER / f"{name}.ipynb").read_text()
    assert len(text) < MAX_BYTES
    notebook = json.loads(text)
    assert notebook["nbformat"] == 4 and notebook["metadata"]["kernelspec"]["name"] == "python3"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code), "run all cells and save the notebook"
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [one for one in outputs if one["output_type"] == "error" or one.get("name") == "stderr"]
    assert "".join(code[0]["source"]) == install_cell(repository_url(ROOT), NAMES[name]), "python -m pkdzoo.maintain"
    words = json.dumps([cell["outputs"] for cell in code])
    assert re.findall(r"/(?:home|root|work|tmp|Users)/", words) == []


def test_the_install_cells_follow_the_address_of_the_project(tmp_path: Path) -> None:
    """It is written once, in pyproject.toml; everything else in a notebook stays as it was."""
    shutil.copytree(FOLDER, tmp_path / "docs" / "notebooks")
    (tmp_path / "pyproject.toml").write_text('[project.urls]\nRepository = "https://example.org/a/b.git"\n')
    write_notebooks(tmp_path)
    for name, extra in NAMES.items():
        before, after = (
            json.loads((root / f"{name}.ipynb").read_text()) for root in (FOLDER, tmp_path / "docs/notebooks")
        )
        assert (
            after["cells"][1]["source"][-1] == f'    %pip install --quiet "pkdzoo{extra} @ git+https://example.org/a/b"'
        )
        assert all(old == new for k, (old, new) in enumerate(zip(before["cells"], after["cells"])) if k != 1)
    (tmp_path / "pyproject.toml").write_text("[project.urls]\n")
    write_notebooks(tmp_path)
    assert "raise ModuleNotFoundError" in (tmp_path / "docs/notebooks/deploy.ipynb").read_text()


def test_the_page_lists_all() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)
    assert set(re.findall(r"\]\((\w+)\.ipynb\)", (FOLDER / "README.md").read_text())) == set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    start = time.monotonic()
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    print(f"{name}: {(time.monotonic() - start) / 60:.1f} min")
