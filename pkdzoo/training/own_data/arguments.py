"""The options of ``pkdzoo distill``; nothing slow is imported here, because ``pkdzoo --help`` reads this file."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path

from pkdzoo.training.arguments import MachineArguments, add_machine_arguments, add_unlabeled_argument


@dataclass
class DistillArguments(MachineArguments):
    """What ``pkdzoo distill`` and :func:`pkdzoo.distill` are told; machine options as in ``MachineArguments``.

    Attributes:
        data: folder of the data set, or its ``data.yaml``.
        student: registered name, or a folder with a saved detector.
        teacher: registered name, or a folder with a saved detector or a run; None chooses one.
        baseline: train the plain student, too.
        time: for everything together, e.g. ``30m``; None means as long as the data needs.
        init: initial weights of the student: ``auto``, ``none``, ``imagenet``, a registered name or a file.
        method: distillation method.
        output: folder of the result; None means ``runs/STUDENT-DATA``.
        set: ``key=value`` overrides of the fields of all recipes.
        resume: continue in ``output``.
        unlabeled: folder of images without annotations, which the distilled student learns from, too.
    """

    data: Path
    student: str
    teacher: str | None = None
    baseline: bool = False
    time: str | None = None
    init: str = "auto"
    method: str = "pkd"
    output: Path | None = None
    set: list[str] = field(default_factory=list)
    resume: bool = False
    unlabeled: Path | None = None

    @property
    def folder(self) -> Path:
        """Folder of the result."""
        return self.output or default_folder(self.student, self.data)


def default_folder(student: str, data: str | Path) -> Path:
    """``runs/STUDENT-DATA``; a relative folder such as ``.`` is called by its own name."""
    return Path("runs") / f"{own_name(student)}-{Path(own_name(data)).stem}"


def own_name(path: str | Path) -> str:
    """The last part of a path; for ``.`` the name of the folder."""
    return Path(os.path.abspath(path)).name


def add_distill_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all options of ``pkdzoo distill``."""
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder of labeled images: COCO, VOC, YOLO, ..."
    )
    parser.add_argument(
        "--student", required=True, metavar="NAME", help="a name from 'pkdzoo list', or the folder of a detector"
    )
    parser.add_argument(
        "--teacher",
        metavar="NAME|FOLDER",
        help="a larger detector, one of your own, or of another library, e.g. torchvision:NAME (default: a larger one "
        "of the student's family)",
    )
    add_unlabeled_argument(parser)
    parser.add_argument("--baseline", action="store_true", help="also train the student without a teacher, to compare")
    parser.add_argument("--time", metavar="30m", help="fit all training into this time")
    parser.add_argument(
        "--init",
        default="auto",
        metavar="WEIGHTS",
        help="auto (COCO's weights, else ImageNet's, else none), none (from scratch, needs no network), imagenet, a "
        "name with weights, or a file (default: auto)",
    )
    parser.add_argument("--method", default="pkd", help="distillation method, see pkdzoo.list_methods() (default: pkd)")
    parser.add_argument("--output", type=Path, help="folder of the result (default: runs/STUDENT-DATA)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a field of all recipes"
    )
    parser.add_argument("--resume", action="store_true", help="continue in --output after a stop")
    add_machine_arguments(parser)
