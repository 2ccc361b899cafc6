"""Files of a directory, as CSV or Parquet alike.

What the columns mean is the sources' business; here a file is found, read, and refused as a whole
where it cannot be read at all. How a CSV is written is checked in `rfc4180`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from lb_pipelines.errors import ImportRefused
from lb_pipelines.sources.rfc4180 import CheckedCsv, read_records

SUFFIXES = (".csv", ".parquet")
BLOCK_BYTES = 1 << 20
"""Bytes that Arrow parses at a time; a row that is longer is left to `rfc4180.read_records`."""
NOT_UTF8 = "not UTF-8: save the file in that encoding"
PART_BYTES = 1 << 23
"""Bytes of rows that are parsed at a time where `rfc4180.read_records` is needed."""


def find(directory: Path, name: str) -> Path | None:
    """`name`.csv or `name`.parquet in the directory; None where neither is, refused where both."""
    found = [path for suffix in SUFFIXES if (path := directory / f"{name}{suffix}").is_file()]
    if len(found) > 1:
        raise ImportRefused(
            f"{directory} holds both {found[0].name} and {found[1].name}",
            "Leave one of the two in the directory",
        )
    return found[0] if found else None


def require_directory(directory: Path) -> None:
    """Refuse what is no directory."""
    if not directory.is_dir():
        raise ImportRefused(
            f"{directory} is no directory", "Give the directory that holds the files"
        )


def require(directory: Path, names: Iterable[str]) -> dict[str, Path]:
    """The files of these names; refused, naming all that are missing."""
    require_directory(directory)
    found = {name: find(directory, name) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        files = ", ".join(f"{name}.csv" for name in missing)
        raise ImportRefused(
            f"{directory} lacks {files} (or the same as .parquet)",
            "Put the missing files beside the others, or give another directory",
        )
    return {name: path for name, path in found.items() if path is not None}


def read_columns(path: Path, types: Mapping[str, pa.DataType], nulls: list[str]) -> pa.Table:
    """These columns of a file, in these types; refused where one is missing or does not fit.

    In a CSV a field that is one of `nulls` is missing.
    """
    try:
        if path.suffix == ".parquet":
            known = parquet.read_schema(path).names
            _require_columns(path, types, known)
            dictionaries = [n for n, kind in types.items() if pa.types.is_dictionary(kind)]
            table = parquet.read_table(path, columns=list(types), read_dictionary=dictionaries)
            return table.unify_dictionaries().cast(pa.schema(list(types.items())))
        _require_columns(path, types, _csv_header(path))
        with CheckedCsv(path) as stream:
            table = csv.read_csv(
                stream,
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=csv.ConvertOptions(
                    column_types=dict(types),
                    include_columns=list(types),
                    null_values=nulls,
                    strings_can_be_null=True,
                ),
            )
            stream.finish()
        return table.unify_dictionaries()
    except (pa.ArrowException, OSError) as error:
        raise ImportRefused(
            f"{path} cannot be read: {error}", "Put the published file in its place"
        ) from error


def _require_columns(path: Path, wanted: Iterable[str], known: list[str]) -> None:
    missing = [name for name in wanted if name not in known]
    if missing:
        raise ImportRefused(
            f"{path} has no column {', '.join(missing)} (it has {', '.join(known)})",
            "Name the columns in the first line, separated by commas",
        )


@dataclass(frozen=True)
class UnreadableRow:
    """A row that is no row of text: its line, the column (empty: all of it), value and reason."""

    line: int
    column: str
    value: str
    reason: str


@dataclass
class TextFile:
    """A file whose every value is text, with the line (in Parquet the row) of each of its rows.

    `unreadable` are rows that are not in the table; a row has one for each value that is no text.
    """

    path: Path
    table: pa.Table
    lines: pa.Array
    unreadable: list[UnreadableRow] = field(default_factory=list)


def read_text(path: Path, required: Iterable[str], optional: Iterable[str]) -> TextFile:
    """A file's required and optional columns as text; an optional one that is absent is null.

    An empty field is null. Refused as a whole: a column that is missing or not known, a file
    that is no CSV as `rfc4180` has it, or no Parquet.
    """
    wanted = [*required, *optional]
    try:
        read = _parquet_as_text if path.suffix == ".parquet" else _csv_as_text
        file = read(path, lambda names: _check_header(path, names, list(required), wanted))
    except (pa.ArrowException, OSError) as error:
        raise ImportRefused(
            f"{path} cannot be read: {error}",
            "Save it as CSV in UTF-8 with commas and a header, or as Parquet",
        ) from error
    rows = file.table.num_rows
    file.table = pa.table(
        {
            name: file.table[name].combine_chunks()
            if name in file.table.column_names
            else pa.nulls(rows, pa.string())
            for name in wanted
        }
    )
    return file


def _check_header(path: Path, names: list[str], required: list[str], wanted: list[str]) -> None:
    _require_columns(path, required, names)
    for name in names:
        if name not in wanted or names.count(name) > 1:
            raise ImportRefused(
                f"{path} has a column {name!r} that is not known, or has it twice",
                f"Take it out, or correct its name; known are {', '.join(wanted)}",
            )


def _csv_header(path: Path) -> list[str]:
    header = next(read_records(path), None)
    # A name that is not UTF-8 is not known, and shown as what it is.
    return [name.decode("utf-8", "backslashreplace") for name in header.fields] if header else []


def _csv_as_text(path: Path, check_header: Callable[[list[str]], None]) -> TextFile:
    names = _csv_header(path)
    check_header(names)
    # One bad row in millions is rare, and Arrow cannot say of every one what is wrong with it.
    return _read_good_csv(path, names) or _read_any_csv(path, names)


def _read_good_csv(path: Path, names: list[str]) -> TextFile | None:
    """The file by Arrow; None where some row has other fields than the header, or is not UTF-8."""
    with CheckedCsv(path) as stream:
        try:
            table = csv.read_csv(
                stream,
                read_options=csv.ReadOptions(block_size=BLOCK_BYTES),
                parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
                convert_options=csv.ConvertOptions(
                    # As bytes, so that those which are no UTF-8 are noticed below and not there.
                    column_types={name: pa.binary() for name in names},
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
            stream.finish()
            table = table.cast(pa.schema([(name, pa.string()) for name in names]))
        except pa.ArrowInvalid:
            return None
    empty = np.ones(table.num_rows, dtype=bool)
    line_ends = np.zeros(table.num_rows, dtype=np.int64)
    for column in table.columns:
        empty &= column.is_null().to_numpy()
        line_ends += pc.fill_null(pc.count_substring(column, "\n"), 0).to_numpy()
    if empty.sum() != stream.blank_lines:
        # A row of empty fields is a row, though Arrow gives the same for an empty line.
        return None
    lines = np.arange(2, table.num_rows + 2) + np.cumsum(line_ends) - line_ends
    kept = table.filter(pa.array(~empty)) if stream.blank_lines else table
    return TextFile(path, kept, pa.array(lines[~empty]))


def _read_any_csv(path: Path, names: list[str]) -> TextFile:
    """The same, a record at a time: those that are no rows are set aside, Arrow reads the others.

    Some five times as slow.
    """
    tables = [pa.schema([(name, pa.string()) for name in names]).empty_table()]
    lines: list[int] = []
    unreadable: list[UnreadableRow] = []
    rows: list[bytes] = []
    size = 0
    for record in islice(read_records(path), 1, None):
        fields = record.count_fields()
        if fields != len(names):
            value = record.raw.decode("utf-8", "backslashreplace")
            reason = f"another number of fields ({fields}) than the header's {len(names)}"
            unreadable.append(UnreadableRow(record.line, "", value, reason))
            continue
        try:
            _ = record.raw.isascii() or record.raw.decode()
        except UnicodeDecodeError:
            unreadable += _undecodable(record.line, names, record.fields)
            continue
        lines.append(record.line)
        rows.append(record.raw)
        size += len(record.raw)
        if size >= PART_BYTES:
            tables.append(_parse_rows(rows, names))
            rows, size = [], 0
    if rows:
        tables.append(_parse_rows(rows, names))
    return TextFile(path, pa.concat_tables(tables), pa.array(lines, pa.int64()), unreadable)


def _parse_rows(rows: list[bytes], names: list[str]) -> pa.Table:
    # With a header, for Arrow takes a byte order mark off whatever it reads first.
    data = b"\n".join([",".join(names).encode(), *rows])
    return csv.read_csv(
        pa.BufferReader(data),
        # One block: no row is cut.
        read_options=csv.ReadOptions(block_size=len(data) + 1, use_threads=False),
        parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=csv.ConvertOptions(
            column_types={name: pa.string() for name in names},
            null_values=[""],
            strings_can_be_null=True,
        ),
    )


def _undecodable(
    line: int, names: Iterable[str], values: Iterable[bytes | None]
) -> list[UnreadableRow]:
    """What a person is told of a row in which some values are no UTF-8."""
    rows = []
    for name, value in zip(names, values, strict=True):
        try:
            _ = value and value.decode()
        except UnicodeDecodeError:
            shown = (value or b"").decode("utf-8", "backslashreplace")
            rows.append(UnreadableRow(line, name, shown, NOT_UTF8))
    return rows


def _parquet_as_text(path: Path, check_header: Callable[[list[str]], None]) -> TextFile:
    check_header(parquet.read_schema(path).names)
    table = parquet.read_table(path)
    # Nothing but a cast from bytes looks at whether a text of Parquet is UTF-8.
    as_bytes = pa.table(
        {name: _as_text(table[name]).cast(pa.binary()) for name in table.column_names}
    )
    unreadable: list[UnreadableRow] = []
    schema = pa.schema([(name, pa.string()) for name in table.column_names])
    numbers = np.arange(1, table.num_rows + 1)
    try:
        table = as_bytes.cast(schema)
    except pa.ArrowInvalid:
        rows = zip(*(as_bytes[name].to_pylist() for name in schema.names), strict=True)
        for number, values in enumerate(rows, 1):
            unreadable += _undecodable(number, schema.names, values)
        numbers = np.setdiff1d(numbers, [row.line for row in unreadable])
        table = as_bytes.take(pa.array(numbers - 1)).cast(schema)
    empty_as_null = {
        name: pc.if_else(pc.equal(table[name], ""), pa.scalar(None, pa.string()), table[name])
        for name in table.column_names
    }
    return TextFile(path, pa.table(empty_as_null), pa.array(numbers), unreadable)


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_timestamp(column.type):
        # Nobody awards points by the nanosecond; the zone is kept as an offset, or its lack.
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type):
        return column.cast(pa.binary())
    return column if pa.types.is_binary(column.type) else column.cast(pa.string())
