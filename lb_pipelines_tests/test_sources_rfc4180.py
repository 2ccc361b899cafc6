"""A CSV is read as RFC 4180 writes it or is refused, and never as something else."""

from __future__ import annotations

import codecs
import csv
import io
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lb_pipelines.errors import ImportRefused
from lb_pipelines.sources import files, rfc4180
from lb_pipelines.sources.rfc4180 import CheckedCsv, read_records

NAMES = ["a", "b", "c"]
HEADER = b"a,b,c\n"


def read_strictly(data: bytes) -> list[list[str]] | None:
    """The records as the grammar of RFC 4180 says, byte by byte; None where it says nothing.

    Line ends may be LF alone, and the last may be missing; an empty line is no record.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    records: list[list[str]] = []
    fields: list[str] = []
    at = 0
    while at < len(data):
        value = bytearray()
        quoted = data[at : at + 1] == b'"'
        if quoted:
            at += 1
            while data[at : at + 2] == b'""' or data[at : at + 1] not in (b'"', b""):
                value += data[at : at + 1]
                at += 2 if data[at : at + 1] == b'"' else 1
            if at == len(data):
                return None
            at += 1
        else:
            while data[at : at + 1] not in (b",", b"\n", b"\r", b""):
                if data[at : at + 1] == b'"':
                    return None
                value += data[at : at + 1]
                at += 1
        fields.append(value.decode("utf-8", "backslashreplace"))
        ended = next((end for end in (b",", b"\r\n", b"\n") if data.startswith(end, at)), b"")
        if not ended and at < len(data):
            return None
        at += len(ended)
        if ended != b"," or at == len(data):
            if ended == b",":
                fields.append("")
            if fields != [""] or quoted:
                records.append(fields)
            fields = []
    return records


def read_as_files_does(path: Path) -> tuple[list[list[str]], list[int]] | None:
    """All rows of a file with the columns NAMES, those set aside as one value; None: refused."""
    try:
        file = files.read_text(path, NAMES, [])
    except ImportRefused:
        return None
    found = {
        line: [value or "" for value in row.values()]
        for line, row in zip(file.lines.to_pylist(), file.table.to_pylist(), strict=True)
    }
    found |= {row.line: [f"{row.column}: {row.value}"] for row in file.unreadable}
    return [found[line] for line in sorted(found)], sorted(found)


FRAGMENTS = [
    "x", "two words", "", "Ünïcode 🎓", ",", '"', '""', "\n", "\r\n", "\r", "\0", "\ufeff", " ",
]  # fmt: skip
values = st.lists(st.sampled_from(FRAGMENTS), max_size=3).map("".join)
rows = st.lists(st.tuples(values, values, values), max_size=8)


@st.composite
def valid_files(draw: st.DrawFn) -> bytes:
    # Python's own writer leaves a CR unquoted where lines end with LF.
    always = draw(st.booleans())
    end = draw(st.sampled_from(["\n", "\r\n"]))

    def write(value: str) -> str:
        quoted = '"' + value.replace('"', '""') + '"'
        return quoted if always or set(value) & set('",\r\n') else value

    text = "".join(",".join(map(write, row)) + end for row in [NAMES, *draw(rows)])
    if draw(st.booleans()):
        text = text.removesuffix(end)
    return draw(st.sampled_from([b"", codecs.BOM_UTF8])) + text.encode()


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    data = draw(valid_files())
    stray = [b'"', b'""', b",", b"\n", b"\r", b"\r\n", b"\n\n", b"\0", codecs.BOM_UTF8, b"\xff"]
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data = draw(
            st.sampled_from([data[:at], data[at:], data[:at] + data[at + 1 :]])
            | st.sampled_from(stray).map(lambda piece, d=data, a=at: d[:a] + piece + d[a:])
        )
    return data


blocks = st.sampled_from([1, 2, 3, 7, 64, 1 << 20])


def with_small_blocks(size: int) -> mock._patch_dict:  # type: ignore[name-defined]
    """Reads and parses as if a file did not fit in one block: at every place, by turns."""
    return mock.patch.multiple(files, BLOCK_BYTES=max(size, 16), PART_BYTES=2 * size)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=600, deadline=None
)
@given(damaged_files(), blocks)
@example(b'a,b,c\n1,"x\n2,y,"z\n', 7)
@example(b'a,b,c\n1,O"Neil,z\n', 7)
@example(b'a,b,c\n,,\n\n"","",""\n', 7)
@example(b"a,b,c\n,,\n\xef\xbb\xbf,,\n1,2\n", 1)
@example(b"a,b,c\n1,2,3\r", 1)
@example(b'a,b,c\n1,2,"3"\r', 1)
@example(b'a,b,c\n1,2,"3"\r\r\n', 1)
@example(b"a,b,c\n1,2,\xff\n1,2\n4,5,6\n", 16)
def test_a_damaged_file_is_refused_or_reads_as_it_is_written(
    tmp_path: Path, data: bytes, block: int
) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(data)
    with with_small_blocks(block), mock.patch.object(rfc4180, "_BLOCK_BYTES", block):
        found = read_as_files_does(path)
    expected = read_strictly(data)
    if expected is None or not expected or sorted(expected[0]) != NAMES:
        assert found is None
        return
    assert found is not None
    assert found[1] == [r.line for r in read_records(path)][1:]
    for row, wanted in zip(found[0], expected[1:], strict=True):
        names = expected[0]
        if len(wanted) == len(names) and len(row) == len(NAMES):
            assert row == [wanted[names.index(name)] for name in NAMES]
        else:
            assert len(wanted) != len(names) or "\\x" in "".join(wanted)
            assert len(row) == 1
    # Whatever is read is read by Python's strict reader too, as the same.
    text = data.decode("utf-8-sig", "backslashreplace")
    in_python = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    assert in_python == expected


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None
)
@given(damaged_files(), st.lists(st.integers(1, 9), min_size=1))
def test_the_check_does_not_depend_on_how_a_file_is_read(
    tmp_path: Path, data: bytes, sizes: list[int]
) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(data)

    def check(sizes: list[int]) -> tuple[str, int]:
        with CheckedCsv(path) as stream:
            try:
                whole = b""
                for number in range(len(data) + 2):
                    whole += stream.read(sizes[number % len(sizes)])
                stream.finish()
            except ImportRefused as refusal:
                return str(refusal), 0
            assert whole == data.removeprefix(codecs.BOM_UTF8)
            return "", stream.blank_lines

    assert check(sizes) == check([1 << 20])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(valid_files())
def test_valid_files_are_read(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(data)
    text = data.decode("utf-8-sig")
    expected = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    found = read_as_files_does(path)
    assert found is not None
    assert found[0] == expected[1:]


@pytest.mark.parametrize(
    ("body", "line", "what"),
    [
        (b'1,2,"Bob\n1,2,Sam\n1,2,Ann "the\n1,2,Zed\n', 2, "text follows the closing quote"),
        (b'1,2,3\n1,O"Neil,3\n', 3, "a quote inside a field"),
        (b'1,2,3\n"x\ny",O"Neil,3\n', 4, "a quote inside a field"),
        (b'1,2,3\n1, "2",3\n', 3, "a quote inside a field"),
        (b'1,2,3\n1,"2" ,3\n', 3, "text follows the closing quote"),
        (b'1,2,3\n"x\ny","a\nb""c"d,3\n', 4, "text follows the closing quote"),
        (b'1,2,3\n"x\ny","a\nb""c,3\n1,2,3\n', 4, "never ends"),
        (b'1,2,3\n1,2,"', 3, "never ends"),
        (b"1,2,3\n1,2,3\r4,5,6\n", 3, "a carriage return without a line feed"),
        (b"1,2,3\n1,2,3\r", 3, "a carriage return without a line feed"),
        (b'1,2,3\n1,2,"3"\r4,5,6\n', 3, "a carriage return without a line feed"),
        (b"1,2,3\n1,2,3\r\r\n", 3, "a carriage return without a line feed"),
    ],
)
@pytest.mark.parametrize("block", [1, 5, 1 << 20])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_the_line_on_which_the_field_began_is_named(
    tmp_path: Path, body: bytes, line: int, what: str, block: int, end: bytes
) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes((HEADER + body).replace(b"\n", end))
    with CheckedCsv(path) as stream, pytest.raises(ImportRefused) as refused:
        for _ in iter(lambda: stream.read(block), b""):
            pass
    assert f"x.csv cannot be read: line {line}: " in refused.value.thing
    assert what in refused.value.thing
    with pytest.raises(ImportRefused, match=f"line {line}: "):
        files.read_text(path, [], NAMES)
    with pytest.raises(ImportRefused, match=f"line {line}: "):
        files.read_columns(path, {"a": pa.string()}, [""])


def test_lines_are_counted_through_quotes_and_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(HEADER + b'\n\r\n1,"a\n\n\rb",3\r\n\n4\n"","",\n\xff,2,\xfe\n5,6,7')
    found = files.read_text(path, [], NAMES)
    assert found.lines.to_pylist() == [4, 9, 11]
    assert found.table.to_pylist() == [
        {"a": "1", "b": "a\n\n\rb", "c": "3"},
        {"a": None, "b": None, "c": None},
        {"a": "5", "b": "6", "c": "7"},
    ]
    assert [(row.line, row.column, row.value) for row in found.unreadable] == [
        (8, "", "4"),
        (10, "a", r"\xff"),
        (10, "c", r"\xfe"),
    ]
    assert [record.line for record in read_records(path)] == [1, 4, 8, 9, 10, 11]


def test_a_row_longer_than_a_block_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    long = "x" * (files.BLOCK_BYTES * 3)
    path.write_text(f'a,b,c\n1,"{long}",3\n4,5,6\n')
    found = files.read_text(path, [], NAMES)
    assert found.table["b"].to_pylist() == [long, "5"]
    assert found.lines.to_pylist() == [2, 3]


@pytest.mark.parametrize("moved", [-2, -1, 0, 1])
def test_a_line_end_inside_quotes_may_lie_where_a_block_ends(tmp_path: Path, moved: int) -> None:
    path = tmp_path / "x.csv"
    start = HEADER + b"1,2,3\r\n" * (files.BLOCK_BYTES // 7 - 3) + b'4,5,"'
    filler = b"x" * (files.BLOCK_BYTES - len(start) - 1 + moved)
    path.write_bytes(start + filler + b'\r\ny"\r\n4,5,6')
    long = filler.decode() + "\r\ny"
    found = files.read_text(path, NAMES, [])
    assert found.table["c"].to_pylist()[-2:] == [long, "6"]
    columns = files.read_columns(path, {"c": pa.string()}, [""])
    assert columns["c"].to_pylist()[-2:] == [long, "6"]
