"""The command line inside this process: exit code, stdout and stderr, and the one line that an error is."""

from __future__ import annotations

import pytest
from accelerate.state import AcceleratorState, GradientState

from pkdzoo.cli import main


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command line in this process."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    code: object = None
    try:
        code = main([str(word) for word in argv])
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert isinstance(code, int)
    return code, out, err


def fails(capsys: pytest.CaptureFixture[str], *argv: object, code: int = 1) -> str:
    """The one line that an error is."""
    found, out, err = run(capsys, *argv)
    assert found == code
    assert out == ""
    assert "Traceback" not in err
    assert err.count("\n") == 1
    assert err.startswith("pkdzoo: ")
    return err
