"""The cards of every set of weights in the registry: ``hub_cards/``."""

from __future__ import annotations

from pathlib import Path

from pkdzoo.hub.card_text import render
from pkdzoo.hub.weights import Weights
from pkdzoo.models._card import card_of
from pkdzoo.models._registry import Entry, find, list_detectors


def find_recipe(recipes: Path, row: Weights, entry: Entry) -> str | None:
    """The recipe that is called like a set of weights, as ``recipes/FOLDER/FILE.py``."""
    if row.recipe:
        return f"recipes/{row.recipe}"
    for stem in (f"{entry.name}_{row.tag.removeprefix('coco_')}", entry.name if entry.distilled else ""):
        for path in sorted(recipes.glob(f"*/{stem}.py")) if stem else ():
            return path.relative_to(recipes.parent).as_posix()
    return None


def zoo_cards(recipes: Path) -> dict[str, str]:
    """The cards of all weights by file name."""
    cards = {}
    for name in list_detectors(pretrained=True):
        entry, row = find(name)
        assert row is not None
        cards[f"{name}.md"] = render(card_of(name, find_recipe(recipes, row, entry)), publish=False)
    return cards


def write_cards(folder: Path, recipes: Path) -> list[Path]:
    """Write the cards of all weights; cards of weights that are no more go."""
    folder.mkdir(parents=True, exist_ok=True)
    cards = zoo_cards(recipes)
    for old in folder.glob("*.md"):
        if old.name not in cards:
            old.unlink()
    for name, text in cards.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in cards]
