"""Purges: originals of whole partitions, long archived, let go in two phases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Database
from lb_pipelines.retention.actor import Actor


@dataclass(frozen=True)
class PlannedPurge:
    """One partition (type, month) whose originals are archived, and what is to become of it.

    `phase` is `detach` or `drop`; `waits_for` says in words what it waits for, None: it can go now.
    """

    institution_id: str
    type: BoardType
    month: date
    partition_key: str
    phase: str
    rows: int
    bytes: int
    waits_for: str | None


@dataclass(frozen=True)
class Purged:
    """What one run has done to one partition: `state` as in `lb.purges`."""

    purge: int
    type: BoardType
    month: date
    partition_key: str
    state: str
    rows: int
    bytes: int
    digest: str
    export_directory: str | None
    reason: str


def plan_purges(database: Database, institution: Institution, today: date) -> list[PlannedPurge]:
    """Each partition with archived originals, and those that wait to be dropped."""
    raise NotImplementedError


def purge(
    database: Database,
    institution: Institution,
    today: date,
    actor: Actor,
    export_root: Path,
    *,
    on_step: Callable[[str], None] | None = None,
) -> list[Purged]:
    """Do what `plan_purges` says can go now, and finish what another run began."""
    raise NotImplementedError
