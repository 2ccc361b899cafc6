"""Imports: the snapshots of an export back into the archive, all or none.

The export is verified first, each row's content is held to its hash, and what the database holds
already must be equal: an import never decides between two truths.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from lb_pipelines.core.periods import academic_years_around
from lb_pipelines.core.pseudonyms import suppression
from lb_pipelines.core.snapshot_content import rehash
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import partitions
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import archive_ledger, exports, institutions, writers
from lb_pipelines.db.repositories.archive_ledger import RunKind
from lb_pipelines.db.repositories.versions import raise_versions
from lb_pipelines.errors import ImportRefused
from lb_pipelines.retention import export_files
from lb_pipelines.retention.actor import Actor
from lb_pipelines.retention.export_files import Manifest

NAMED = 5
"""How many snapshots a refusal names."""


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
    """Bring the rows of an export into the archive of the institution that it names.

    Raises `ExportDamaged`, `UnknownInstitution`, or `ImportRefused` naming the first snapshots in
    the way; then nothing has changed.
    """
    manifest, _ = export_files.read_manifest(directory)
    export_files.check(directory, manifest)
    with database.transaction() as connection:
        institution = institutions.find(connection, manifest.institution_id)
    partitions.ensure_archive_years(database, {file.academicYear for file in manifest.files})
    with database.transaction() as connection:
        # A table of this transaction's own, so that others need not wait while it fills.
        students: set[str] = set()
        exports.stage(connection, _rows(directory, manifest, students))
        writers.write_alone(connection, institution)
        if _any_erased(students, *exports.suppressions(connection, institution)):
            raise ImportRefused(
                f"Nothing was imported: {directory} names a student who has been erased since",
                "Use the copy of this export that the erasure has rewritten",
            )
        _refuse(
            exports.doubled(connection),
            "are in it more than once",
            "Export them again: no export of this product holds a snapshot twice",
        )
        _refuse(
            exports.differing(connection, institution),
            "are in the archive with other content",
            "Decide which is right: export what the archive has, or erase what is wrong there",
        )
        _refuse(
            exports.in_the_way(connection, institution),
            "are live, ACTIVE or with other content",
            "Archive them first, or select an export without them",
        )
        run = archive_ledger.begin(
            connection,
            institution,
            RunKind.IMPORT,
            today=today,
            started_by=actor.name,
            run_id=actor.run_id,
            selection=manifest.selection,
        )
        exports.merge(connection, institution, run)
        done = archive_ledger.finish(connection, run)
        raise_versions(connection, institution, exports.staged_months(connection))
    return Imported(
        run, institution.id, done.rows, manifest.rows - done.rows, done.bytes, done.digest
    )


def _refuse(ids: Sequence[str], what: str, remedy: str) -> None:
    if ids:
        more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
        raise ImportRefused(
            f"Nothing was imported: {', '.join(ids[:NAMED])}{more} {what}", remedy, list(ids)
        )


def _any_erased(students: Iterable[str], salt: bytes, suppressions: Container[bytes]) -> bool:
    """Whether one of them was erased: known only by what a salt makes of the id."""
    return any(suppression(salt, id) in suppressions for id in students)


def _rows(directory: Path, manifest: Manifest, students: set[str]) -> Iterator[exports.Row]:
    """All rows, each checked, and who is named in them; raises `ImportRefused` for a row that no
    export would hold."""
    for file in manifest.files:
        for batch in export_files.read_file(directory, file):
            columns = [column.to_pylist() for column in batch.columns]
            for row in zip(*columns, strict=True):
                students.update(_check(directory / file.name, row))
                yield row


def _check(path: Path, row: exports.Row) -> list[str]:
    """Hold a row's content to its hash; gives the students that it names."""
    institution_id, type, reference, granularity, day, period_start, year, *_ = row
    content_hash, entries_text, metadata_text, distribution = row[-4:]
    id = export_files.snapshot_id(type, reference, granularity, day, institution_id)
    try:
        BoardType(type), Granularity(granularity)
        if year not in academic_years_around(day):
            raise ValueError(f"{day} does not lie in {year}")
        entries = json.loads(entries_text)
        found = rehash(entries, json.loads(metadata_text), distribution, period_start)
    except ValueError as error:
        raise ImportRefused(
            f"Nothing was imported: {path}: {id} is no snapshot ({error})",
            "Use an export that this product has written",
        ) from error
    if found != content_hash:
        raise ImportRefused(
            f"Nothing was imported: {path}: the content of {id} is not what its hash says",
            "Use another copy of this export",
        )
    return [entry["studentId"] for entry in entries]
