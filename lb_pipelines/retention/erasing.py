"""Erasure of a student: a pseudonym everywhere, ranks and sums of all others as they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.retention import Hold
from lb_pipelines.db.engine import Database
from lb_pipelines.retention.actor import Actor


@dataclass(frozen=True)
class PlannedErasure:
    """What an erasure would rewrite: rows by table, exports by number, and the holds in its way."""

    institution_id: str
    student_key: int
    counts: Mapping[str, int]
    exports: tuple[int, ...]
    holds: tuple[Hold, ...]


@dataclass(frozen=True)
class UnfinishedExport:
    """An export that still names an erased student, and why."""

    export: int
    directory: str
    reason: str


@dataclass(frozen=True)
class FinishedFiles:
    """What became of the exports that were to be rewritten."""

    rewritten: int
    forgotten: int
    left: tuple[UnfinishedExport, ...]


@dataclass(frozen=True)
class Erased:
    """An erasure: its number in `lb.erasures`, the rows rewritten by table, and the exports."""

    erasure: int
    counts: Mapping[str, int]
    files: FinishedFiles


def plan_erasure(
    database: Database, institution: Institution, student: str | int, today: date
) -> PlannedErasure:
    """What `erase` would do; `student` is an id (text) or a student_key (a number)."""
    raise NotImplementedError


def erase(
    database: Database,
    institution: Institution,
    student: str | int,
    *,
    reason: str,
    today: date,
    actor: Actor,
    forget_missing: bool = False,
    on_step: Callable[[str, int], None] | None = None,
) -> Erased:
    """Erase a student. Raises `UnknownStudent`, `InvalidErasure`, `UnderLegalHold`."""
    raise NotImplementedError


def finish_erasures(
    database: Database, institution: Institution | None, actor: Actor, *, forget_missing: bool = False
) -> FinishedFiles:
    """Rewrite the exports that erasures have left to do, of one institution or of all."""
    raise NotImplementedError
