"""One page for each distillation method: what is written by hand, and what the code and the registry know."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pkdzoo.distill.registry import METHODS, list_methods, method_options
from pkdzoo.maintain.pages import linked, markdown
from pkdzoo.maintain.recipes_page import EQUAL_METHODS, published
from pkdzoo.maintain.site.docstrings import argument_texts, public_names, with_links
from pkdzoo.models._registry import find, list_detectors
from pkdzoo.models._zoo_table import format_number
from pkdzoo.training import Recipe


def method_pages(root: Path) -> dict[str, str]:
    """The page of every method by its path in the repository.

    ``docs/methods/NAME.md`` holds the idea, the formula and when to use it; the rest is added here.

    Raises:
        FileNotFoundError: for a method without that file.
    """
    recipes = [(path, recipe) for path, found in published(root / "recipes") for recipe in found]
    pages = {}
    for name in list_methods():
        written = (root / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8").rstrip()
        of_method = [
            (path.relative_to(root).as_posix(), recipe)
            for path, recipe in recipes
            if recipe.distill is not None and name in recipe.distill.methods
        ]
        sections = [
            ("This implementation", implementation(name)),
            ("Options", options_table(name)),
            ("Published results", published_rows(name, of_method)),
            ("Measured here", measured(name, root)),
        ]
        pages[f"docs/methods/{name}.md"] = "\n\n".join([written, *(f"## {head}\n\n{text}" for head, text in sections)])
    return pages


def implementation(name: str) -> str:
    """The module's docstring without its first sentence, which the page begins with, and what equals the original."""
    method = METHODS[name]
    text = (sys.modules[method.__module__].__doc__ or "").partition("\n\n")[2].strip()
    text = with_links(text, public_names(), method.__module__)
    equal = EQUAL_METHODS.get(name)
    what = "loss equals" if equal == name else f"{equal} equal"
    tested = (
        f"The {what} the published program's on the same tensors (tests)."
        if equal
        else "No published program was compared with it on the same tensors."
    )
    depth = getattr(method, "teacher_depth", "features")
    cost = "its head never runs" if depth == "features" else "its head runs as well"
    file = f"../../{method.__module__.replace('.', '/')}.py"
    return f"{text}\n\n{tested} Of the teacher, {cost}. [The file of the method]({file})."


def options_table(name: str) -> str:
    """Options with their defaults, and what the class says about each."""
    texts = argument_texts(inspect.getdoc(METHODS[name]) or "")
    rows = [["option", "default", "meaning"], ["---"] * 3]
    for option, default in method_options(name).items():
        text = with_links(texts.get(option, ""), public_names()).replace("|", "\\|")
        rows.append([f"`{option}`", f"`{default!r}`".replace("|", "\\|"), text])
    return markdown(rows) + f'\nIn a recipe: `Distill(TEACHER, {{"{name}": {{...}}}})`.'


def published_rows(name: str, recipes: Sequence[tuple[str, Recipe]]) -> str:
    """Weights in the zoo that the method trained, and the recipes that reproduce published results with it."""
    rows = [["student", "teacher", "teacher AP", "plain", "distilled", "methods"]]
    rows.append(["---", "---", "---:", "---:", "---:", "---"])
    for found in list_detectors(pretrained=True):
        pair = find(found)[0].distilled
        if pair is not None and name in pair.methods:
            triple = [format_number(number) for number in pair.triple or (None,) * 3]
            rows.append([linked_up(found), linked_up(pair.teacher), *triple, ", ".join(pair.methods)])
    text = markdown(rows) if len(rows) > 2 else "No weights that this method trained are in the zoo.\n"
    text += "\nAPs are those that the source of each row prints; its page names the source.\n" if len(rows) > 2 else ""
    if not recipes:
        return f"{text}\nNo published result names it, so it has no recipe."
    lines = []
    for path, recipe in recipes:
        ap, source = format_number(recipe.expect.get("AP")), recipe.expect["source"]
        lines.append(f"- [`{recipe.name}`](../../{path}): " + (f"{ap} AP, as in {source}" if ap else str(source)))
    return f"{text}\nRecipes:\n\n" + "\n".join(lines)


def linked_up(name: str) -> str:
    """A set of weights with a link from ``docs/methods/``."""
    return linked(name).replace("](../hub_cards/", "](../../hub_cards/")


def measured(name: str, root: Path) -> str:
    """The rows of all experiments whose student learned by this method alone."""
    path = root / "recipes" / "experiments" / "README.md"
    page = path.read_text(encoding="utf-8") if path.is_file() else ""
    rows = [["experiment", "run", "seeds", "AP", "minus plain"], ["---", "---", "---:", "---:", "---"]]
    section, columns = "", list[str]()
    for line in page.splitlines():
        section = line.removeprefix("## ") if line.startswith("## ") else section
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if "minus plain" in cells:
            columns = cells
        elif len(cells) == len(columns) and re.search(rf": {name}(?: |$)", cells[1]) and "," not in cells[1]:
            anchor = f"[{section}](../../recipes/experiments/README.md#{section})"
            rows.append(
                [anchor, cells[1], *(cells[columns.index(column)] for column in ("seeds", "AP", "minus plain"))]
            )
    if len(rows) == 2:
        return "It has not been trained to its end here; tests run steps of it. See [Measurements](../measured.md)."
    return markdown(rows) + "\nAP is in percent, the interval is at 95 %. See [Measurements](../measured.md)."
