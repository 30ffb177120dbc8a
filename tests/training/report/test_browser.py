"""The report in a real browser: no error, nothing beside the window, the filter and the theme work."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.run_folders import write_comparison

from pkdzoo.data import make_shapes
from pkdzoo.training.report.page import write_report

pytestmark = pytest.mark.browser
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    data = make_shapes(root / "photos", train=1, val=5, size=(64, 96))
    write_comparison(root / "runs" / "mine", data)
    return write_report([root / "runs" / "mine"])


@pytest.mark.parametrize("width", [390, 1280])
def test_a_report(browser: Any, report: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    problems: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    assert page.locator("figure").count() == 5
    page.locator(".tile img").evaluate_all("all => Promise.all(all.map(image => image.decode()))")  # none is damaged
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")  # only tables scroll sideways

    rows = page.locator(".per-class tbody tr")
    names = rows.locator("td:first-child").all_text_contents()
    boxes = page.locator(".box").count()
    page.select_option("#class", label=names[0])
    assert [row for row in rows.all() if row.is_visible()] and page.locator(".per-class tbody tr:visible").count() == 1
    assert 0 < page.locator(".box").count() < boxes
    assert page.locator(".box").evaluate_all(f"all => all.every(box => box.title.startsWith('{names[0]}'))")
    assert page.locator(f"svg [data-class='{names[0]}']:visible").count() >= 2
    page.select_option("#class", "-1")
    assert page.locator(".box").count() == boxes and page.locator("svg [data-class]:visible").count() == 0

    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.click("#theme")
    assert page.evaluate(ground) != light
    page.emulate_media(color_scheme="dark")
    page.reload()
    assert page.evaluate(ground) != light
    assert problems == [] and {url for url in requests if not url.startswith("data:")} == {report.as_uri()}
    page.close()
