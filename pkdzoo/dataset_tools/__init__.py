"""Tools for data sets: check, convert, preview."""
