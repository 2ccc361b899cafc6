"""CSV as RFC 4180 writes it, and nothing else: the bytes of a file, checked while they are read.

A field is either quoted as a whole, with a quote inside it written twice, or holds no quote; lines
end with LF or CR LF. Readers of CSV guess at anything else, each in its own way, so `CheckedCsv`
refuses it, whoever parses the bytes that it hands on. `read_records` is the slow exact parser, for
files in which something is wrong with a row. What columns mean is the business of `files`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from lb_pipelines.errors import ImportRefused

_BOM = b"\xef\xbb\xbf"
_LF, _CR, _QUOTE, _COMMA = b'\n\r",'
_REMEDY = 'Put the whole value in quotes, and write a quote inside it twice ("")'
_FIELD = re.compile(rb'(?:"([^"]*(?:""[^"]*)*)"|([^,]*))(,|\Z)')
_BLOCK_BYTES = 1 << 20


def _is_one_of(*values: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    table = np.zeros(256, dtype=bool)
    table[list(values)] = True
    return table


_MAY_PRECEDE_FIELD = _is_one_of(_COMMA, _LF)
_MAY_FOLLOW_QUOTE = _is_one_of(_COMMA, _LF, _CR, _QUOTE)


class CheckedCsv(io.RawIOBase):
    """A CSV file as a stream of bytes, without its byte order mark.

    `read` raises `ImportRefused` with the line on which the field began, as soon as what was read
    holds a quote inside an unquoted field, anything but a comma or a line end after a closing
    quote, a CR outside quotes that no LF follows, or ends inside quotes. Lines are counted by LF.

    Whether a byte lies inside quotes follows from the number of quotes before it, so the check is
    one pass of NumPy over the quotes and their neighbours, and none where there are no quotes.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.blank_lines = 0
        """Empty lines so far, those inside quotes not counted."""
        self._path = path
        self._file = path.open("rb")
        if self._file.read(len(_BOM)) != _BOM:
            self._file.seek(0)
        # The last bytes that were read, of which the last `_unchecked` wait for the byte after
        # them. The file begins as a line does.
        self._tail = b"\n"
        self._unchecked = 0
        self._ended = False
        # Of the bytes checked so far.
        self._quotes = 0
        self._lines = 1
        self._opened_on = 1

    def __enter__(self) -> CheckedCsv:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, for `io.BufferedReader`."""
        chunk = self.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes; none at the end of the file.

        They end with a CR only where it is all that was asked for: Arrow (26.0) loses an LF that
        begins a block after a CR that ended one, inside quotes too.
        """
        chunk = self._file.read(size)
        if whole := chunk.rstrip(b"\r"):
            self._file.seek(len(whole) - len(chunk), io.SEEK_CUR)
            chunk = whole
        if chunk:
            self._check(chunk)
        elif size != 0 and not self._ended:
            self._ended = True
            # A CR must be followed by a line feed, which the end of the file is not.
            self._check(b"\0" if self._tail[-1] == _CR else b"\n")
            if self._quotes % 2:
                raise self._refusal(self._opened_on, "the quoted field that begins here never ends")
        return chunk

    def finish(self) -> None:
        """Read what is left of the file, so that all of it is checked."""
        while self.read(_BLOCK_BYTES):
            pass

    def _check(self, chunk: bytes) -> None:
        data = self._tail + chunk
        start, end = len(self._tail) - self._unchecked, len(data) - 1
        quotes = _positions(data, _QUOTE, start, end)
        if quotes.size:
            self._check_quotes(data, quotes, start)
        if data.find(b"\r", start, end) >= 0:
            self._check_returns(data, quotes, start, end)
        if b"\n\n" in data or b"\n\r\n" in data:
            self._count_blank_lines(data, quotes, start, end)
        self._quotes += quotes.size
        self._lines += data.count(b"\n", start, end)
        self._tail, self._unchecked = data[-3:], 1

    def _check_quotes(self, data: bytes, quotes: Any, start: int) -> None:
        """Every other quote opens; one right after a closing quote goes on with the same field."""
        view = np.frombuffer(data, np.uint8)
        opening = quotes[self._quotes % 2 :: 2]
        closing = quotes[1 - self._quotes % 2 :: 2]
        before = view[opening - 1]
        beginning = opening[_MAY_PRECEDE_FIELD[before]]
        stray = opening[~_MAY_PRECEDE_FIELD[before] & (before != _QUOTE)]
        followed = closing[~_MAY_FOLLOW_QUOTE[view[closing + 1]]]
        # A lone CR before a quote, or after one, is named as that, if nothing is wrong before it.
        first = min((int(wrong[0]) for wrong in (stray, followed) if wrong.size), default=None)
        if first is not None:
            self._check_returns(data, quotes, start, first)
            if stray.size and first == stray[0]:
                raise self._refusal(
                    self._line_at(data, start, first), "a quote inside a field that is not quoted"
                )
            began = beginning[beginning < first]
            line = self._line_at(data, start, int(began[-1])) if began.size else self._opened_on
            raise self._refusal(
                line, "text follows the closing quote of the field that begins here"
            )
        if beginning.size:
            self._opened_on = self._line_at(data, start, int(beginning[-1]))

    def _check_returns(self, data: bytes, quotes: Any, start: int, end: int) -> None:
        returns = _positions(data, _CR, start, end)
        view = np.frombuffer(data, np.uint8)
        lone = returns[view[returns + 1] != _LF]
        lone = lone[~self._is_quoted(quotes, lone)]
        if lone.size:
            raise self._refusal(
                self._line_at(data, start, int(lone[0])),
                "a carriage return without a line feed",
                "End lines with LF or CR LF, and put a value that holds a CR in quotes",
            )

    def _count_blank_lines(self, data: bytes, quotes: Any, start: int, end: int) -> None:
        view = np.frombuffer(data, np.uint8)
        ends = _positions(data, _LF, start, end)
        before = view[ends - 1]
        blank = ends[(before == _LF) | ((before == _CR) & (view[ends - 2] == _LF))]
        self.blank_lines += int((~self._is_quoted(quotes, blank)).sum())

    def _is_quoted(self, quotes: Any, positions: Any) -> Any:
        return (self._quotes + np.searchsorted(quotes, positions)) % 2 == 1

    def _line_at(self, data: bytes, start: int, position: int) -> int:
        return self._lines + data.count(b"\n", start, position)

    def _refusal(self, line: int, what: str, remedy: str = _REMEDY) -> ImportRefused:
        return ImportRefused(f"{self._path} cannot be read: line {line:,}: {what}", remedy)


