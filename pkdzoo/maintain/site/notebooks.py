"""The notebooks on the site: a list with links that open them in Colab, where the project names its repository."""

from __future__ import annotations

import re
from pathlib import Path

NAMES = ("detect", "distill", "deploy")
COLAB = "https://colab.research.google.com/github/{repository}/blob/main/docs/notebooks/{name}.ipynb"


def notebooks_page(root: Path) -> str:
    """``docs/notebooks/README.md`` with links to Colab."""
    text = (root / "docs" / "notebooks" / "README.md").read_text(encoding="utf-8").rstrip()
    links = colab_links(repository_url(root))
    if not links:
        return f"{text}\n"
    return f"{text}\n\n## Open in Colab\n\n" + "\n".join(f"- [{name}]({link})" for name, link in links.items()) + "\n"


def repository_url(root: Path) -> str:
    """``Repository`` of the project's links in pyproject.toml; empty without it."""
    section = (root / "pyproject.toml").read_text(encoding="utf-8").partition("[project.urls]\n")[2].partition("\n[")[0]
    found = re.search(r'^Repository = "([^"]+)"$', section, flags=re.MULTILINE)
    return found[1].rstrip("/").removesuffix(".git") if found else ""


def colab_links(repository: str) -> dict[str, str]:
    """The link to each notebook in Colab; none for a repository that is not on GitHub, which Colab cannot open.

    Example:
        >>> from pkdzoo.maintain.site.notebooks import colab_links
        >>> colab_links("https://github.com/someone/pkdzoo")["detect"].partition("/github/")[2]
        'someone/pkdzoo/blob/main/docs/notebooks/detect.ipynb'
    """
    host = "https://github.com/"
    if not repository.startswith(host):
        return {}
    return {name: COLAB.format(repository=repository.removeprefix(host), name=name) for name in NAMES}
