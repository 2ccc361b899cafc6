"""Arrow record batches as the binary format of COPY, a column at a time.

Measured with the 1,808,119 click events of OULAD into a heap: the binary format takes 1.7 s, CSV
3.8 s, because the server need not parse timestamps; building it takes 0.4 s here against 1.1 s
with NumPy scatter, because Arrow joins the pieces of a row in C++.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from lb_pipelines.db.bulk import HEADER, POSTGRES_EPOCH, POSTGRES_EPOCH_MICROSECONDS, TRAILER
from lb_pipelines.db.engine import Connection

T = TypeVar("T")

_UNIX_EPOCH_DAYS = (POSTGRES_EPOCH.toordinal()) - 719_163
_NULL_FIELD = pa.scalar(struct.pack(">i", -1), pa.binary())
_NOTHING = pa.scalar(b"", pa.binary())


def write(connection: Connection, table: str, batches: Iterable[pa.RecordBatch]) -> int:
    """COPY batches of one schema into `table` (schema-qualified or temporary); rows written.

    The columns are those of the batches, by name. The next batches are made and encoded in a
    thread while the server takes the current one.
    """
    ahead = _ahead((batch.num_rows, encode(batch), batch.schema.names) for batch in batches)
    rows = 0
    first = next(ahead, None)
    if first is None:
        return 0
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(*table.split(".")), sql.SQL(", ").join(map(sql.Identifier, first[2]))
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(HEADER)
        copy.write(first[1])
        rows += first[0]
        for count, data, _ in ahead:
            copy.write(data)
            rows += count
        copy.write(TRAILER)
    return rows


def encode(batch: pa.RecordBatch) -> memoryview:
    """The rows of a batch, without header and trailer.

    A row is joined from pieces: neighbouring columns without nulls as one fixed-width record,
    every other column as a piece of its own.
    """
    rows = batch.num_rows
    if not rows:
        return memoryview(b"")
    pieces: list[pa.Array] = []
    fixed: list[tuple[str, Any]] = [(">i2", batch.num_columns)]
    for column in batch.columns:
        if pa.types.is_string(column.type):
            lengths = pc.binary_length(column)
            if column.null_count:
                pieces.append(_records(rows, fixed))
                fixed = []
                length = _records(rows, [(">i4", pc.fill_null(lengths, 0).to_numpy())])
                text = pc.binary_join_element_wise(
                    length, pc.fill_null(column.cast(pa.binary()), b""), _NOTHING
                )
                pieces.append(pc.if_else(column.is_valid(), text, _NULL_FIELD))
            else:
                fixed.append((">i4", lengths.to_numpy()))
                pieces += [_records(rows, fixed), column.cast(pa.binary())]
                fixed = []
            continue
        kind, values = _numbers(column)
        field = [(">i4", int(kind[2:])), (kind, values)]
        if column.null_count:
            pieces.append(_records(rows, fixed))
            pieces.append(pc.if_else(column.is_valid(), _records(rows, field), _NULL_FIELD))
            fixed = []
        else:
            fixed += field
    pieces.append(_records(rows, fixed))
    joined = pc.binary_join_element_wise(*pieces, _NOTHING)
    offsets = np.frombuffer(joined.buffers()[1], dtype=np.int32, count=rows + 1)
    return memoryview(joined.buffers()[2])[offsets[0] : offsets[-1]]


def _numbers(column: pa.Array) -> tuple[str, np.ndarray[Any, Any]]:
    """The kind of binary field of a column and its values as PostgreSQL counts them."""
    if pa.types.is_timestamp(column.type):
        if column.type.unit != "us":
            raise TypeError(f"timestamps in {column.type.unit}: COPY wants microseconds")
        return ">i8", _filled(column.view(pa.int64())) - POSTGRES_EPOCH_MICROSECONDS
    if pa.types.is_date32(column.type):
        return ">i4", _filled(column.view(pa.int32())) - _UNIX_EPOCH_DAYS
    if pa.types.is_boolean(column.type):
        return ">i1", _filled(column.cast(pa.int8()))
    return {pa.int16(): ">i2", pa.int32(): ">i4", pa.int64(): ">i8"}[column.type], _filled(column)


def _filled(column: pa.Array) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = pc.fill_null(column, 0).to_numpy()
    return values


def _records(rows: int, fields: list[tuple[str, Any]]) -> pa.Array:
    """Fixed-width records as an Arrow array of binary values, without copying them."""
    record = np.empty(rows, dtype=[(str(at), kind) for at, (kind, _) in enumerate(fields)])
    for at, (_, values) in enumerate(fields):
        record[str(at)] = values
    width = record.dtype.itemsize
    offsets = np.arange(rows + 1, dtype=np.int32) * width
    data = pa.py_buffer(record) if width else pa.py_buffer(b"")
    return pa.Array.from_buffers(pa.binary(), rows, [None, pa.py_buffer(offsets), data])


def _ahead(items: Iterator[T], depth: int = 4) -> Iterator[T]:
    """The same items, made by a thread that runs up to `depth` of them ahead."""
    end: Any = object()
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as thread:
        try:
            while True:
                while len(waiting) < depth:
                    waiting.append(thread.submit(next, items, end))
                item = waiting.popleft().result()
                if item is end:
                    return
                yield item
        finally:
            for future in waiting:
                future.cancel()
