"""A Griffe extension: docstrings get the site's links and sections (see pkdzoo/maintain/site/docstrings.py)."""

from __future__ import annotations

from typing import Any

import griffe

from pkdzoo.maintain.site.docstrings import public_names, with_example_section, with_links


class Roles(griffe.Extension):
    """Rewrites every docstring that Griffe reads, before mkdocstrings shows it."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        if obj.docstring is not None and not obj.is_alias:
            module = obj.module.path
            obj.docstring.value = with_example_section(with_links(obj.docstring.value, public_names(), module))
