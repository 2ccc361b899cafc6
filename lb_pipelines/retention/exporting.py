"""Exports: a selection of the archive as Parquet files with a manifest, in a new directory.

Written beside its place under a name that begins with a dot, and given its own in the moment in
which `lb.exports` learns of it: whatever looks like an export is whole, and an erasure knows where
it lies. The files themselves are `export_files`; bringing one back is `importing`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.selection import ArchiveSelection
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.partitions.patience import held
from lb_pipelines.db.repositories import exports, writers
from lb_pipelines.errors import ExportRefused
from lb_pipelines.retention import export_files
from lb_pipelines.retention.actor import Actor
from lb_pipelines.retention.export_files import BATCH_ROWS, Manifest

Part = tuple[str, BoardType, Iterator[list[exports.Row]]]
"""Academic year, type and the rows of one file, in batches."""


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
    selection: Mapping[str, Any]
    files: int
    rows: int
    bytes: int
    digest: str
    manifest_sha256: str


def export_archive(
    database: Database,
    institution: Institution,
    selection: ArchiveSelection,
    directory: Path,
    actor: Actor,
) -> Exported:
    """Write the archived snapshots of a selection, from one state of the archive.

    Raises `ExportRefused` where the directory exists or cannot be written.
    """

    def parts(connection: Connection) -> Iterator[Part]:
        for year, type in exports.parts(connection, institution, selection):
            yield (
                year,
                type,
                exports.archived(connection, institution, selection, year, type, BATCH_ROWS),
            )

    return write(database, institution, selection.as_json(), directory, actor, parts)


def verify_export(directory: Path) -> VerifiedExport:
    """Read every file and hold it to the manifest; raises `ExportDamaged` naming the file."""
    manifest, sha256 = export_files.read_manifest(directory)
    export_files.check(directory, manifest)
    return VerifiedExport(
        directory,
        manifest.institution_id,
        manifest.selection,
        len(manifest.files),
        manifest.rows,
        manifest.size,
        manifest.digest,
        sha256,
    )


def write(
    database: Database,
    institution: Institution,
    selection: Mapping[str, Any],
    directory: Path,
    actor: Actor,
    parts: Callable[[Connection], Iterable[Part]],
    entered: Callable[[Connection, int], None] = lambda connection, export: None,
) -> Exported:
    """Write an export of these parts; `entered` is called in the transaction that enters it."""
    directory = directory.absolute()
    beside = directory.with_name(f".{directory.name}.partial")
    with held(database, f"lb_pipelines:export:{directory}"):
        if directory.exists():
            raise ExportRefused(
                f"{directory} exists",
                "Choose a directory that does not: no export is written over",
            )
        try:
            # What was read before an erasure must not appear after it.
            while (
                done := _write_once(
                    database, institution, selection, directory, beside, actor, parts, entered
                )
            ) is None:
                pass
        except OSError as error:
            raise ExportRefused(
                f"{error.filename or directory} cannot be written ({error.strerror})",
                "Choose a directory that can, with room for the export",
            ) from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return done


def _write_once(
    database: Database,
    institution: Institution,
    selection: Mapping[str, Any],
    directory: Path,
    beside: Path,
    actor: Actor,
    parts: Callable[[Connection], Iterable[Part]],
    entered: Callable[[Connection, int], None],
) -> Exported | None:
    """The export; None where a student was erased while it was written."""
    if beside.exists():
        shutil.rmtree(beside)
    directory.parent.mkdir(parents=True, exist_ok=True)
    beside.mkdir(mode=0o700)
    with database.transaction(snapshot=True) as connection:
        erasures = writers.erasures(connection, institution)
        exported_at = exports.now(connection)
        files = [
            export_files.write_file(beside, year, type, map(export_files.batch_of, batches))
            for year, type, batches in parts(connection)
        ]
    manifest = Manifest(institution.id, selection, exported_at.isoformat(), files)
    sha256 = export_files.write_manifest(beside, manifest)
    with database.transaction() as connection:
        writers.write_alone(connection, institution)
        if writers.erasures(connection, institution) != erasures:
            return None
        export = exports.enter(
            connection,
            institution,
            directory=str(directory),
            selection=selection,
            rows=manifest.rows,
            manifest_sha256=sha256,
            started_by=actor.name,
            run_id=actor.run_id,
        )
        entered(connection, export)
        # Last, and while nobody can erase: a directory without an entry is what nobody would find.
        beside.rename(directory)
        export_files.settle_directory(directory.parent)
    return Exported(export, directory, len(files), manifest.rows, manifest.size, sha256)
