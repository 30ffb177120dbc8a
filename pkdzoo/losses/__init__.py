"""Losses as pure functions. Weights and normalisers are the caller's."""
