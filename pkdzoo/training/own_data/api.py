"""``pkdzoo.distill(...)``: the Python door of ``pkdzoo distill``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pkdzoo.training.own_data.arguments import DistillArguments
from pkdzoo.training.own_data.distill import distill_command
from pkdzoo.training.own_data.result import Run


def distill(
    data: str | Path,
    student: str,
    teacher: str | Path | None = None,
    *,
    baseline: bool = False,
    time: str | None = None,
    init: str = "auto",
    method: str = "pkd",
    output: str | Path | None = None,
    set: Sequence[str] = (),
    resume: bool = False,
    cpu: bool = False,
    threads: int | None = None,
    mixed_precision: str | None = None,
    unlabeled: str | Path | None = None,
) -> Run:
    """Distill a detector for one's own data, as ``pkdzoo distill`` does.

    Args:
        data: folder of labeled images in one of the layouts of docs/own_data.md, or a ``data.yaml``.
        student: a registered name, or the folder of a saved detector.
        teacher: a registered name, or the folder of a saved detector or a run; None chooses a larger detector of the
            student's family. It is trained on the data first, unless it has the classes of the data.
        baseline: train the student without a teacher as well, on the same budget.
        time: fits all training into e.g. ``30m``; None takes as long as the data needs.
        init: ``auto`` (COCO's weights, else ImageNet's, else none), ``none``, ``imagenet``, a name or a file.
        method: distillation method, see :func:`pkdzoo.list_methods`.
        output: folder of the run; None means ``runs/STUDENT-DATA``.
        set: overrides of recipe fields, as in ``["optim.lr=0.005"]``.
        resume: continue the run in ``output``.
        cpu: train on the CPU even if there is a GPU.
        threads: CPU threads; None leaves the choice to the run.
        mixed_precision: ``no``, ``bf16`` or ``fp16``.
        unlabeled: folder of images without annotations, from whose features the distilled student learns, too.

    Returns:
        The run: ``.student``, ``.plain``, ``.teacher``, ``.metrics``, ``.folder``.

    Raises:
        ValueError: for data, names or a folder that cannot be used; the message says what to write instead.
        TypeError: for a detector in place of its name.

    Example:
        >>> import pkdzoo
        >>> pkdzoo.distill(data="photos", student="rtmdet_tiny", method="pdk")
        Traceback (most recent call last):
            ...
        pkdzoo.training.command.TrainingFailed: no distillation method 'pdk'. Did you mean pkd?
    """
    for role, name in (("student", student), ("teacher", teacher)):
        if name is not None and not isinstance(name, (str, Path)):
            raise TypeError(
                f"{role}: write a name or a folder, not a {type(name).__name__}; model.save_pretrained(FOLDER) writes "
                "one"
            )
    return distill_command(
        DistillArguments(
            Path(data),
            str(student),
            None if teacher is None else str(teacher),
            baseline,
            time,
            init,
            method,
            None if output is None else Path(output),
            list(set),
            resume,
            cpu=cpu,
            threads=threads,
            mixed_precision=mixed_precision,
            unlabeled=None if unlabeled is None else Path(unlabeled),
        )
    )
