"""What works without timm: everything but building a detector on one of its networks."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import pkdzoo
from pkdzoo.cli import main
from pkdzoo.maintain import zoo
from pkdzoo.models._registry import find
from pkdzoo.models._zoo_index import INDEX

READY = ("fcos_repvit_m0_9", "gfl_mnv4_small", "retina_convnext_atto")


@pytest.fixture(autouse=True)
def without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr(zoo, "find_spec", lambda name: None)


@pytest.mark.parametrize("args", [{"name": "gfl_r50", "backbone": "timm:hgnetv2_b0"}, {"name": "gfl_mnv4_small"}])
def test_building_says_what_to_install(args: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"extra \[timm\].*pip install timm"):
        pkdzoo.create_detector(**args)


@pytest.mark.parametrize("name", READY)
def test_ready_students_are_listed_and_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", name]) == 0 and main(["info", name]) == 0
    assert f"{INDEX[name].parameters[80] / 1e6:.1f} million" in capsys.readouterr().out
    assert INDEX[name].gflops > 0
    assert not zoo.can_build(find(name)[0]) and zoo.old_row(find(name)[0])["params"] == INDEX[name].params


@pytest.mark.slow  # a process of its own; the job without extras shows it, too
def test_nothing_else_imports_it() -> None:
    program = (
        "import sys, pkdzoo; pkdzoo.list_detectors(); pkdzoo.get_weights('gfl_r50')\n"
        "import pkdzoo.training, pkdzoo.models.gfl; pkdzoo.create_detector('retina_r10w16')\n"
        "assert 'timm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
