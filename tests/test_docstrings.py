"""Every example in a docstring runs by itself, and everything public has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest

import pkdzoo
from pkdzoo.maintain.site.docstrings import PUBLIC_MODULES


def modules() -> list[ModuleType]:
    names = [found.name for found in pkgutil.walk_packages(pkdzoo.__path__, "pkdzoo.")]
    return [importlib.import_module(name) for name in names if not name.endswith("__main__")]


def examples() -> list[doctest.DocTest]:
    """With empty globals: what a reader pastes has to bring its own imports."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for module in modules() for test in finder.find(module, module.__name__, globs={}) if test.examples]
    return [doctest.DocTest(t.examples, {"__name__": t.name}, t.name, t.filename, t.lineno, None) for t in found]


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_runs(example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    said: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert result.attempted and not result.failed, "".join(said)


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_everything_public_has_one(module: str) -> None:
    package = importlib.import_module(module)
    things = [getattr(package, name) for name in package.__all__]
    functions = [thing for thing in things if inspect.isroutine(thing) or inspect.isclass(thing)]
    without = [thing.__name__ for thing in functions if ">>>" not in (inspect.getdoc(thing) or "")]
    assert not without


def arguments(thing: object) -> list[str]:
    """Names of what is written at a call; callables without a signature have none."""
    with suppress(TypeError, ValueError):
        return [name for name in inspect.signature(thing).parameters if name != "self"]  # type: ignore[arg-type]
    return []


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_every_argument_of_the_public_api_is_described(module: str) -> None:
    package = importlib.import_module(module)
    without = []
    for name in package.__all__:
        thing = getattr(package, name)
        if inspect.isroutine(thing) or inspect.isclass(thing):
            said = (inspect.getdoc(thing) or "").partition("\nExample:")[0]
            heads = " ".join(re.findall(r"^ {4}([\w, ]+): ", said, flags=re.MULTILINE))
            without += [f"{name}({one})" for one in arguments(thing) if one not in re.findall(r"\w+", heads)]
    assert not without
