"""Lets ``import pkdzoo`` work in the folder that holds a clone named pkdzoo.

Without this file Python would take the clone itself for an empty namespace package there, and every name of pkdzoo
would be missing. No package contains this file.
"""

from pathlib import Path

if __name__ == "pkdzoo":
    __file__ = str(Path(__file__).resolve().parent / "pkdzoo" / "__init__.py")
    __path__ = [str(Path(__file__).parent)]
    exec(compile(Path(__file__).read_text(encoding="utf-8"), __file__, "exec"))
