"""Messages of errors as a command line prints them."""

from __future__ import annotations

from pkdzoo.utils.text import printable


def describe_error(error: BaseException) -> str:
    """The message of an error; for an error from a loader process, without that process's traceback.

    Control characters are escaped: names of files and classes in it may come from strangers.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if lines[0].startswith("Caught ") or ": Caught " in lines[0]:
        last = lines[-1]
        lines = [last.split(": ", 1)[1] if ": " in last else last]
    return printable("\n".join(lines), keep="\n")
