"""Shared by all tests: the folder itself is importable, for ``helpers``; slow tests run in two processes."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """``pytest -m slow`` runs file by file in two processes, where pytest-xdist is installed.

    ``-n 0`` runs it in one. So do ``-s`` and ``--pdb``, which need the terminal.
    """
    option = config.option
    wanted = option.markexpr == "slow" and option.capture != "no" and not option.usepdb and not option.collectonly
    inside, chosen = hasattr(config, "workerinput"), getattr(option, "numprocesses", 0) is not None
    if wanted and not inside and not chosen:
        option.numprocesses, option.tx, option.dist = 2, ["popen"] * 2, "loadfile"
