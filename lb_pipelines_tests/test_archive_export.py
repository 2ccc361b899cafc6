"""Exports of the archive: whole or not there, held to their manifest, and back again unchanged."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.selection import ArchiveSelection
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Database
from lb_pipelines.db.migrate import upgrade
from lb_pipelines.db.repositories import exports, institutions
from lb_pipelines.errors import ExportDamaged, ExportRefused, ImportRefused, UnknownInstitution
from lb_pipelines.retention import export_files, exporting
from lb_pipelines.retention.exporting import Exported, export_archive, verify_export
from lb_pipelines.retention.importing import import_export
from lb_pipelines_tests import archives
from lb_pipelines_tests.archives import AUGUST, ID, JULY, SOMEBODY, archived
from lb_pipelines_tests.conftest import libpq_url
from lb_pipelines_tests.waiting import LIMIT_SECONDS

TODAY = date(2024, 4, 1)
ALL = ArchiveSelection()


def july_and_august(database: Database) -> Institution:
    """Six days of two types and two boards archived, in two academic years."""
    institution = archives.school(database)
    archives.add(database, institution, archives.month(JULY) + archives.month(AUGUST))
    assert archives.archive(database, institution) == 24
    return institution


def export(
    database: Database, institution: Institution, directory: Path, selection: Any = ALL
) -> Exported:
    return export_archive(database, institution, selection, directory, SOMEBODY)


def empty(database: Database) -> None:
    with database.transaction() as connection:
        for table in ("archived_leaderboard_snapshots", "leaderboard_snapshots"):
            connection.execute(f"DELETE FROM lb.{table}")


def digest_of_archive(database: Database) -> str:
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT bit_xor(lb.digest_high(original_id, content_hash)),"
            " bit_xor(lb.digest_low(original_id, content_hash))"
            " FROM lb.archived_leaderboard_snapshots"
        ).fetchone()
    assert row is not None
    return "".join(f"{half % 2**64:016x}" for half in row)


def test_an_export_holds_what_was_selected_and_says_so(database: Database, tmp_path: Path) -> None:
    institution = july_and_august(database)
    done = export(database, institution, tmp_path / "whole")
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == [
        "2022-2023_CAMPUS.parquet",
        "2022-2023_CLASS.parquet",
        "2023-2024_CAMPUS.parquet",
        "2023-2024_CLASS.parquet",
        "manifest.json",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
    verified = verify_export(done.directory)
    assert (verified.rows, verified.files, done.rows, done.files) == (24, 4, 24, 4)
    assert verified.digest == digest_of_archive(database)
    assert verified.manifest_sha256 == done.manifest_sha256
    text = (tmp_path / "whole" / "manifest.json").read_bytes()
    assert hashlib.sha256(text).hexdigest() == done.manifest_sha256
    # Anybody's Parquet reader will do, and the compression is zstd.
    file = pq.ParquetFile(tmp_path / "whole" / "2022-2023_CLASS.parquet")
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    (first, *_) = file.read().to_pylist()
    assert json.loads(first["entries"])[0]["rank"] == 1
    with database.transaction() as connection:
        (entry,) = exports.every(connection, institution)
    assert (entry.export, entry.directory, entry.rows, entry.manifest_sha256) == (
        done.export,
        str(tmp_path / "whole"),
        24,
        done.manifest_sha256,
    )
    assert (entry.started_by, entry.run_id, entry.selection) == ("somebody", "run-1", {})


@pytest.mark.parametrize(
    ("selection", "rows"),
    [
        (ArchiveSelection(types=(BoardType.CLASS,)), 12),
        (ArchiveSelection(reference_ids=("r1",), last_day=date(2023, 7, 2)), 4),
        (ArchiveSelection(first_day=date(2023, 8, 3)), 4),
        (ArchiveSelection(academic_years=("2022-2023",)), 12),
        (ArchiveSelection(term_ids=("nowhere",)), 0),
        (ArchiveSelection(granularities=("weekly",)), 0),  # type: ignore[arg-type]
    ],
)
def test_a_selection_is_exported_alone(
    database: Database, tmp_path: Path, selection: ArchiveSelection, rows: int
) -> None:
    institution = july_and_august(database)
    assert export(database, institution, tmp_path / "some", selection).rows == rows
    verified = verify_export(tmp_path / "some")
    assert (verified.rows, verified.selection) == (rows, selection.as_json())


def test_many_batches_make_one_file(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "BATCH_ROWS", 5)
    institution = july_and_august(database)
    assert export(database, institution, tmp_path / "whole").rows == 24
    assert verify_export(tmp_path / "whole").digest == digest_of_archive(database)


def test_a_directory_that_exists_is_left_alone(database: Database, tmp_path: Path) -> None:
    institution = july_and_august(database)
    with pytest.raises(ExportRefused, match="exists"):
        export(database, institution, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ExportRefused, match="cannot be written"):
        export(database, institution, tmp_path / "file" / "export")
    with database.transaction() as connection:
        assert exports.every(connection, institution) == []


def test_an_export_that_an_erasure_overtook_is_written_anew(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    institution = july_and_august(database)
    written: list[int] = []

    def write_manifest(directory: Path, manifest: export_files.Manifest) -> str:
        if not written:
            with database.transaction() as connection:
                connection.execute("UPDATE lb.institutions SET erasures = erasures + 1")
                connection.execute(
                    "DELETE FROM lb.archived_leaderboard_snapshots WHERE reference_id = 'r1'"
                )
        written.append(manifest.rows)
        return original(directory, manifest)

    original = export_files.write_manifest
    monkeypatch.setattr(export_files, "write_manifest", write_manifest)
    assert export(database, institution, tmp_path / "whole").rows == 12
    assert written == [24, 12]
    assert verify_export(tmp_path / "whole").rows == 12


_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


def _export_and_stop(url: str, directory: Path, words: Any) -> None:
    """Stop for ever with the files written and the manifest too, before the directory has its
    name."""
    original = export_files.write_manifest

    def stopped(directory: Path, manifest: export_files.Manifest) -> str:
        original(directory, manifest)
        words.send("written")
        words.recv()
        raise AssertionError

    export_files.write_manifest = stopped
    database = Database(url)
    with database.transaction() as connection:
        institution = institutions.find(connection, ID)
    export_archive(database, institution, ALL, directory, SOMEBODY)


def test_a_killed_export_leaves_nothing_that_looks_like_one(
    database: Database, tmp_path: Path
) -> None:
    institution = july_and_august(database)
    here, there = _context.Pipe()
    directory = tmp_path / "whole"
    process = _context.Process(
        target=_export_and_stop, args=(libpq_url(database.url), directory, there), daemon=True
    )
    process.start()
    assert here.poll(LIMIT_SECONDS)
    process.kill()
    process.join()
    assert process.exitcode == -9
    assert not directory.exists()
    assert [path.name for path in tmp_path.iterdir()] == [".whole.partial"]
    with database.transaction() as connection:
        assert exports.every(connection, institution) == []
    assert export(database, institution, directory).rows == 24
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


FILE = "2022-2023_CLASS.parquet"


def flip(directory: Path) -> None:
    data = bytearray((directory / FILE).read_bytes())
    data[100] ^= 1
    (directory / FILE).write_bytes(data)


def cut(directory: Path) -> None:
    os.truncate(directory / FILE, 500)


def remove(directory: Path) -> None:
    (directory / FILE).unlink()


def remove_manifest(directory: Path) -> None:
    (directory / "manifest.json").unlink()


def no_manifest(directory: Path) -> None:
    (directory / "manifest.json").write_text("[]")


def edited(directory: Path) -> None:
    path = directory / "manifest.json"
    path.write_text(path.read_text().replace(ID, "inst_8"))


def sealed(directory: Path, **changes: Any) -> None:
    """A manifest that seals what it says, with another word about the one file."""
    manifest, _ = export_files.read_manifest(directory)
    files = [
        export_files.ExportFile(**(vars(file) | (changes if file.name == FILE else {})))
        for file in manifest.files
    ]
    path = directory / "manifest.json"
    path.unlink()
    export_files.write_manifest(
        directory,
        export_files.Manifest(
            manifest.institution_id, manifest.selection, manifest.exported_at, files
        ),
    )


def swapped(directory: Path) -> None:
    """The files of two types under each other's names, sealed."""
    other = directory / "2022-2023_CAMPUS.parquet"
    whole = other.read_bytes()
    (directory / FILE).write_bytes(whole)
    manifest, _ = export_files.read_manifest(directory)
    (of_other,) = (file for file in manifest.files if file.name == other.name)
    sealed(directory, sha256=of_other.sha256, bytes=of_other.bytes, digest=of_other.digest)


