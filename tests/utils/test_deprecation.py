"""Old names keep working, say what to write instead at the caller's line, and are removed in time."""

from __future__ import annotations

import importlib
import pkgutil
import warnings

import pytest

import pkdzoo
from pkdzoo.utils import deprecation


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[deprecation.Deprecation]:
    """The list of deprecations, empty, so that those of the tests are not counted."""
    rows: list[deprecation.Deprecation] = []
    monkeypatch.setattr(deprecation, "DEPRECATIONS", rows)
    return rows


def draw(threshold: float = 0.3, *, width: int = 1) -> tuple[float, int]:
    """What the tests rename."""
    return threshold, width


def test_an_old_function_calls_the_new_one_and_warns_at_the_callers_line(listed: list[deprecation.Deprecation]) -> None:
    paint = deprecation.renamed_function("pkdzoo.paint", draw, "0.3")
    with pytest.warns(FutureWarning, match=r"^pkdzoo\.paint will be removed in pkdzoo 0\.3: write .*\.draw$") as caught:
        assert paint(0.5, width=2) == (0.5, 2)
    assert caught[0].filename == __file__
    assert paint.__doc__ == draw.__doc__


def test_an_old_argument_becomes_the_new_one(listed: list[deprecation.Deprecation]) -> None:
    both = deprecation.renamed_arguments("0.3", thr="threshold", w="width")(draw)
    with pytest.warns(
        FutureWarning, match=r"draw\(thr=\.\.\.\) will be removed in pkdzoo 0\.3: write threshold="
    ) as found:
        assert both(thr=0.9, width=3) == (0.9, 3)  # type: ignore[call-arg]
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert both(0.9, width=3) == (0.9, 3)
    with pytest.raises(TypeError, match=r"draw\(\) got w= and width=, which are the same: write width="):
        both(w=1, width=2)  # type: ignore[call-arg]
    assert [row.old for row in listed] == ["draw(thr=...)", "draw(w=...)"]


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("rc")[0].split("."))


def test_no_old_name_outlives_its_last_version() -> None:
    for found in pkgutil.walk_packages(pkdzoo.__path__, "pkdzoo."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    assert [row for row in deprecation.DEPRECATIONS if is_late(row)] == []
    assert is_late(deprecation.Deprecation("a", "b", pkdzoo.__version__))


def is_late(row: deprecation.Deprecation) -> bool:
    """Whether this version should no longer have the old name."""
    return numbers(row.removal) <= numbers(pkdzoo.__version__)
