"""Writes ``hub_cards/``, a model card for every set of weights in the registry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pkdzoo.hub.card_text import render
from pkdzoo.hub.weights import Weights
from pkdzoo.models._card import card_of
from pkdzoo.models._registry import Entry, find, list_detectors
from pkdzoo.utils.files import write_text


def find_recipe(recipes: Path, row: Weights, entry: Entry) -> str | None:
    """The recipe of a set of weights, ``recipes/FOLDER/FILE.py``: the one in its row, or the one with its name."""
    if row.recipe:
        return f"recipes/{row.recipe}"
    for stem in (f"{entry.name}_{row.tag.removeprefix('coco_')}", entry.name if entry.distilled else ""):
        for path in sorted(recipes.glob(f"*/{stem}.py")) if stem else ():
            return path.relative_to(recipes.parent).as_posix()
    return None


def zoo_cards(recipes: Path) -> dict[str, str]:
    """The texts of all cards by file name."""
    cards = {}
    for name in list_detectors(pretrained=True):
        entry, row = find(name)
        assert row is not None
        card = card_of(name, find_recipe(recipes, row, entry))
        if row.image:  # not published with the weights
            card = replace(card, image=f"../{row.image}")
        cards[f"{name}.md"] = render(card, publish=False)
    return cards


def write_cards(folder: Path, recipes: Path) -> list[Path]:
    """Write the cards of all weights, and remove cards of weights that no longer exist.

    Returns:
        The paths of the cards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cards = zoo_cards(recipes)
    for old in folder.glob("*.md"):
        if old.name not in cards:
            old.unlink()
    for name, text in cards.items():
        write_text(folder / name, text)
    return [folder / name for name in cards]
