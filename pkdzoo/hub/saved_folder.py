"""Where the saved detector of a folder lies, e.g. of a run. Needs no torch."""

from __future__ import annotations

from pathlib import Path

CONFIG = "config.json"
DISTILL_PLAN, DISTILLED = "distill.json", "distilled"  # in a folder of pkdzoo distill: its plan, and its student's run


class NoSavedDetector(FileNotFoundError, ValueError):
    """Raised for a folder that does not exist or holds no detector. It can be caught as either of its base classes."""


def find_saved_folder(folder: str | Path, best: bool = True) -> Path:
    """The folder of a saved detector: the given one, or the best or last student of a run in it.

    A folder of ``pkdzoo distill`` stands for the run of its distilled student.

    Args:
        folder: of a saved detector, or of a run.
        best: of a run, take the best student instead of the last one.

    Raises:
        NoSavedDetector: if there is no such folder, or no detector is in it; the message says which.
    """
    folder = Path(folder)
    if (folder / DISTILL_PLAN).is_file():
        if not (folder / DISTILLED).is_dir():
            raise NoSavedDetector(f"{folder} has not begun to train its student: continue it with --resume")
        folder = folder / DISTILLED
    inside = ("best", "last") if best else ("last", "best")
    found = next((path for path in (folder, *(folder / name for name in inside)) if (path / CONFIG).is_file()), None)
    if found is not None:
        return found
    if not folder.is_dir():
        raise NoSavedDetector(f"there is no such folder: {folder}")
    if (folder / "run.json").is_file() or (folder / "checkpoints").is_dir():
        raise NoSavedDetector(f"{folder} is a run that has not saved a detector yet: continue it with --resume")
    raise NoSavedDetector(f"{folder} holds no detector: it has neither {CONFIG} nor a run's best/ or last/")
