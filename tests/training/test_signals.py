"""Stop requests by signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from torch.utils.data import DataLoader

from pkdzoo.training import signals


def test_signals_are_noted_once_and_handlers_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with signals.stop_on_signals() as request:
        assert request.by is None
        os.kill(os.getpid(), signal.SIGINT)
        assert request.by == "SIGINT"
        os.kill(os.getpid(), signal.SIGINT)  # the same request, passed on by a launcher
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.by == "SIGINT"
        request.when -= 2 * signals.SAME_REQUEST
        with pytest.raises(KeyboardInterrupt):  # requested twice: ends at once
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_sigterm_again_after_a_while_ends_the_process() -> None:
    code = f"""
import os, runpy, signal
signals = runpy.run_path({signals.__file__!r})
with signals["stop_on_signals"]() as request:
    os.kill(os.getpid(), signal.SIGTERM)
    request.when -= 60
    print("stop request", request.by, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "stop request SIGTERM\n")


def test_only_the_launcher_of_one_process_is_followed(tmp_path, monkeypatch) -> None:
    without_torch = "import runpy, sys, types; sys.modules['torch'] = types.ModuleType('torch'); "  # it takes seconds
    follow = without_torch + f"print(runpy.run_path({signals.__file__!r})['follow_launcher']())"
    launcher = tmp_path / "accelerate"
    launcher.write_text(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {follow!r}], check=True)")

    def answer(*argv: object) -> str:
        return subprocess.run([sys.executable, *map(str, argv)], capture_output=True, text=True, check=True).stdout

    assert answer(launcher, "launch") == ("True\n" if sys.platform == "linux" else "False\n")
    assert answer("-c", follow) == "False\n"  # a shell, nohup, a scheduler
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert answer(launcher, "launch") == "False\n"  # torchrun passes signals on


def stop_before_the_handlers(worker: int) -> None:
    """A loader's start, with the signals of a scheduler in the middle of it."""
    for number in signals.STOP_SIGNALS:
        os.kill(os.getpid(), number)
    signals.LoaderSignals()(worker)


def test_a_loader_outlives_signals_while_it_starts() -> None:
    if (context := signals.loader_context()) is None:
        pytest.skip("this Python starts processes without forking them")
    data: Any = list(range(6))
    with_context = DataLoader(
        data, num_workers=2, worker_init_fn=stop_before_the_handlers, multiprocessing_context=context
    )
    assert [int(item) for item in with_context] == data
    without = DataLoader(data, num_workers=1, worker_init_fn=stop_before_the_handlers)
    with pytest.raises(RuntimeError, match=r"exited unexpectedly|killed by signal"):
        list(without)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(signals.STOP_SIGNALS)
