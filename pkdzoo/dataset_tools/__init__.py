"""Tools for data sets: check, convert, preview. They run without importing torch."""
