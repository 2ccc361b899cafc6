"""Bulk data in and out through COPY and binary arrays, as NumPy and Arrow columns.

Only formats live here: how rows of fixed width are read, how rows of any kind are written, how
arrays of integers travel. Which statement is run is the repositories' business.
"""

from __future__ import annotations

import io
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
from pyarrow import csv

from lb_pipelines.db.engine import Connection

_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_HEADER_LENGTH = len(_HEADER)
_TRAILER = struct.pack(">h", -1)
# PostgreSQL counts days and microseconds from here.
POSTGRES_EPOCH = date(2000, 1, 1)
POSTGRES_EPOCH_MICROSECONDS = 946_684_800_000_000
_WRITE_CHUNK = 1 << 20


def read_fixed(
    connection: Connection, query: str, parameters: Mapping[str, Any], columns: Mapping[str, str]
) -> Mapping[str, np.ndarray[Any, Any]]:
    """The rows of a query as one native array per column.

    `columns` gives each column's width in order: `i4` or `i8` (timestamps come as microseconds
    from 2000). No value may be NULL: every row must have the same width.
    """
    fields: list[tuple[str, str]] = [("fields", ">i2")]
    for name, kind in columns.items():
        fields += [(f"{name} length", ">i4"), (name, f">{kind}")]
    row = np.dtype(fields)
    with connection.cursor() as cursor:
        with cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT BINARY)", parameters) as copy:
            data = b"".join(map(bytes, copy))
    count, rest = divmod(len(data) - _HEADER_LENGTH - len(_TRAILER), row.itemsize)
    if rest:
        raise ValueError(f"rows of unequal width (a NULL?) in: {query}")
    table = np.frombuffer(data, dtype=row, count=count, offset=_HEADER_LENGTH)
    return {name: table[name].astype(kind) for name, kind in columns.items()}


def read_csv(
    connection: Connection, query: str, parameters: Mapping[str, Any], schema: pa.Schema
) -> pa.Table:
    """The rows of a query as an Arrow table of the given schema; NULL where a field is empty."""
    with connection.cursor() as cursor:
        with cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT CSV)", parameters) as copy:
            data = b"".join(map(bytes, copy))
    if not data:
        return schema.empty_table()
    return csv.read_csv(
        io.BytesIO(data),
        read_options=csv.ReadOptions(column_names=schema.names),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=schema, strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    )


def write_rows(
    connection: Connection, statement: str, columns: Sequence[Iterable[bytes | None]]
) -> None:
    """Run `COPY ... FROM STDIN (FORMAT BINARY)` with one iterable of encoded fields per column."""
    head = struct.pack(">h", len(columns))
    length = struct.Struct(">i").pack
    null = length(-1)
    chunk: list[bytes] = [_HEADER]
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
        copy.write(b"".join([*chunk, _TRAILER]))


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

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.values = values


class Int8Array:
    """int64 values to be sent as `bigint[]`."""

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
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

    def load(self, data: Buffer) -> np.ndarray[Any, Any]:
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


def array_cursor(connection: Connection) -> psycopg.Cursor[tuple[Any, ...]]:
    """A cursor that gives integer arrays as NumPy arrays and takes `Int4Array`, `Int8Array`.

    Arrays with NULLs inside are not for it.
    """
    cursor = connection.cursor(binary=True)
    cursor.adapters.register_dumper(Int4Array, _Int4ArrayDumper)
    cursor.adapters.register_dumper(Int8Array, _Int8ArrayDumper)
    cursor.adapters.register_loader(_Int4ArrayDumper.oid, _Int4ArrayLoader)
    cursor.adapters.register_loader(_Int8ArrayDumper.oid, _Int8ArrayLoader)
    return cursor