def no_parquet(directory: Path) -> None:
    data = b"PAR1 and nothing else"
    (directory / FILE).write_bytes(data)
    sealed(directory, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    ("damage", "file", "what"),
    [
        (flip, FILE, "its SHA-256 is another"),
        (cut, FILE, "has 500 bytes, not"),
        (remove, FILE, "is missing"),
        (remove_manifest, "manifest.json", "cannot be read"),
        (no_manifest, "manifest.json", "is no manifest"),
        (edited, "manifest.json", "was edited"),
        (lambda directory: sealed(directory, rows=5), FILE, "has 6 rows, not 5"),
        (lambda directory: sealed(directory, digest="0" * 32), FILE, "holds other snapshots"),
        (lambda directory: sealed(directory, name="../x"), "../x", "is no name of a file"),
        (swapped, FILE, "holds type 'CAMPUS', not 'CLASS'"),
        (no_parquet, FILE, "is no Parquet that can be read"),
    ],
)
def test_a_damaged_export_is_named_and_not_imported(
    database: Database, tmp_path: Path, damage: Callable[[Path], None], file: str, what: str
) -> None:
    directory = tmp_path / "whole"
    export(database, july_and_august(database), directory)
    damage(directory)
    with pytest.raises(ExportDamaged) as caught:
        verify_export(directory)
    assert caught.value.file == str(directory / file)
    assert what in caught.value.what
    empty(database)
    with pytest.raises(ExportDamaged):
        import_export(database, directory, SOMEBODY, TODAY)
    assert archived(database) == []


def test_an_import_brings_back_every_row_and_is_the_same_a_second_time(
    database: Database, tmp_path: Path
) -> None:
    institution = july_and_august(database)
    before, digest = archived(database), digest_of_archive(database)
    export(database, institution, tmp_path / "whole")
    empty(database)
    done = import_export(database, tmp_path / "whole", SOMEBODY, TODAY)
    assert (done.institution_id, done.rows, done.there, done.digest) == (ID, 24, 0, digest)
    assert archived(database) == before
    again = import_export(database, tmp_path / "whole", SOMEBODY, TODAY)
    assert (again.rows, again.there) == (0, 24)
    assert archived(database) == before
    with database.transaction() as connection:
        runs = connection.execute(
            "SELECT kind, rows, today, started_by, run_id, finished_at IS NOT NULL"
            " FROM lb.archive_runs WHERE kind = 'IMPORT' ORDER BY archive_run"
        ).fetchall()
    assert runs == [("IMPORT", n, TODAY, "somebody", "run-1", True) for n in (24, 0)]


def test_an_import_into_another_database(
    database: Database, tmp_path: Path, fresh_database_url: Callable[[], str]
) -> None:
    export(database, july_and_august(database), tmp_path / "whole")
    other = Database(fresh_database_url())
    upgrade(other)
    with pytest.raises(UnknownInstitution, match=ID):
        import_export(other, tmp_path / "whole", SOMEBODY, TODAY)
    archives.school(other)
    assert import_export(other, tmp_path / "whole", SOMEBODY, TODAY).rows == 24
    assert archived(other) == archived(database)
    other.close()


