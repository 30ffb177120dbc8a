"""The documentation site: its pages are assembled from the repository's pages, cards, docstrings and numbers."""

from pkdzoo.maintain.site.assemble import write_site

__all__ = ["write_site"]
