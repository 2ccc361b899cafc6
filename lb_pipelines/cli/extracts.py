"""`lb export`: boards as one Parquet or CSV file for whoever works with tables.

A file appears whole or not at all. It is nobody's ledger: an erasure does not reach it, so names
stay out of it. What must outlive this database is for `lb archive export`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import typer

from lb_pipelines.cli.access import Desk, desk_opened
from lb_pipelines.cli.options import (
    Day,
    EveryDay,
    Granularities,
    InstitutionId,
    References,
    SeriesFirst,
    SeriesLast,
    Types,
    granularities_of,
)
from lb_pipelines.cli.telling import AsJson, errors, errors_told, examples, plain, say, size
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.repositories import directory, institutions
from lb_pipelines.errors import (
    ExportRefused,
    InvalidSelection,
    NotMaterialized,
    UnknownBoard,
)
from lb_pipelines.service.results import Board, BoardKey
from lb_pipelines.sources.progress import Progress, shown

EXAMPLES = examples(
    "lb export yesterday.parquet --institution inst_101",
    "lb export class_7.csv --institution inst_101 --type CLASS --reference class_7 "
    "--granularity weekly --from 2026-01-01 --to 2026-03-31",
    "lb export march.parquet --institution inst_101 --granularity daily --from 2026-03-01 "
    "--to 2026-03-31 --every-day --force",
)

SCHEMA = pa.schema(
    [
        pa.field("institution_id", pa.string(), nullable=False),
        pa.field("type", pa.string(), nullable=False),
        pa.field("reference_id", pa.string(), nullable=False),
        pa.field("granularity", pa.string(), nullable=False),
        pa.field("day", pa.date32(), nullable=False),
        pa.field("period_start", pa.date32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("student_id", pa.string(), nullable=False),
        pa.field("points", pa.int64(), nullable=False),
        pa.field("previous_rank", pa.int32()),
        pa.field("ranked", pa.int32(), nullable=False),
        pa.field("mean", pa.float64(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
    ]
)
"""A row per board and entry; `ranked`, `mean` and `status` are the board's."""
_GROUP_ROWS = 20_000
_PAGE = 400


@dataclass(frozen=True)
class Extract:
    """A file that was written."""

    file: Path
    format: str
    boards: int
    rows: int
    bytes: int


