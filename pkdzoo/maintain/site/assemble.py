"""Assembles the pages of the documentation site, from which a site generator makes HTML (see ``mkdocs.yml``).

Nothing here is a second copy in the repository: the pages lie in ``build/site/pages``, which is not committed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from pkdzoo.maintain.site.links import SitePages, as_python_markdown, source_page, with_site_links
from pkdzoo.maintain.site.methods import method_pages
from pkdzoo.maintain.site.notebooks import notebooks_page
from pkdzoo.maintain.site.picture import architecture_svg
from pkdzoo.maintain.site.reference import reference_pages
from pkdzoo.maintain.site.zoo import weights_pages, zoo_page

TARGET = Path("build/site/pages")
# Pages of the repository outside docs/, and pages of docs/ that have another place on the site.
PLACES = {
    "README.md": "index.md",
    "docs/README.md": "contents.md",
    "docs/methods.md": "methods/index.md",
    "docs/zoo.md": "zoo/index.md",
    "docs/notebooks/README.md": "notebooks.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "recipes/README.md": "recipes.md",
    "recipes/MIGRATING.md": "migrating.md",
    "recipes/experiments/README.md": "experiments.md",
    "recipes/experiments/unlabeled_images.md": "unlabeled_measured.md",
    "recipes/benchmark_results/README.md": "benchmark.md",
}
ASSETS = ("docs/assets/site.css", "docs/assets/zoo.js", "docs/assets/iframe-worker.js")
# Pages with wide tables, and what gives its place to them.
WIDE = {
    "zoo/index.md": ("navigation", "toc"),
    "experiments.md": ("navigation",),
    "benchmark.md": ("navigation",),
    "recipes.md": ("navigation",),
}
PICTURE = "files/architecture.svg"


def write_site(root: Path = Path(), target: Path | None = None) -> list[str]:
    """Write the pages of the site below a clone's folder.

    Args:
        root: folder of the clone.
        target: folder for the pages; None means ``build/site/pages`` in the clone. What is in it is removed.

    Returns:
        The paths of the pages in ``target``.

    Raises:
        ValueError: for a link to a file that does not exist, and for a folder that holds something else.
    """
    target = root / TARGET if target is None else target
    empty(target)
    written = repository_pages(root)
    site = SitePages(root, {path: place(path) for path in written})
    pages = {site.pages[path]: with_site_links(text, path, site.pages[path], site) for path, text in written.items()}
    pages["contributing.md"] = with_picture(pages["contributing.md"])
    pages = {path: as_python_markdown(text) for path, text in pages.items()} | reference_pages()
    for path, page in site.sources.items():
        pages[page] = source_page(path, (root / path).read_text(encoding="utf-8"))
    for path, hidden in WIDE.items():
        pages[path] = f"---\nhide: [{', '.join(hidden)}]\n---\n{pages[path]}"
    for path, text in pages.items():
        write(target / path, text)
    for path, copy in {**site.copies, **{path: path.removeprefix("docs/") for path in ASSETS}}.items():
        (target / copy).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, target / copy)
    write(target / PICTURE, architecture_svg((root / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    return sorted(pages)


def empty(target: Path) -> None:
    """Remove the pages of an earlier run, and nothing that this program did not write."""
    marker = target / ".pages.json"
    if target.is_symlink():
        raise ValueError(f"{target} is a symbolic link: remove it, or give another folder")
    if target.exists() and any(target.iterdir()) and not marker.is_file():
        raise ValueError(f"{target} holds something else: give an empty folder")
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    marker.write_text(json.dumps({"written by": "python -m pkdzoo.maintain site"}), encoding="utf-8")


def repository_pages(root: Path) -> dict[str, str]:
    """The text of every page by its path in the repository, generated pages included."""
    paths = [*(path for path in PLACES if (root / path).is_file())]
    paths += [path.relative_to(root).as_posix() for path in sorted((root / "docs").rglob("*.md"))]
    pages = {path: (root / path).read_text(encoding="utf-8") for path in dict.fromkeys(paths)}
    pages["README.md"] = without_badges(pages["README.md"])
    pages["docs/zoo.md"] = zoo_page(root)
    pages["docs/notebooks/README.md"] = notebooks_page(root)
    return {**pages, **method_pages(root), **weights_pages(root)}


def place(path: str) -> str:
    """Where a page of the repository is on the site."""
    if path in PLACES:
        return PLACES[path]
    folder, _, name = path.partition("/")
    return f"zoo/{name}" if folder == "hub_cards" else name


def without_badges(text: str) -> str:
    """A page without the lines of badges, which are images of another server."""
    return "\n".join(line for line in text.split("\n") if not line.startswith("[!["))


def with_picture(contributing: str) -> str:
    """The page with the picture of the layers above their table."""
    head, begin, tail = contributing.partition("## Architecture\n")
    return f"{head}{begin}\n![The layers, the highest on top]({PICTURE})\n\n{tail}"


def write(path: Path, text: str) -> None:
    """Write one page and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")  # not atomic: hundreds of files that are made anew each time
