"""Which runs of a report are compared: a distilled student and its plain student, by the rules of run_table.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pkdzoo.training.report.contenders import DISTILLED, PLAIN, Contender
from pkdzoo.training.run_table import doubts, no_plain_student, no_shared_seed, not_finished, teacher_ap


@dataclass(frozen=True)
class Pair:
    """A distilled student and what it is compared with.

    Attributes:
        distilled: the student.
        plain: the run of the same recipe and seed without a teacher; None without one.
        reason: why there is no plain student; empty where there is one.
    """

    distilled: Contender
    plain: Contender | None
    reason: str = ""

    @property
    def ap(self) -> float:
        """AP of the distilled student."""
        return float(self.distilled.metrics["AP"])

    @property
    def plain_ap(self) -> float | None:
        """AP of the plain student."""
        return None if self.plain is None else float(self.plain.metrics["AP"])

    @property
    def teacher_ap(self) -> float | None:
        """AP of the teacher on the same images, if it is known."""
        return teacher_ap(self.distilled.run)

    @property
    def doubts(self) -> list[str]:
        """Why the difference may have another cause than the teacher."""
        return [] if self.plain is None else doubts(self.distilled.run, self.plain.run)

    @property
    def gap_closed(self) -> float | None:
        """Share of the gap from plain student to teacher that distillation closes; None without a gap."""
        plain, teacher = self.plain_ap, self.teacher_ap
        if plain is None or teacher is None or teacher <= plain:
            return None
        return (self.ap - plain) / (teacher - plain)


def pair_students(contenders: Sequence[Contender]) -> Pair | None:
    """The first distilled student that has a plain student, else the first one; None without an evaluated one."""
    evaluated = [contender for contender in contenders if contender.metrics.get("AP") is not None]
    pairs = [_find_plain(contender, evaluated) for contender in evaluated if contender.role == DISTILLED]
    return next((pair for pair in pairs if pair.plain is not None), pairs[0] if pairs else None)


def plain_student_of(contender: Contender, contenders: Sequence[Contender]) -> Contender | None:
    """The plain student of a distilled one; None for other contenders."""
    evaluated = [other for other in contenders if other.metrics.get("AP") is not None]
    return _find_plain(contender, evaluated).plain if contender.role == DISTILLED else None


def _find_plain(distilled: Contender, evaluated: Sequence[Contender]) -> Pair:
    run = distilled.run
    plain = [contender for contender in evaluated if contender.role == PLAIN]
    alike = [contender for contender in plain if run.has_same_student(contender.run)]
    seeded = [contender for contender in alike if contender.run.seed == run.seed]
    if not alike:
        baseline = "" if plain else "; with pkdzoo distill, write --baseline"
        return Pair(distilled, None, no_plain_student(distilled.title) + baseline)
    if not seeded:
        return Pair(distilled, None, no_shared_seed(distilled.title))
    unfinished = [not_finished(one.run) for one in (distilled, seeded[0]) if not one.run.finished]
    return Pair(distilled, None, unfinished[0]) if unfinished else Pair(distilled, seeded[0])
