"""Between this machine and others: downloads, caches, saved folders, cards, uploads."""
