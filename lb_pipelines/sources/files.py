"""Files of a directory, as CSV or Parquet alike.

What the columns mean is the sources' business; here a file is found, read, and refused as a whole
where it cannot be read at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from csv import reader
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from lb_pipelines.errors import ImportRefused

SUFFIXES = (".csv", ".parquet")


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
        with csv.open_csv(path) as reader:
            _require_columns(path, types, reader.schema.names)
        return csv.read_csv(
            path,
            convert_options=csv.ConvertOptions(
                column_types=dict(types),
                include_columns=list(types),
                null_values=nulls,
                strings_can_be_null=True,
            ),
        ).unify_dictionaries()
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


@dataclass
class TextFile:
    """A file whose every value is text, with the line (in Parquet the row) of each of its rows.

    `misshapen` are lines with another number of fields than the header: (line, text).
    """

    path: Path
    table: pa.Table
    lines: pa.Array
    misshapen: list[tuple[int, str]] = field(default_factory=list)


def read_text(path: Path, required: Iterable[str], optional: Iterable[str]) -> TextFile:
    """A file's required and optional columns as text; an optional one that is absent is null.

    An empty field is null. Refused as a whole: a column that is missing or not known, a file
    that is no CSV in UTF-8 or no Parquet.
    """
    wanted = [*required, *optional]
    try:
        read = _parquet_as_text if path.suffix == ".parquet" else _csv_as_text
        file = read(path, lambda names: _check_header(path, names, list(required), wanted))
    except (pa.ArrowException, OSError, UnicodeError) as error:
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


def _csv_as_text(path: Path, check_header: Callable[[list[str]], None]) -> TextFile:
    with path.open(encoding="utf-8-sig", newline="") as text:
        names = next(reader(text), [])
    check_header(names)
    _require_closed_quotes(path)
    misshapen: list[tuple[int, str]] = []

    def set_aside(row: csv.InvalidRow) -> str:
        misshapen.append((row.number, row.text))
        return "skip"

    def read(numbered: bool) -> pa.Table:
        return csv.read_csv(
            path,
            # Arrow knows the number of a row only where one thread reads.
            read_options=csv.ReadOptions(use_threads=not numbered),
            parse_options=csv.ParseOptions(
                newlines_in_values=True,
                ignore_empty_lines=False,
                invalid_row_handler=set_aside if numbered else None,
            ),
            convert_options=csv.ConvertOptions(
                column_types={name: pa.string() for name in names},
                null_values=[""],
                strings_can_be_null=True,
            ),
        )

    try:
        table = read(numbered=False)
    except pa.ArrowInvalid:
        table = read(numbered=True)
    return _numbered(path, table, misshapen)


def _require_closed_quotes(path: Path) -> None:
    """Refuse a quote that is never closed: Arrow would take the rest of the file as one value."""
    with path.open("rb") as file:
        quotes = sum(chunk.count(b'"') for chunk in iter(lambda: file.read(1 << 22), b""))
    if quotes % 2:
        raise ImportRefused(
            f"{path} cannot be read: a quoted value is not closed ({quotes:,} quotes)",
            'Close it, and write a quote inside a value twice ("")',
        )


def _numbered(path: Path, table: pa.Table, misshapen: list[tuple[int, str]]) -> TextFile:
    """Give every row its line (a quoted value may hold line ends), and drop blank lines."""
    rows = table.num_rows + len(misshapen)
    numbers = np.arange(2, rows + 2)
    skipped = np.array([number for number, _ in misshapen], dtype=np.int64)
    kept = np.ones(rows, dtype=bool)
    kept[skipped - 2] = False
    ends = np.zeros(rows, dtype=np.int64)
    blank = np.ones(table.num_rows, dtype=bool)
    for column in table.columns:
        counts = pc.fill_null(pc.count_substring(column, "\n"), 0)
        ends[kept] += counts.to_numpy()
        blank &= column.is_null().to_numpy()
    ends[~kept] = [text.count("\n") for _, text in misshapen]
    lines = numbers + np.cumsum(ends) - ends
    return TextFile(
        path,
        table.filter(pa.array(~blank)) if blank.any() else table,
        pa.array(lines[kept][~blank]),
        list(zip(lines[~kept].tolist(), (text for _, text in misshapen), strict=True)),
    )


def _parquet_as_text(path: Path, check_header: Callable[[list[str]], None]) -> TextFile:
    check_header(parquet.read_schema(path).names)
    table = parquet.read_table(path)
    columns = {name: _as_text(table[name]) for name in table.column_names}
    return TextFile(path, pa.table(columns), pa.array(np.arange(1, table.num_rows + 1)))


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_timestamp(column.type):
        # Nobody awards points by the nanosecond; the zone is kept as an offset, or its lack.
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    text = column.cast(pa.string())
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
