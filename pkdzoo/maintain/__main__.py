"""``python -m pkdzoo.maintain VERB``: writes generated files of a clone anew. Run it in the clone's folder."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from pkdzoo.maintain.cards import write_cards
from pkdzoo.maintain.pages import write_pages
from pkdzoo.maintain.recipes_page import write_recipes_page
from pkdzoo.maintain.site import write_site
from pkdzoo.maintain.site.notebooks import write_notebooks
from pkdzoo.maintain.zoo import write_zoo_index

VERBS: dict[str, tuple[str, Callable[[], object]]] = {
    "zoo": ("pkdzoo/models/_zoo_index.json: the index of the built-in detectors", write_zoo_index),
    "cards": ("hub_cards/: a card for every set of weights", lambda: write_cards(Path("hub_cards"), Path("recipes"))),
    "recipes": ("recipes/README.md: the table of recipes", write_recipes_page),
    "pages": ("the generated tables of README.md, docs/ and recipes/benchmark_results/README.md", write_pages),
    "notebooks": ("docs/notebooks/: the cells that install pkdzoo", write_notebooks),
    "site": ("build/site/pages/: the pages of the documentation site", write_site),
}


def main(argv: list[str] | None = None) -> None:
    """Write what the named verbs generate; without a verb, everything."""
    description = "\n".join(f"  {verb:<10}{about}" for verb, (about, _) in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="python -m pkdzoo.maintain", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verbs", nargs="*", metavar="VERB", help=f"{', '.join(VERBS)} (default: all)")
    args = parser.parse_args(argv)
    unknown = sorted(set(args.verbs) - set(VERBS))
    if unknown:
        parser.error(f"unknown verb {unknown[0]!r}; write {', '.join(VERBS)}")
    for verb in args.verbs or VERBS:
        VERBS[verb][1]()
        print(f"wrote {VERBS[verb][0]}")


if __name__ == "__main__":
    main()