class Record(NamedTuple):
    """A record: the line on which it begins, and its bytes without the line end."""

    line: int
    raw: bytes

    @property
    def fields(self) -> list[bytes]:
        """The values of its fields, without the quotes around and inside them."""
        return _split(self.raw)

    def count_fields(self) -> int:
        """How many fields it has."""
        return len(_split(self.raw)) if b'"' in self.raw else self.raw.count(b",") + 1


def read_records(path: Path) -> Iterator[Record]:
    """The records of a CSV file, its header first, without empty lines.

    Raises `ImportRefused` as `CheckedCsv` does; a record may come before what is wrong with it is
    found, so nothing holds before all have come.
    """
    with CheckedCsv(path) as stream, io.BufferedReader(stream, _BLOCK_BYTES) as buffered:
        begun, lines, is_open = 1, list[bytes](), False
        for number, line in enumerate(buffered, 1):
            if not lines:
                begun = number
            lines.append(line)
            is_open ^= line.count(b'"') % 2 == 1
            if is_open:
                continue
            raw = b"".join(lines)
            raw = raw[:-2] if raw.endswith(b"\r\n") else raw.removesuffix(b"\n")
            if raw:
                yield Record(begun, raw)
            lines.clear()


def _split(raw: bytes) -> list[bytes]:
    if b'"' not in raw:
        return raw.split(b",")
    fields, position = [], 0
    while match := _FIELD.match(raw, position):
        quoted, plain, separator = match.groups()
        fields.append(plain if quoted is None else quoted.replace(b'""', b'"'))
        if not separator:
            break
        position = match.end()
    return fields


def _positions(data: bytes, byte: int, start: int, end: int) -> Any:
    """Where in data[start:end] the byte is, counted from the start of `data`."""
    if data.find(byte, start, end) < 0:
        return np.empty(0, dtype=np.int64)
    return start + np.flatnonzero(np.frombuffer(data, np.uint8)[start:end] == byte)
