"""What in the notebooks depends on the address of the repository: their install cells, and the links to Colab.

The address is written once, as ``Repository`` in ``[project.urls]`` of pyproject.toml.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from pkdzoo.utils.files import write_text

NAMES = {"detect": "", "distill": "", "deploy": "[export]"}  # with the extra that each of them needs
COLAB = "https://colab.research.google.com/github/{repository}/blob/main/docs/notebooks/{name}.ipynb"


def write_notebooks(root: Path = Path()) -> None:
    """Write the install cell, the first cell of code, of each notebook in a clone's folder."""
    for name, extra in NAMES.items():
        path = root / "docs" / "notebooks" / f"{name}.ipynb"
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
        cell["source"] = install_cell(repository_url(root), extra).splitlines(keepends=True)
        write_text(path, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def install_cell(repository: str, extra: str = "") -> str:
    """Code that installs pkdzoo from its repository where it is missing, as in Colab; without a repository it says how.

    Args:
        repository: address of the repository; empty if the project names none.
        extra: e.g. ``[export]``.

    Example:
        >>> from pkdzoo.maintain.site.notebooks import install_cell
        >>> print(install_cell("https://example.org/someone/pkdzoo", "[export]"))
        import importlib.util
        <BLANKLINE>
        if importlib.util.find_spec("pkdzoo") is None:
            %pip install --quiet "pkdzoo[export] @ git+https://example.org/someone/pkdzoo"
    """
    action = f'%pip install --quiet "pkdzoo{extra} @ git+{repository}"'
    if not repository:  # the name pkdzoo is in no package index yet, where it could be a stranger's
        target = f"'.{extra}'" if extra else "."  # zsh reads brackets without quotes as a pattern
        words = f"pkdzoo is missing. In the folder of a clone: pip install -e {target}"
        action = f'raise ModuleNotFoundError("{words}")'
    return f'import importlib.util\n\nif importlib.util.find_spec("pkdzoo") is None:\n    {action}'


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
