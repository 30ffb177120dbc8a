"""Stop requests by signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

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
    follow = f"import runpy; print(runpy.run_path({signals.__file__!r})['follow_launcher']())"
    launcher = tmp_path / "accelerate"
    launcher.write_text(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {follow!r}], check=True)")

    def answer(*argv: object) -> str:
        return subprocess.run([sys.executable, *map(str, argv)], capture_output=True, text=True, check=True).stdout

    assert answer(launcher, "launch") == ("True\n" if sys.platform == "linux" else "False\n")
    assert answer("-c", follow) == "False\n"  # a shell, nohup, a scheduler
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert answer(launcher, "launch") == "False\n"  # torchrun passes signals on
