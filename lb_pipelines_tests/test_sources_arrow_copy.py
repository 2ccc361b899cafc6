"""Arrow batches to COPY's binary format, against PostgreSQL's documented layout, row by row."""

from __future__ import annotations

import struct
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb_pipelines.db.engine import Database
from lb_pipelines.sources import arrow_copy

SCHEMA = pa.schema(
    [
        ("at", pa.timestamp("us", "UTC")),
        ("key", pa.int32()),
        ("month", pa.int16()),
        ("text", pa.string()),
        ("large", pa.int64()),
        ("flag", pa.bool_()),
        ("day", pa.date32()),
        ("id", pa.string()),
    ]
)
TABLE = (
    "CREATE TEMP TABLE t (at timestamptz, key integer, month smallint, text text,"
    " large bigint, flag boolean, day date, id text)"
)
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_TEXT = st.text(st.characters(exclude_characters="\x00", codec="utf-8"), max_size=6)


def _row(optional: bool) -> st.SearchStrategy[tuple[Any, ...]]:
    def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.none() | values if optional else values

    microseconds = st.integers(-(10**16), 10**16)
    instants = microseconds.map(lambda count: EPOCH + count * EPOCH.resolution)
    return st.tuples(
        maybe(instants),
        maybe(st.integers(-(2**31), 2**31 - 1)),
        maybe(st.integers(-(2**15), 2**15 - 1)),
        maybe(_TEXT),
        maybe(st.integers(-(2**63), 2**63 - 1)),
        maybe(st.booleans()),
        maybe(st.dates(date(1900, 1, 1), date(2200, 1, 1))),
        maybe(_TEXT),
    )


def _field(kind: pa.DataType, value: Any) -> bytes:
    if value is None:
        return struct.pack(">i", -1)
    if kind == pa.string():
        data = value.encode()
    elif pa.types.is_timestamp(kind):
        data = struct.pack(">q", (value - EPOCH) // EPOCH.resolution)
    elif kind == pa.date32():
        data = struct.pack(">i", (value - EPOCH.date()).days)
    else:
        code = {pa.int16(): ">h", pa.int32(): ">i", pa.int64(): ">q", pa.bool_(): ">?"}[kind]
        data = struct.pack(code, value)
    return struct.pack(">i", len(data)) + data


def _reference(rows: list[tuple[Any, ...]]) -> bytes:
    return b"".join(
        struct.pack(">h", len(SCHEMA)) + b"".join(map(_field, SCHEMA.types, row)) for row in rows
    )


def _batch(rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else ((),) * len(SCHEMA)
    arrays = [pa.array(list(c), kind) for c, kind in zip(columns, SCHEMA.types, strict=True)]
    return pa.record_batch(arrays, schema=SCHEMA)


@given(st.booleans().flatmap(lambda optional: st.lists(_row(optional), max_size=8)), st.data())
def test_a_batch_is_encoded_as_postgresql_documents_it(
    rows: list[Any], data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, len(rows)))
    assert bytes(arrow_copy.encode(_batch(rows)[first:])) == _reference(rows[first:])


def test_postgresql_reads_back_what_was_written(database: Database) -> None:
    rows = [
        (EPOCH.replace(year=1999), 1, 2, 'é,"\n', -(2**62), True, date(1999, 12, 31), "a"),
        (None, None, None, None, None, None, None, None),
        (EPOCH, -1, -2, "", 7, False, date(2024, 2, 29), "NULL"),
    ]
    with database.transaction() as connection:
        connection.execute(TABLE)
        assert arrow_copy.write(connection, "t", iter([_batch(rows[:2]), _batch(rows[2:])])) == 3
        assert connection.execute("SELECT * FROM t").fetchall() == rows


def test_an_error_while_batches_are_made_reaches_the_caller(database: Database) -> None:
    def batches():  # type: ignore[no-untyped-def]
        yield _batch([(EPOCH, 1, 1, "", 1, True, date(2024, 1, 1), "a")])
        raise ValueError("no more")

    with database.transaction() as connection:
        connection.execute(TABLE)
        with pytest.raises(ValueError, match="no more"):
            arrow_copy.write(connection, "t", batches())
        connection.rollback()