def test_rows_that_are_not_there_are_brought_beside_those_that_are(
    database: Database, tmp_path: Path
) -> None:
    institution = july_and_august(database)
    before = archived(database)
    export(database, institution, tmp_path / "whole")
    with database.transaction() as connection:
        connection.execute(
            "DELETE FROM lb.archived_leaderboard_snapshots WHERE reference_id = 'r1'"
        )
    done = import_export(database, tmp_path / "whole", SOMEBODY, TODAY)
    # Their originals are live, ARCHIVED and equal: the invariant holds again.
    assert (done.rows, done.there) == (12, 12)
    assert archived(database) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "UPDATE lb.archived_leaderboard_snapshots SET content_hash = 'x' WHERE type = 'CLASS'",
            r"inst_9:CLASS:r1:daily:2023-07-01, .* and 7 more are in the archive with other",
        ),
        (
            "WITH gone AS (DELETE FROM lb.archived_leaderboard_snapshots)"
            " UPDATE lb.leaderboard_snapshots SET status = 'ACTIVE'"
            " WHERE reference_id = 'r2' AND snapshot_date = '2023-08-03'",
            r"inst_9:CAMPUS:r2:daily:2023-08-03, inst_9:CLASS:r2:daily:2023-08-03 are live",
        ),
        (
            "WITH gone AS (DELETE FROM lb.archived_leaderboard_snapshots)"
            " UPDATE lb.leaderboard_snapshots SET content_hash = 'x'"
            " WHERE id = 'inst_9:CLASS:r2:daily:2023-08-03'",
            r"imported: inst_9:CLASS:r2:daily:2023-08-03 are live",
        ),
        (
            "INSERT INTO lb.erasures (institution_key, suppression, counts, requested_by, reason)"
            " SELECT institution_key, sha256(erasure_salt || convert_to('r1-\u00fc''2', 'UTF8')),"
            " '{}', 'x', 'x' FROM lb.institutions",
            "names a student who has been erased since",
        ),
    ],
)
def test_an_import_decides_between_no_two_truths(
    database: Database, tmp_path: Path, change: str, words: str
) -> None:
    institution = july_and_august(database)
    export(database, institution, tmp_path / "whole")
    with database.transaction() as connection:
        connection.execute(change)
    before = archived(database), archives.live(database)
    with pytest.raises(ImportRefused, match=words):
        import_export(database, tmp_path / "whole", SOMEBODY, TODAY)
    assert (archived(database), archives.live(database)) == before
    with database.transaction() as connection:
        assert (
            connection.execute("SELECT FROM lb.archive_runs WHERE kind = 'IMPORT'").fetchone()
            is None
        )


def forged(directory: Path, column: str, value: Any) -> None:
    """The first row of the one file with another value, sealed as if it had been written so."""
    rows = pq.read_table(directory / FILE).to_pylist()
    rows[0][column] = value
    (directory / FILE).unlink()
    batch = pa.RecordBatch.from_pylist(rows, schema=export_files.SCHEMA)
    file = export_files.write_file(directory, "2022-2023", "CLASS", [batch])
    sealed(directory, **vars(file))


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("entries", "[]", "the content of inst_9:CLASS:.* is not what its hash says"),
        ("content_hash", b"x" * 16, "is not what its hash says"),
        ("period_start", date(2023, 1, 1), "is not what its hash says"),
        ("metadata", "{}", "is no snapshot"),
        ("time_granularity", "hourly", "is no snapshot"),
        ("snapshot_date", date(2020, 1, 1), "2020-01-01 does not lie in 2022-2023"),
        ("reference_id", "r2", "are in it more than once"),
    ],
)
def test_a_row_that_is_not_what_it_says_is_refused(
    database: Database, tmp_path: Path, column: str, value: Any, words: str
) -> None:
    directory = tmp_path / "whole"
    export(database, july_and_august(database), directory)
    empty(database)
    forged(directory, column, value)
    verify_export(directory)  # Whoever writes the manifest can seal anything.
    with pytest.raises(ImportRefused, match=words):
        import_export(database, directory, SOMEBODY, TODAY)
    assert archived(database) == []
