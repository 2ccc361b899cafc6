"""The files of an export: Parquet, one an academic year and type, and the manifest that seals them.

Formats only: no database here. docs/archive-export.md tells a reader elsewhere the same. Whatever
is not as the manifest says is an `ExportDamaged` that names the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import xor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lb_pipelines.errors import ExportDamaged

FORMAT, VERSION = "lb-archive-export", 1
MANIFEST = "manifest.json"
BATCH_ROWS = 1_000
"""Rows in memory at once; also the row groups of the files."""

_INSTANT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        pa.field("institution_id", pa.string(), nullable=False),
        pa.field("type", pa.string(), nullable=False),
        pa.field("reference_id", pa.string(), nullable=False),
        pa.field("time_granularity", pa.string(), nullable=False),
        pa.field("snapshot_date", pa.date32(), nullable=False),
        pa.field("period_start", pa.date32(), nullable=False),
        pa.field("academic_year", pa.string(), nullable=False),
        pa.field("term_id", pa.string()),
        pa.field("revision", pa.int32(), nullable=False),
        pa.field("created_at", _INSTANT, nullable=False),
        pa.field("archived_at", _INSTANT, nullable=False),
        pa.field("content_hash", pa.binary(), nullable=False),
        pa.field("entries", pa.string(), nullable=False),
        pa.field("metadata", pa.string(), nullable=False),
        pa.field("distribution", pa.binary(), nullable=False),
    ]
)
_NAME = re.compile(r"\d{4}-\d{4}_(CLASS|SUBJECT|CAMPUS)\.parquet")


@dataclass(frozen=True)
class ExportFile:
    """One file as the manifest has it. `digest`: see `digest_of`, as 32 hexadecimal digits."""

    name: str
    academicYear: str
    type: str
    rows: int
    bytes: int
    sha256: str
    digest: str


@dataclass(frozen=True)
class Manifest:
    """What an export holds; `exported_at` as ISO 8601."""

    institution_id: str
    selection: Mapping[str, Any]
    exported_at: str
    files: Sequence[ExportFile]

    @property
    def rows(self) -> int:
        """Snapshots in all files."""
        return sum(file.rows for file in self.files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for file in self.files)

    @property
    def digest(self) -> str:
        """What all rows are together."""
        return f"{reduce(xor, (int(file.digest, 16) for file in self.files), 0):032x}"

    def text(self) -> bytes:
        """The manifest as it is written; `sha256` seals all the rest."""
        body = {
            "format": FORMAT,
            "version": VERSION,
            "institutionId": self.institution_id,
            "selection": dict(self.selection),
            "exportedAt": self.exported_at,
            "rows": self.rows,
            "digest": self.digest,
            "files": [asdict(file) for file in self.files],
        }
        return (json.dumps({**body, "sha256": _seal(body)}, indent=2) + "\n").encode()


def snapshot_id(type_: str, reference: str, granularity: str, day: object, of: str) -> str:
    """The id that `lb.leaderboard_snapshots` generates for a snapshot of institution `of`."""
    return f"{of}:{type_}:{reference}:{granularity}:{day}"


def digest_of(batch: pa.RecordBatch) -> int:
    """XOR over the rows of the first 128 bits of SHA-256(id || content_hash), as `lb.digest_high`
    and `lb.digest_low` have it: the same whatever the order of the rows."""
    names = ("type", "reference_id", "time_granularity", "snapshot_date", "institution_id")
    ids = map(snapshot_id, *(batch.column(name).to_pylist() for name in names))
    hashes = batch.column("content_hash").to_pylist()
    digest = 0
    for id, content in zip(ids, hashes, strict=True):
        digest ^= int.from_bytes(hashlib.sha256(id.encode() + content).digest()[:16], "big")
    return digest


def batch_of(rows: Sequence[Sequence[Any]]) -> pa.RecordBatch:
    """Rows in the order of `SCHEMA`."""
    columns = zip(*rows, strict=True)
    return pa.record_batch(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )


def write_file(
    directory: Path, academic_year: str, type: str, batches: Iterable[pa.RecordBatch]
) -> ExportFile:
    """Write one file, on disk when this returns."""
    path = directory / f"{academic_year}_{type}.parquet"
    rows = digest = 0
    with path.open("xb") as file:
        with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
            for batch in batches:
                writer.write_batch(batch)
                rows += batch.num_rows
                digest ^= digest_of(batch)
        _settle(file.fileno())
    return ExportFile(
        path.name,
        academic_year,
        type,
        rows,
        path.stat().st_size,
        sha256_of(path),
        f"{digest:032x}",
    )


def write_manifest(directory: Path, manifest: Manifest) -> str:
    """Write the manifest, last of all; on disk when this returns. Gives its SHA-256."""
    text = manifest.text()
    with (directory / MANIFEST).open("xb") as file:
        file.write(text)
        _settle(file.fileno())
    settle_directory(directory)
    return hashlib.sha256(text).hexdigest()


def read_manifest(directory: Path) -> tuple[Manifest, str]:
    """The manifest and its SHA-256; raises `ExportDamaged` where it is not as it was written."""
    path = directory / MANIFEST
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ExportDamaged(str(path), f"cannot be read ({error.strerror})") from error
    try:
        body = json.loads(text)
        seal = body.pop("sha256")
        if (body["format"], body["version"]) != (FORMAT, VERSION):
            raise ExportDamaged(str(path), f"is no {FORMAT} of version {VERSION}")
        files = [ExportFile(**file) for file in body["files"]]
        manifest = Manifest(body["institutionId"], body["selection"], body["exportedAt"], files)
        whole = seal == _seal(body) and manifest.text() == text
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportDamaged(str(path), f"is no manifest ({error!r})") from error
    if not whole:
        raise ExportDamaged(str(path), "was edited: its own SHA-256 is another")
    return manifest, hashlib.sha256(text).hexdigest()


def check(directory: Path, manifest: Manifest) -> None:
    """Read every file whole and hold it to the manifest; raises `ExportDamaged`."""
    for file in manifest.files:
        path = directory / file.name
        if not _NAME.fullmatch(file.name):
            raise ExportDamaged(str(path), "is no name of a file of an export")
        try:
            size = path.stat().st_size
            found = sha256_of(path)
        except FileNotFoundError:
            raise ExportDamaged(str(path), "is missing") from None
        except OSError as error:
            raise ExportDamaged(str(path), f"cannot be read ({error.strerror})") from error
        if size != file.bytes:
            raise ExportDamaged(str(path), f"has {size} bytes, not {file.bytes}")
        if found != file.sha256:
            raise ExportDamaged(str(path), "was changed: its SHA-256 is another")
        rows = digest = 0
        for batch in read_file(directory, file):
            rows += batch.num_rows
            digest ^= digest_of(batch)
            for name, of in (
                ("institution_id", manifest.institution_id),
                ("type", file.type),
                ("academic_year", file.academicYear),
            ):
                if others := set(batch.column(name).to_pylist()) - {of}:
                    raise ExportDamaged(str(path), f"holds {name} {min(others)!r}, not {of!r}")
        if rows != file.rows:
            raise ExportDamaged(str(path), f"has {rows} rows, not {file.rows}")
        if f"{digest:032x}" != file.digest:
            raise ExportDamaged(str(path), "holds other snapshots: its digest is another")


def read_file(directory: Path, file: ExportFile) -> Iterator[pa.RecordBatch]:
    """The rows of one file, batch by batch; raises `ExportDamaged`."""
    path = directory / file.name
    try:
        with pq.ParquetFile(path) as parquet:
            if parquet.schema_arrow != SCHEMA:
                raise ExportDamaged(str(path), "has other columns than an export")
            yield from parquet.iter_batches(BATCH_ROWS)
    except (OSError, pa.ArrowException) as error:
        raise ExportDamaged(str(path), f"is no Parquet that can be read ({error})") from error


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settle_directory(directory: Path) -> None:
    """Have what was made or renamed in a directory on disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        _settle(handle)
    finally:
        os.close(handle)


def _settle(handle: int) -> None:
    os.fsync(handle)


def _seal(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
