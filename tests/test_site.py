"""The documentation site: its pages are complete, its links lead somewhere, and the generator builds it strictly."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import pytest
import yaml
from helpers.scripts import ROOT

import pkdzoo
from pkdzoo.cli import VERBS
from pkdzoo.distill.methods import crosskd, fbkd, fgd, frs
from pkdzoo.distill.registry import method_options
from pkdzoo.maintain.site import write_site
from pkdzoo.maintain.site.assemble import TARGET
from pkdzoo.maintain.site.docstrings import (
    PUBLIC_MODULES,
    argument_texts,
    place_of,
    public_members,
    public_names,
    with_links,
)
from pkdzoo.maintain.site.links import SitePages, as_python_markdown, with_site_links
from pkdzoo.maintain.site.notebooks import NAMES, colab_links, repository_url
from pkdzoo.maintain.site.zoo import site_table

CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
LINK = re.compile(r"\]\((?![a-z]+:)([^)#\s]+)(?:#[^)]*)?\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site") / "pages"
    write_site(ROOT, target)
    return target


def nav_pages(entries: object) -> list[str]:
    if isinstance(entries, str):
        return [entries]
    values = entries.values() if isinstance(entries, dict) else entries
    assert not isinstance(values, (int, float)) and values is not None
    return [page for value in values for page in nav_pages(value)]  # type: ignore[attr-defined]


def test_the_navigation_has_all_pages_but_those_that_a_table_lists(site: Path) -> None:
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.md")}
    listed = nav_pages(CONFIG["nav"])
    assert len(listed) == len(set(listed)) and set(listed) <= pages
    left = {page for page in pages - set(listed) if not page.startswith(("zoo/", "source/"))}
    assert left == set()
    assert [name for entry in CONFIG["nav"] for name in entry] == [
        "Start", "Guides", "The zoo", "Methods", "Reference", "Numbers", "Design",
    ]  # fmt: skip


def test_links_and_images_of_all_pages_exist(site: Path) -> None:
    """The generator checks links between pages, and not images."""
    found = 0
    for path in site.rglob("*.md"):
        if path.parts[-2] == "source" or "source" in path.relative_to(site).parts[:1]:
            continue
        text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in LINK.findall(text):
            assert (path.parent / target).is_file(), f"{path.relative_to(site)}: {target}"
            found += 1
    assert found > 500


def test_every_set_of_weights_and_every_method_has_a_page(site: Path) -> None:
    zoo = (site / "zoo" / "index.md").read_text()
    for name in pkdzoo.list_detectors(pretrained=True):
        page = (site / "zoo" / f"{name}.md").read_text()
        assert page.startswith(f"# {name}\n") and f"[{name}]({name}.md)" in zoo
    for name in pkdzoo.list_methods():
        page = (site / "methods" / f"{name}.md").read_text()
        heads = ["Formula", "When to use it", "This implementation", "Options", "Published results", "Measured here"]
        assert re.findall(r"^## (.+)$", page, flags=re.MULTILINE) == heads
        for option in method_options(name):
            row = re.search(rf"^\| `{option}` \| `[^|]+` \| (.+) \|$", page, flags=re.MULTILINE)
            assert row is not None, f"{name}: the docstring does not describe {option}"


def test_the_pages_of_methods_state_the_values_that_none_stands_for() -> None:
    """What is published, by family or version, as the code has it."""

    def text(name: str) -> str:
        return (ROOT / "docs" / "methods" / f"{name}.md").read_text()

    def rows(name: str) -> dict[str, list[float]]:
        found = re.findall(r"^\| ([^|]+) ((?:\| [\d.e-]+ )+)", text(name), flags=re.MULTILINE)
        return {head.strip("`"): [float(number) for number in cells.split("|")[1:]] for head, cells in found}

    assert rows("frs") == {key.replace("_", "-"): list(row) for key, row in frs.PUBLISHED.items()}
    assert rows("fbkd") == {key: list(row) for key, row in fbkd.SETTINGS.items()}
    found = {key: list(astuple(row)) for key, row in fgd.PUBLISHED.items()}
    assert found.pop("GFL") == found["RetinaNet"]
    assert rows("fgd") == {{"RetinaNet": "RetinaNet, GFL"}.get(k, k).replace("_", "-"): v for k, v in found.items()}
    expected = {key: [row.block, row.cls, row.box] for key, row in crosskd.PUBLISHED.items()}
    assert {key: row[:3] for key, row in rows("crosskd").items()} == expected
    for name in pkdzoo.list_methods():
        options = method_options(name)
        assert "None` " in text(name) or not [key for key in options if key.endswith("weight") and options[key] is None]


def test_measured_rows_are_those_of_the_experiments(site: Path) -> None:
    page = (site / "methods" / "pkd.md").read_text().partition("## Measured here")[2]
    assert "| 38.3 ± 0.4 | +1.4 [+0.8, +2.0] |" in page and "(../experiments.md#bccd)" in page
    assert "not been trained to its end here" in (site / "methods" / "gid.md").read_text()


def entries_of(page: Path) -> list[str]:
    return re.findall(r"^::: (\S+)$", page.read_text(), flags=re.MULTILINE)


IMPORTED = re.compile(
    r"^from (pkdzoo[\w.]*) import (.+)$|(?<![\w./])(pkdzoo(?:\.[a-z_]+)?)\.([A-Za-z_]+)\(", re.MULTILINE
)


def test_what_the_pages_use_is_in_the_reference(site: Path) -> None:
    """Names that the guides import or call; the examples of CONTRIBUTING add to the package itself."""
    public, used = public_names(), set()
    for path in [*site.glob("*.md"), *(ROOT / "docs" / "notebooks").glob("*.ipynb")]:
        text = path.read_text().replace("\\n", "\n").replace('"from', "\nfrom")
        for module, names, package, name in IMPORTED.findall(text) if path.name != "contributing.md" else ():
            used |= {(module, one.strip()) for one in names.split(",")} if module else {(package, name)}
    assert len(used) > 15
    schedules = (site / "reference" / "pkdzoo.training.md").read_text()
    for module, name in used:
        word = re.sub(r"\W.*", "", name)
        assert f"{module}.{word}" in public or f"| `{word}` |" in schedules, f"{module}.{name}"


def test_the_reference_lists_everything_public_and_nothing_private(site: Path) -> None:
    for module in PUBLIC_MODULES:
        entries = entries_of(site / "reference" / f"{module}.md")
        assert {place_of(module, name) for name in public_members(module)} <= set(entries)
        assert not [name for name in entries if any(part.startswith("_") for part in name.split("."))]
    shown = {name for page in (site / "reference").glob("*.md") for name in entries_of(page)}
    assert set(public_names().values()) <= shown and "pkdzoo.training.own_data.api.distill" in shown
    index = (site / "reference" / "index.md").read_text()
    assert "[`pkdzoo.distill(...)`][pkdzoo.training.own_data.api.distill]" in index
    assert (
        "| `ONE_X_LR02` | `data=Data(), optim=Optim(lr=0.02), schedule="
        in (site / "reference" / "pkdzoo.training.md").read_text()
    )
    cli = (site / "reference" / "cli.md").read_text()
    assert all(f"\n## pkdzoo {verb}\n" in cli and f"[`pkdzoo {verb}`](cli.md#pkdzoo-{verb})" in index for verb in VERBS)
    assert "## pkdzoo data convert\n" in cli and "--hold-out" in cli


def test_the_zoo_shows_measured_latencies_where_there_are_any() -> None:
    lines = pkdzoo.results("retina_r50*")
    table = site_table(lines, {"ms": {"retina_r50": 12.34}, "about": "one thread of a CPU"})
    assert re.search(
        r"^\| \[retina_r50\.coco_1x\]\S+ \| COCO \| 38\.0 \| 250\.5 \| 1333 x 800 \| 36\.5 \| 12\.3 \|",
        table,
        re.MULTILINE,
    )
    assert "\n**ms**: one thread of a CPU\n" in table
    without = site_table(lines, {"ms": {"gfl_r18": 1.0}, "about": "x"})
    assert "| ms |" not in without and "**ms**" not in without


def test_links_are_rewritten_and_broken_ones_refused(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "code.py").write_text("x = 1\n")
    site = SitePages(tmp_path, {"docs/a.md": "a.md", "recipes/README.md": "recipes/index.md"})
    text = "[code](../.ci/code.py), [all\nrecipes](../recipes/README.md#x), [web](https://a.b)\n```\n[no](link.md)\n```"
    found = with_site_links(text, "docs/a.md", "deep/a.md", site)
    assert found == (
        "[code](../source/ci/code.py.md), [all\nrecipes](../recipes/index.md#x), [web](https://a.b)\n```\n[no](link.md)\n```"
    )
    with pytest.raises(ValueError, match=r"docs/a\.md links to gone\.md, and docs/gone\.md does not exist"):
        with_site_links("[x](gone.md)", "docs/a.md", "a.md", site)


def test_lists_and_tables_get_an_empty_line() -> None:
    text = "Text:\n- one\n  more\n- two\n\n<!-- t:begin -->\n| a |\n| - |\n<!-- t:end -->\n```\nx\n- y\n```"
    assert as_python_markdown(text) == "Text:\n\n- one\n  more\n- two\n\n| a |\n| - |\n```\nx\n- y\n```"


def test_docstrings_link_what_is_public() -> None:
    text = "See :func:`pkdzoo.losses.pearson`, :class:`~pkdzoo.hidden.Thing` and ``x``."
    assert with_links(text, {"pkdzoo.losses.pearson": "pkdzoo.losses.pearson"}) == (
        "See [`pkdzoo.losses.pearson`][pkdzoo.losses.pearson], `pkdzoo.hidden.Thing` and `x`."
    )
    assert argument_texts("A.\n\nArgs:\n    a: one\n        two.\n    b: three.\n\nRaises:\n    ValueError: x.") == {
        "a": "one two.", "b": "three.",
    }  # fmt: skip


def test_only_its_own_folder_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="holds something else"):
        write_site(ROOT, tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="is a symbolic link"):
        write_site(ROOT, tmp_path / "link")
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_notebooks_open_in_colab_from_a_repository_that_the_project_names(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project.urls]\nRepository = "https://github.com/a/b.git"\n\n[x]\n')
    links = colab_links(repository_url(tmp_path))
    assert links["distill"] == "https://colab.research.google.com/github/a/b/blob/main/docs/notebooks/distill.ipynb"
    assert set(links) == set(NAMES) and colab_links("") == {}


@pytest.mark.slow
def test_the_generator_builds_it_strictly() -> None:
    """As the job ``docs`` does; needs the extra ``docs``, which the nightly run installs."""
    pytest.importorskip("zensical")
    write_site(ROOT)
    command = [str(Path(sys.executable).parent / "zensical"), "build", "--clean", "--strict"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    built = (ROOT / TARGET).parent / "html"
    assert (built / "methods" / "pkd.html").is_file() and (built / "search.js").is_file()
    loads = re.compile(r'<(?:script|link|img)[^>]+(?:src|href)="https?://[^"]+')
    from_outside = [match for page in built.rglob("*.html") for match in loads.findall(page.read_text())]
    assert from_outside == []


@pytest.mark.slow
def test_search_and_the_zoo_work_in_a_browser_without_a_network(tmp_path: Path) -> None:
    """The built pages are opened as files; needs the extra ``docs``, playwright and Chromium."""
    pytest.importorskip("zensical")
    api = pytest.importorskip("playwright.sync_api")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    built = (ROOT / TARGET).parent / "html"
    if browser_path is None or not built.is_dir():
        pytest.skip("needs Chromium, and the site that the test above builds")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_context(offline=True, viewport={"width": 1280, "height": 900}).new_page()
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto((built / "zoo" / "index.html").as_uri())
        box = page.locator(".zoo").first
        box.locator("input[type=search]").fill("retina_r50_pkd")
        assert box.locator("tbody tr:visible").count() == 3
        box.locator("th button", has_text="GMACs").click()
        assert box.locator("th[aria-sort=ascending]").count() == 1
        page.keyboard.press("Control+k")
        page.keyboard.type("SLURM")
        page.get_by_text("Launching").first.wait_for(timeout=30_000)
        assert [url for url in requests if url.startswith("http")] == []
        browser.close()