def export(
    file: Annotated[Path, typer.Argument(help="A new file, .parquet or .csv.")],
    institution_id: InstitutionId,
    types: Types = None,
    references: References = None,
    granularities: Granularities = None,
    day: Day = None,
    first: SeriesFirst = None,
    last: SeriesLast = None,
    every_day: EveryDay = False,
    force: Annotated[
        bool, typer.Option("--force", help="Put it in the place of a file that is there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the boards of a day, or with --from or --to their history, as a row per entry.

    Live boards and archived ones. Erasing a student does not reach these files: keep them no longer
    than they are needed.
    """
    over_time = first is not None or last is not None
    if over_time and day is not None:
        raise typer.BadParameter("give one day or a range", param_hint="--day / --from / --to")
    with (
        errors_told(as_json),
        desk_opened() as desk,
        shown(errors(as_json)) as progress,
        _placed(file.absolute(), force) as (part, format),
    ):
        kinds = tuple(types or BoardType)
        if over_time:
            days = desk.series(institution_id, kinds, first, last)
        else:
            wanted = day.date() if day else desk.last_day(institution_id, kinds)
            days = DayRange(wanted, wanted)
        keys = [
            BoardKey(institution_id, type, reference_id, granularity)
            for type, reference_id in _boards(desk, institution_id, kinds, references)
            for granularity in granularities_of(granularities)
        ]
        boards = _read(desk, keys, days, every_day=every_day)
        count, rows = _write(part, format, boards, progress)
        if not count:
            raise NotMaterialized(
                f"No board of this at {institution_id}, {days.first} to {days.last}",
                "Materialize these days, or ask for others; no file was written",
            )
    path = file.absolute()
    done = Extract(path, format, count, rows, path.stat().st_size)
    say(
        plain(done),
        as_json,
        f"{done.rows:,} entries of {done.boards:,} boards in {done.file} ({size(done.bytes)})",
    )


def _boards(
    desk: Desk, institution_id: str, types: Sequence[BoardType], references: list[str] | None
) -> list[tuple[BoardType, str]]:
    """What there is of these types, or those of it that are named; raises `UnknownBoard`."""
    with desk.database.transaction(snapshot=True) as connection:
        institution = institutions.find_active(connection, institution_id)
        terms = institutions.terms(connection, institution)
        found = [
            (type, id)
            for type in types
            for id in directory.boards(connection, institution, type, terms)[0].ids.to_pylist()
        ]
    known = {id for _, id in found}
    for reference_id in references or ():
        if reference_id not in known:
            raise UnknownBoard(institution_id, " or ".join(types), reference_id)
    return [(type, id) for type, id in found if not references or id in references]


def _read(
    desk: Desk, keys: Sequence[BoardKey], days: DayRange, *, every_day: bool
) -> Iterator[Board]:
    """The boards of these keys and days, page by page, so that no year lies in memory at once."""
    for key in keys:
        before = None
        while True:
            page = desk.service.get_historical_leaderboard(
                key.institution_id,
                key.type,
                key.reference_id,
                key.granularity,
                days.first,
                days.last,
                every_day=every_day,
                before=before,
                limit=_PAGE,
            )
            yield from page.boards
            before = page.next_before
            if before is None:
                break


@contextmanager
def _placed(file: Path, force: bool) -> Iterator[tuple[BinaryIO, str]]:
    """A file beside, which takes the name in one step when all has gone well."""
    format = file.suffix.lower().removeprefix(".")
    if format not in ("parquet", "csv"):
        raise InvalidSelection(
            f"{str(file)!r} ends in neither .parquet nor .csv", "Name the file by its format"
        )
    _refuse_existing(file, force)
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as out:
            yield out, format
            out.flush()
            os.fsync(out.fileno())
        _refuse_existing(file, force)
        part.replace(file)
    except OSError as error:
        raise ExportRefused(
            f"{str(file)!r} cannot be written: {error.strerror or error}",
            "Name a file in a directory that is there and that you may write to",
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _refuse_existing(file: Path, force: bool) -> None:
    if file.exists() and not (force and file.is_file()):
        raise ExportRefused(
            f"{str(file)!r} is there already", "Name another file, or replace it with --force"
        )


def _write(
    out: BinaryIO, format: str, boards: Iterable[Board], progress: Progress
) -> tuple[int, int]:
    """How many boards and rows were written."""
    count = rows = 0
    made = (
        pq.ParquetWriter(out, SCHEMA, compression="zstd")
        if format == "parquet"
        else pyarrow.csv.CSVWriter(out, SCHEMA)
    )
    with made as writer:
        for some in _groups(boards):
            table = _table(some)
            writer.write_table(table)
            count, rows = count + len(some), rows + table.num_rows
            progress("Rows", rows, None)
    return count, rows


def _groups(boards: Iterable[Board]) -> Iterator[list[Board]]:
    """Boards of some thousand entries together: a row group of Parquet is worth no less."""
    some: list[Board] = []
    entries = 0
    for board in boards:
        some.append(board)
        entries += len(board.entries)
        if entries >= _GROUP_ROWS:
            yield some
            some, entries = [], 0
    if some:
        yield some


def _table(boards: Sequence[Board]) -> pa.Table:
    rows = [
        (
            board.key.institution_id,
            str(board.key.type),
            board.key.reference_id,
            str(board.key.granularity),
            board.day,
            board.period_start,
            entry.rank,
            entry.student_id,
            entry.points,
            entry.previous_rank,
            board.ranked,
            board.mean,
            board.status,
        )
        for board in boards
        for entry in board.entries
    ]
    columns = zip(*rows, strict=True)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )
