"""Assigners: match priors to objects. Pure functions on one image, without gradient."""
