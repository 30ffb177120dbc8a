"""Writes a Space of the Hub around a published detector: app.py, requirements.txt, and a README with front matter.

pkdzoo is in no package index yet, where its name could be a stranger's: the Space installs a wheel that lies in it.
On Python 3.10, because there pkdzoo and gradio agree on a version of Pillow.
"""

from __future__ import annotations

import json
from pathlib import Path

from pkdzoo.hub.upload import check_repository
from pkdzoo.utils.files import write_text
from pkdzoo.version import __version__

APP = '''"""Detect objects in the browser with {repository}."""

from pkdzoo.app.detect import open_all
from pkdzoo.app.page import build

page = build(open_all(["hf-hub:{repository}"]), title="{title}")

if __name__ == "__main__":
    page.launch()
'''
WHEEL = f"pkdzoo-{__version__}-py3-none-any.whl"
README = """---
title: {title}
sdk: gradio
python_version: "3.10"
app_file: app.py
license: {license}
models:
  - {repository}
---

Detects objects with [{repository}](https://huggingface.co/{repository}), a detector of pkdzoo. Scores are not
calibrated probabilities: move the threshold.
"""


def write_space(folder: str | Path, space: str, repository: str, license: str) -> Path:
    """Write the files of a Space into a new folder.

    Args:
        folder: empty or missing.
        space: ``org/name`` of the Space.
        repository: ``org/name`` of the published detector.
        license: of the detector, an identifier of the Hub.

    Returns:
        The folder.

    Raises:
        ValueError: for a name that is none, and a folder that is not empty.
    """
    for name in (space, repository):
        check_repository(name)
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose another folder for the Space")
    folder.mkdir(parents=True, exist_ok=True)
    title = space.partition("/")[2]
    write_text(folder / "app.py", APP.format(repository=repository, title=title))
    write_text(folder / "requirements.txt", f"gradio>=5\n./{WHEEL}\n")
    text = README.format(title=json.dumps(title), repository=repository, license=json.dumps(license.lower()))
    write_text(folder / "README.md", text)
    return folder
