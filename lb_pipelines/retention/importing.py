"""Imports: the snapshots of an export back into the archive, all or none."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from lb_pipelines.db.engine import Database
from lb_pipelines.retention.actor import Actor


@dataclass(frozen=True)
class Imported:
    """What an import brought: `there` rows were in the archive already, equal."""

    archive_run: int
    institution_id: str
    rows: int
    there: int
    bytes: int
    digest: str


def import_export(database: Database, directory: Path, actor: Actor, today: date) -> Imported:
    """Bring the rows of an export into the archive of the institution that it names."""
    raise NotImplementedError
