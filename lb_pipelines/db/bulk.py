"""Bulk data as columns: out of PostgreSQL as binary arrays, in through binary COPY.

Only formats live here. Which statement is run is the repositories' business.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from itertools import chain
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
from psycopg.adapt import Buffer, Dumper, Loader
from psycopg.pq import Format

from lb_pipelines.db.engine import Connection

HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
TRAILER = struct.pack(">h", -1)
# PostgreSQL counts days and microseconds from here.
POSTGRES_EPOCH = date(2000, 1, 1)
POSTGRES_EPOCH_MICROSECONDS = 946_684_800_000_000
_WRITE_CHUNK = 1 << 20

Numbers = np.ndarray[Any, Any]


def read_columns(
    connection: Connection, query: str, parameters: Mapping[str, Any], names: Sequence[str]
) -> Mapping[str, Numbers]:
    """The rows of a query as one native array per column, NULLs not allowed.

    Columns are `integer`, `bigint`, `date` (days from 2000-01-01) or `timestamptz` (microseconds
    from 2000). Each comes as one array in one message: PostgreSQL's COPY sends a message a row,
    and taking millions of them apart costs three times as much.
    """
    aggregates = ", ".join(f"array_agg({name})" for name in names)
    row = (
        array_cursor(connection)
        .execute(f"SELECT {aggregates} FROM ({query}) AS rows ({', '.join(names)})", parameters)
        .fetchone()
    )
    assert row is not None
    return {
        name: np.empty(0, dtype=np.int64) if values is None else values
        for name, values in zip(names, row, strict=True)
    }


def read_texts(
    connection: Connection, query: str, parameters: Mapping[str, Any]
) -> tuple[Numbers, pa.Array]:
    """The rows of a query (integer key, text) as an array of keys and a string array."""
    row = (
        array_cursor(connection)
        .execute(
            "SELECT array_agg(key), array_agg(octet_length(id)),"
            " string_agg(convert_to(id, 'UTF8'), ''::bytea)"
            f" FROM ({query}) AS rows (key, id)",
            parameters,
        )
        .fetchone()
    )
    assert row is not None
    keys, lengths, data = row
    if keys is None:
        return np.empty(0, dtype=np.int64), pa.array([], pa.string())
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    texts = pa.StringArray.from_buffers(len(keys), pa.py_buffer(offsets), pa.py_buffer(data))
    return keys.astype(np.int64), texts


def write_rows(
    connection: Connection, statement: str, columns: Sequence[Iterable[bytes | None]]
) -> None:
    """Run `COPY ... FROM STDIN (FORMAT BINARY)` with one iterable of encoded fields per column."""
    head = struct.pack(">h", len(columns))
    length = struct.Struct(">i").pack
    null = length(-1)
    chunk: list[bytes] = [HEADER]
    size = 0
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for fields in zip(*columns, strict=True):
            row = b"".join(
                chain(
                    (head,),
                    (null if field is None else length(len(field)) + field for field in fields),
                )
            )
            chunk.append(row)
            size += len(row)
            if size >= _WRITE_CHUNK:
                copy.write(b"".join(chunk))
                chunk, size = [], 0
        copy.write(b"".join([*chunk, TRAILER]))


def encode_date(day: date) -> bytes:
    """A date as a binary field."""
    return struct.pack(">i", (day - POSTGRES_EPOCH).days)


def encode_dates(days: np.ndarray[Any, np.dtype[np.datetime64]]) -> list[bytes]:
    """datetime64[D] values as binary fields."""
    numbers = (days - np.datetime64(POSTGRES_EPOCH, "D")).astype(">i4")
    raw = numbers.tobytes()
    return [raw[at : at + 4] for at in range(0, len(raw), 4)]


def encode_numbers(values: np.ndarray[Any, Any], kind: str) -> list[bytes]:
    """Numbers as binary fields of one kind: `i4`, `i8` or `f8`."""
    raw = values.astype(f">{kind}").tobytes()
    width = int(kind[1:])
    return [raw[at : at + width] for at in range(0, len(raw), width)]


def encode_jsonb(texts: Iterable[bytes]) -> Iterable[bytes]:
    """JSON texts as binary fields of type jsonb (format version 1)."""
    return (b"\x01" + text for text in texts)


class Int4Array:
    """int32 values to be sent as `integer[]`."""

    def __init__(self, values: Numbers) -> None:
        self.values = values


class Int8Array:
    """int64 values to be sent as `bigint[]`."""

    def __init__(self, values: Numbers) -> None:
        self.values = values


class _ArrayDumper(Dumper):
    format = Format.BINARY
    element_oid: int
    kind: str

    def dump(self, obj: Int4Array | Int8Array) -> Buffer:
        count = len(obj.values)
        if not count:
            return struct.pack(">iii", 0, 0, self.element_oid)
        elements = np.empty(count, dtype=[("length", ">i4"), ("value", f">{self.kind}")])
        elements["length"] = int(self.kind[1:])
        elements["value"] = obj.values
        return struct.pack(">iiiii", 1, 0, self.element_oid, count, 1) + elements.tobytes()


class _Int4ArrayDumper(_ArrayDumper):
    oid, element_oid, kind = 1007, 23, "i4"


class _Int8ArrayDumper(_ArrayDumper):
    oid, element_oid, kind = 1016, 20, "i8"


class _ArrayLoader(Loader):
    format = Format.BINARY
    kind: str

    def load(self, data: Buffer) -> Numbers:
        dimensions = struct.unpack_from(">i", data)[0]
        if dimensions == 0:
            return np.empty(0, dtype=self.kind)
        elements = np.frombuffer(
            data, dtype=[("length", ">i4"), ("value", f">{self.kind}")], offset=20
        )
        return elements["value"].astype(self.kind)


class _Int4ArrayLoader(_ArrayLoader):
    kind = "i4"


class _Int8ArrayLoader(_ArrayLoader):
    kind = "i8"


# integer[] and date[]; bigint[] and timestamptz[].
_LOADERS = {
    1007: _Int4ArrayLoader,
    1182: _Int4ArrayLoader,
    1016: _Int8ArrayLoader,
    1185: _Int8ArrayLoader,
}


def array_cursor(connection: Connection) -> psycopg.Cursor[tuple[Any, ...]]:
    """A cursor that gives arrays of fixed width as NumPy arrays, takes `Int4Array`, `Int8Array`.

    Arrays with NULLs inside are not for it.
    """
    cursor = connection.cursor(binary=True)
    cursor.adapters.register_dumper(Int4Array, _Int4ArrayDumper)
    cursor.adapters.register_dumper(Int8Array, _Int8ArrayDumper)
    for oid, loader in _LOADERS.items():
        cursor.adapters.register_loader(oid, loader)
    return cursor


class ArrayConnection:
    """A connection to aiosql's eyes, whose cursors are those of `array_cursor`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def cursor(self, *_: Any, **__: Any) -> psycopg.Cursor[tuple[Any, ...]]:
        """A cursor for one statement."""
        return array_cursor(self._connection)
