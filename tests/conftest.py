"""Shared by all tests: the folder itself is importable, so that tests can share reference.py."""
