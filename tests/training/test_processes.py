"""Work of the main process: what the other processes return and raise."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.processes import on_each

from pkdzoo.training.processes import run_on_main_process


def answers() -> list[str]:
    """What a process gets from work that succeeds, and the errors of work that fails."""
    from accelerate import PartialState

    state = PartialState(cpu=True)
    said = [run_on_main_process(lambda: f"made by {state.process_index}")]
    for error in (OSError(28, "No space left on device"), KeyError("nosuch")):
        with pytest.raises((OSError, KeyError, ValueError)) as raised:
            run_on_main_process(lambda error=error: (_ for _ in ()).throw(error))
        said.append(f"{type(raised.value).__name__}: {raised.value}")
    return said


def test_every_process_gets_the_result_and_the_error_of_the_main_one(tmp_path: Path) -> None:
    main, other = on_each(answers, tmp_path)
    full = "[Errno 28] No space left on device"
    assert main == ["made by 0", f"OSError: {full}", "KeyError: 'nosuch'"]
    assert other == ["made by 0", f"ValueError: {full}", "ValueError: 'nosuch'"]


def test_a_process_alone_gets_its_own_error() -> None:
    with pytest.raises(ZeroDivisionError):
        run_on_main_process(lambda: 1 // 0)
    assert run_on_main_process(lambda: [1, 2]) == [1, 2]
