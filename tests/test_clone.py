"""Importing pkdzoo from the folder that holds a clone, where Python finds the clone and not the package in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from helpers.scripts import ROOT

LINES = """
import pkdzoo
from pkdzoo.data import make_shapes
import pkdzoo.training
print(pkdzoo.__file__)
print(len(pkdzoo.list_detectors()) > 30, pkdzoo.__version__ == pkdzoo.version.__version__)
"""


def test_the_package_is_found_from_the_parent_of_a_clone(tmp_path: Path) -> None:
    (tmp_path / "pkdzoo").symlink_to(ROOT)
    around = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", LINES]
    done = subprocess.run(command, cwd=tmp_path, env=around, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    path, facts = done.stdout.splitlines()
    assert Path(path).resolve() == ROOT / "pkdzoo" / "__init__.py"
    assert facts == "True True"
