"""The physical limit: what any way must do at least, measured by doing nothing else.

Out: the columns that boards are made of, of the events of the days, by COPY in the binary format,
one statement an institution with the project's own predicate; the bytes are thrown away. In: the
finished rows, as a run of the project left them, kept as binary COPY in files (in the page cache),
into the same partitioned table with its indexes and constraints while it holds no row; one
transaction per (institution, type, day), committed. One connection, one after the other: a way
that overlaps both on several cores can come below their sum.
"""

from __future__ import annotations

from pathlib import Path

from psycopg.pq import ExecStatus
from psycopg.sql import SQL, Literal

from benchmarks.district import all_institutions
from benchmarks.harness import Stopwatch
from lb_pipelines.core.day_starts import find_day_starts
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Connection, Database

COLUMNS = (
    "institution_id, type, reference_id, time_granularity, snapshot_date, period_start, entries,"
    " metadata, distribution, content_hash"
)
_EVENTS = SQL(
    "COPY (SELECT ({offsets}::integer[])[width_bucket(occurred_at, {instants}::timestamptz[])],"
    " student_key, class_key, subject_key, campus_key, amount, status, updated_at"
    " FROM lb.student_points"
    " WHERE institution_key = {key} AND occurred_at >= {low} AND occurred_at < {high})"
    " TO STDOUT (FORMAT BINARY)"
)
_ROWS = SQL(
    "COPY (SELECT " + COLUMNS + " FROM lb.leaderboard_snapshots"
    " WHERE institution_id = {institution} AND type = {type} AND snapshot_date = {day})"
    " TO STDOUT (FORMAT BINARY)"
)
_IN = "COPY lb.leaderboard_snapshots (" + COLUMNS + ") FROM STDIN (FORMAT BINARY)"
_PIECE = 1 << 20


def keep_rows(database: Database, days: DayRange, scratch: Path) -> int:
    """Write the rows that stand into files, one a transaction of `run`; gives their bytes."""
    folder = _folder(scratch, days)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    size = 0
    with database.transaction() as connection, connection.cursor() as cursor:
        for institution in all_institutions(database):
            for type in BoardType:
                for day in days:
                    path = folder / f"{institution.id}_{type}_{day}.copy"
                    statement = _ROWS.format(
                        institution=Literal(institution.id), type=Literal(str(type)),
                        day=Literal(day),
                    )  # fmt: skip
                    with path.open("wb") as file, cursor.copy(statement) as copy:
                        for data in copy:
                            size += file.write(data)
    return size


def run(database: Database, days: DayRange, scratch: Path) -> dict[str, float]:
    """Events out, rows in."""
    files = kept(scratch, days)
    watch = Stopwatch()
    events_out(database, days)
    watch.mark("events out")
    for path in files:
        rows_in(database, path)
    watch.mark("rows in")
    return watch.parts


def kept(scratch: Path, days: DayRange) -> list[Path]:
    """The files of `keep_rows`."""
    folder = _folder(scratch, days)
    if not folder.is_dir():
        raise SystemExit("No rows are kept yet: limit.keep_rows comes first")
    return sorted(folder.iterdir())


def events_out(database: Database, days: DayRange) -> None:
    """The events of the days to nowhere."""
    institutions = all_institutions(database)
    with database.transaction() as connection:
        for institution in institutions:
            parameters = find_day_starts(institution.zone, days).parameters
            statement = _EVENTS.format(
                key=Literal(institution.key),
                **{name: Literal(value) for name, value in parameters.items()},
            )
            _discard(connection, statement.as_bytes(connection))


def rows_in(database: Database, path: Path) -> None:
    """One file into the table, committed."""
    with database.transaction() as connection, connection.cursor() as cursor:
        with cursor.copy(_IN) as copy, path.open("rb") as file:
            while data := file.read(_PIECE):
                copy.write(data)


def _discard(connection: Connection, statement: bytes) -> None:
    """Run a COPY TO STDOUT and drop what comes, by libpq itself: psycopg's own loop over its
    messages, one a row, would be most of the time.
    """
    libpq = connection.pgconn
    began = libpq.exec_(statement)
    if began.status != ExecStatus.COPY_OUT:
        raise SystemExit(began.error_message.decode())
    while libpq.get_copy_data(0)[0] > 0:
        pass
    while libpq.get_result():
        pass


def _folder(scratch: Path, days: DayRange) -> Path:
    return scratch / f"rows-{days.first}-{days.last}"
