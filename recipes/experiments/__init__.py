"""Experiments of recipes and seeds, and what came out of them."""
