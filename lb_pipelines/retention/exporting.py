"""Exports: a selection of the archive as Parquet files with a manifest of their SHA-256."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lb_pipelines.core.institution import Institution
from lb_pipelines.db.engine import Database
from lb_pipelines.retention.actor import Actor


@dataclass(frozen=True)
class Exported:
    """An export that was written: its number in `lb.exports`, and what it holds."""

    export: int
    directory: Path
    files: int
    rows: int
    bytes: int
    manifest_sha256: str


@dataclass(frozen=True)
class VerifiedExport:
    """What an export that is whole says of itself."""

    directory: Path
    institution_id: str
    files: int
    rows: int
    bytes: int
    digest: str
    manifest_sha256: str


def export_archive(
    database: Database, institution: Institution, selection: Any, directory: Path, actor: Actor
) -> Exported:
    """Write the archived snapshots of a selection into a new directory."""
    raise NotImplementedError


def verify_export(directory: Path) -> VerifiedExport:
    """Read every file and hold it to the manifest; raises `ExportDamaged`."""
    raise NotImplementedError
