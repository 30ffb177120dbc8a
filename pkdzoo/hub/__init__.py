"""Downloads, caches, saved folders, model cards and uploads."""
