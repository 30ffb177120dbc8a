"""Shared by all tests: the folder itself is importable, for ``helpers``; long runs share two processes."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """The whole suite, and ``-m slow``, run file by file in two processes, where pytest-xdist is installed.

    Each has one thread, because two threads each are slower on two cores. ``-n 0`` runs all in one process. So do
    ``-s`` and ``--pdb``, which need the terminal, and the tests of chosen files or names.
    """
    option = config.option
    whole = option.markexpr == "not slow and not gpu" and not option.file_or_dir and not option.keyword
    terminal = option.capture == "no" or option.usepdb or option.collectonly
    inside, chosen = hasattr(config, "workerinput"), getattr(option, "numprocesses", 0) is not None
    if (whole or option.markexpr == "slow") and not terminal and not inside and not chosen:
        option.numprocesses, option.tx, option.dist = 2, ["popen"] * 2, "loadfile"
        os.environ["OMP_NUM_THREADS"] = "1"
