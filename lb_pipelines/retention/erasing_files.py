"""Erasure in one export: its files with pseudonyms for ids, under a manifest renewed.

An export is held to its manifest before, so that damage is never sealed. The new files are made in
a directory beside it, their manifest last: from then on a kill leaves what the next run moves into
place. The database learns of the new manifest, and that nothing is left to do, at the end.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from lb_pipelines.core.pseudonyms import replaced
from lb_pipelines.core.snapshot_content import rehash
from lb_pipelines.db.engine import Database
from lb_pipelines.db.partitions.patience import held
from lb_pipelines.db.repositories import erasures
from lb_pipelines.db.repositories.erasures import ExportTask
from lb_pipelines.errors import ExportDamaged
from lb_pipelines.retention import export_files
from lb_pipelines.retention.export_files import MANIFEST, ExportFile


@dataclass(frozen=True)
class UnfinishedExport:
    """An export that may still name an erased student, and why."""

    export: int
    directory: str
    reason: str


def rewrite(
    database: Database, task: ExportTask, *, forget_missing: bool
) -> bool | UnfinishedExport:
    """True: done. False: the directory is gone, and with `forget_missing` the task too."""
    directory = Path(task.directory)
    with held(database, f"lb_pipelines:export:{directory}"):
        try:
            if directory.is_dir():
                sha256 = _rewrite(directory, task)
            elif forget_missing:
                sha256 = None
            else:
                return UnfinishedExport(task.export, task.directory, "its directory is gone")
        except (OSError, ExportDamaged) as error:
            return UnfinishedExport(task.export, task.directory, str(error))
        with database.transaction() as connection:
            erasures.end_tasks(connection, task, sha256)
    return sha256 is not None


def _rewrite(directory: Path, task: ExportTask) -> str:
    """Make the export name nobody of the task; gives the SHA-256 of its manifest."""
    beside = directory.with_name(f".{directory.name}.erasing")
    if (beside / MANIFEST).exists():
        _move_in(beside, directory)
    shutil.rmtree(beside, ignore_errors=True)
    manifest, sha256 = export_files.read_manifest(directory)
    if manifest.institution_id != task.institution_id:
        raise ExportDamaged(str(directory), f"is an export of {manifest.institution_id!r}")
    export_files.check(directory, manifest)
    naming = {file for file in manifest.files if _names(directory, file, task.pseudonyms)}
    if not naming:
        return sha256
    beside.mkdir(mode=0o700)
    files = [
        _erased_file(directory, beside, file, task.pseudonyms) if file in naming else file
        for file in manifest.files
    ]
    export_files.write_manifest(beside, replace(manifest, files=files))
    export_files.settle_directory(beside.parent)
    return _move_in(beside, directory)


def _move_in(beside: Path, directory: Path) -> str:
    """Put the new files in the place of the old ones, the manifest last; gives its SHA-256."""
    for path in beside.iterdir():
        if path.name != MANIFEST:
            path.replace(directory / path.name)
    export_files.settle_directory(directory)
    (beside / MANIFEST).replace(directory / MANIFEST)
    export_files.settle_directory(directory)
    beside.rmdir()
    return export_files.sha256_of(directory / MANIFEST)


def _names(directory: Path, file: ExportFile, pseudonyms: Mapping[str, str]) -> bool:
    batches = export_files.read_file(directory, file)
    return any(_erased(batch, pseudonyms) is not batch for batch in batches)


def _erased_file(
    directory: Path, beside: Path, file: ExportFile, pseudonyms: Mapping[str, str]
) -> ExportFile:
    batches = (_erased(batch, pseudonyms) for batch in export_files.read_file(directory, file))
    return export_files.write_file(beside, file.academicYear, file.type, batches)


def _erased(batch: pa.RecordBatch, pseudonyms: Mapping[str, str]) -> pa.RecordBatch:
    """The rows without the ids; the same object where no row names one."""
    texts = batch.column("entries").to_pylist()
    hashes = batch.column("content_hash").to_pylist()
    changed = False
    for at, text in enumerate(texts):
        entries = was = json.loads(text)
        for id, pseudonym in pseudonyms.items():
            entries = replaced(entries, id, pseudonym)
        if entries != was:
            changed = True
            row = batch.slice(at, 1).to_pylist()[0]
            texts[at] = json.dumps(entries, ensure_ascii=False)
            hashes[at] = rehash(
                entries, json.loads(row["metadata"]), row["distribution"], row["period_start"]
            )
    if not changed:
        return batch
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    columns["entries"] = pa.array(texts, pa.string())
    columns["content_hash"] = pa.array(hashes, pa.binary())
    return pa.record_batch(list(columns.values()), schema=batch.schema)
