"""Checks of a file of text, a column at a time: what is refused, and the values that pass.

A `Checker` holds one file while it is checked. Each check notes its refusals with file, line,
column, value and reason; a row that is refused once does not pass, but is checked on, so that a
person sees everything that is wrong with it at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lb_pipelines.core.ids import LONGEST_ID, describe_invalid_id
from lb_pipelines.sources.files import TextFile
from lb_pipelines.sources.report import REFUSAL_SCHEMA, ImportReport, Read

EARLIEST = date(2000, 1, 1)
"""A date before this is taken for a slip (and PostgreSQL's own epoch, by the way)."""
YEARS_OF_EVENTS = 1
"""An event later than this after today is taken for a slip."""
YEARS_OF_PLANS = 20
"""The same of a day of a term or an enrollment, which are entered long before they begin."""

_PLAIN_ID = r"^[!-~]+( [!-~]+)*$"
"""Ids that need no closer look: of the ASCII characters that can be seen, and spaces between."""
_WHOLE_NUMBER = r"^-?[0-9]+$"


class Checker:
    """The rows of one file on their way through the checks."""

    def __init__(self, file: TextFile, name: str, report: ImportReport, today: date) -> None:
        self.name = name
        self._latest_event = _years_after(today, YEARS_OF_EVENTS)
        self._latest_plan = _years_after(today, YEARS_OF_PLANS)
        self._file = file
        self._report = report
        self._refused = np.zeros(file.table.num_rows, dtype=bool)
        self._unreadable = len({row.line for row in file.unreadable})
        self._read = Read(rows=file.table.num_rows + self._unreadable)
        report.read[file.path.name] = self._read
        if file.unreadable:
            found = [(row.line, row.column, row.value, row.reason) for row in file.unreadable]
            lines, columns, values, reasons = zip(*found, strict=True)
            self._note(lines, columns, values, pa.array(reasons))

    @property
    def rows(self) -> int:
        """Rows of the file that could be read at all."""
        return self._file.table.num_rows

    def text(self, column: str) -> pa.Array:
        """A column as it stands in the file; null where it is empty."""
        return self._file.table[column].combine_chunks()

    def passed(self, table: pa.Table) -> pa.Table:
        """The rows of a table made from this file that no check has refused; counts the others."""
        self._read.refused = int(self._refused.sum()) + self._unreadable
        return table.filter(pa.array(~self._refused)) if self._refused.any() else table

    def refuse(self, where: pa.Array, column: str, reason: str | pa.Array) -> None:
        """Refuse the rows where `where` is true; `reason` is one for all or one for each."""
        mask = np.asarray(pc.fill_null(where, False))
        if not mask.any():
            return
        self._refused |= mask
        chosen = pa.array(mask)
        reasons = reason.filter(chosen) if isinstance(reason, pa.Array) else reason
        self._note(
            self._file.lines.filter(chosen), column, self.text(column).filter(chosen), reasons
        )

    def ids(self, column: str, *, required: bool) -> pa.Array:
        """A column of ids: refuses what is missing (if required), and what `core.ids` does."""
        values = self.text(column)
        if required:
            self.refuse(values.is_null(), column, "missing")
        plain = pc.and_(
            pc.match_substring_regex(values, _PLAIN_ID),
            pc.less_equal(pc.binary_length(values), LONGEST_ID),
        )
        self._refuse_each(column, pc.if_else(plain, None, values), describe_invalid_id)
        return values

    def texts(self, column: str) -> pa.Array:
        """A column of free text: refuses the one character that PostgreSQL cannot store."""
        values = self.text(column)
        self.refuse(pc.match_substring(values, "\x00"), column, "holds a NUL character")
        return values

    def choice(self, column: str, choices: Iterable[str]) -> pa.Array:
        """A column of one of a few words, or empty."""
        values, words = self.text(column), list(choices)
        self.refuse(
            pc.and_(values.is_valid(), pc.invert(pc.is_in(values, value_set=pa.array(words)))),
            column,
            f"not one of {', '.join(words)}",
        )
        return values

    def whole_numbers(
        self, column: str, kind: pa.DataType, least: int, greatest: int, *, required: bool
    ) -> pa.Array:
        """A column of whole numbers within bounds, as `kind`."""
        values = self.text(column)
        if required:
            self.refuse(values.is_null(), column, "missing")
        numbers, bad = parse(values, pa.int64(), _WHOLE_NUMBER)
        outside = pc.or_(pc.less(numbers, least), pc.greater(numbers, greatest))
        self.refuse(bad, column, "no whole number")
        self.refuse(outside, column, f"outside {least} to {greatest}")
        return pc.if_else(outside, None, numbers).cast(kind)

    def dates(self, column: str, *, required: bool) -> pa.Array:
        """A column of calendar dates as YYYY-MM-DD, from EARLIEST on, YEARS_OF_PLANS ahead."""
        values = self.text(column)
        if required:
            self.refuse(values.is_null(), column, "missing")
        days, bad = parse(values, pa.date32(), r"^\d{4}-\d\d-\d\d$")
        self.refuse(bad, column, "no date of the calendar as YYYY-MM-DD")
        low, high = pa.scalar(EARLIEST), pa.scalar(self._latest_plan)
        outside = pc.or_(pc.less(days, low), pc.greater(days, high))
        self.refuse(outside, column, f"outside {EARLIEST} to {self._latest_plan}")
        return days

    def instants(self, column: str) -> pa.Array:
        """A required column of times with a zone offset, as timestamps in UTC.

        From EARLIEST on, at most YEARS_OF_EVENTS ahead.
        """
        values = self.text(column)
        self.refuse(values.is_null(), column, "missing")
        kind = pa.timestamp("us", "UTC")
        instants, bad = parse(values, kind, r"(Z|[+-]\d\d(:?\d\d)?)$")
        self.refuse(
            bad,
            column,
            "no time with zone offset as 2024-03-01T09:30:00+01:00",
        )
        low = pa.scalar(datetime.combine(EARLIEST, time.min, UTC), kind)
        high = pa.scalar(datetime.combine(self._latest_event, time.max, UTC), kind)
        outside = pc.or_(pc.less(instants, low), pc.greater(instants, high))
        self.refuse(outside, column, f"outside {EARLIEST} to {self._latest_event}")
        return instants

    def refuse_unknown(self, where: pa.Array, column: str, what: str) -> None:
        """Refuse ids that name nothing; says also where one cannot be an id at all."""

        def complaint(id: str) -> str:
            invalid = describe_invalid_id(id)
            return f"unknown {what}: the id {invalid}" if invalid else f"unknown {what}"

        self._refuse_each(column, pc.if_else(where, self.text(column), None), complaint)

    def unique(self, owners: pa.Array, *columns: str) -> None:
        """Refuse a row whose columns say the same, under the same owner, as an earlier row."""
        parts = [pc.fill_null(self.text(column), "") for column in columns]
        joint = pc.binary_join_element_wise(
            pc.fill_null(owners.cast(pa.string()), ""), *parts, "\x1f"
        )
        encoded = joint.dictionary_encode()
        if len(encoded.dictionary) == len(joint):
            return
        codes = encoded.indices.to_numpy()
        first = np.full(len(encoded.dictionary), len(codes), dtype=np.int64)
        np.minimum.at(first, codes, np.arange(len(codes)))
        earlier = first[codes]
        again = (earlier != np.arange(len(codes))) & np.asarray(self.text(columns[-1]).is_valid())
        lines = self._file.lines.take(pa.array(earlier)).cast(pa.string())
        reasons = pc.binary_join_element_wise("the same as on line", lines, " ")
        self.refuse(pa.array(again), columns[-1], reasons)

    def each(self, column: str, complaint: Callable[[str], str | None]) -> None:
        """Refuse by a function of the value, which is asked once for each different value."""
        self._refuse_each(column, self.text(column), complaint)

    def _refuse_each(
        self, column: str, values: pa.Array, complaint: Callable[[str], str | None]
    ) -> None:
        encoded = values.dictionary_encode()
        reasons = pa.array([complaint(value.as_py()) for value in encoded.dictionary], pa.string())
        of_row = reasons.take(encoded.indices)
        self.refuse(of_row.is_valid(), column, of_row)

    def _note(
        self,
        lines: pa.Array | tuple[int, ...],
        column: str | tuple[str, ...],
        values: pa.Array | tuple[str, ...],
        reasons: pa.Array | str,
    ) -> None:
        def repeated(value: str) -> pa.Array:
            return pa.repeat(pa.scalar(value, pa.string()), len(lines))

        noted = pa.table(
            [
                repeated(self._file.path.name),
                pa.array(lines, pa.int64()),
                repeated(column) if isinstance(column, str) else pa.array(column),
                pa.array(values, pa.string()),
                repeated(reasons) if isinstance(reasons, str) else reasons,
            ],
            schema=REFUSAL_SCHEMA,
        )
        self._report.refusals = pa.concat_tables([self._report.refusals, noted])


def _years_after(today: date, years: int) -> date:
    return today.replace(year=today.year + years, day=min(today.day, 28))


def parse(values: pa.Array, kind: pa.DataType, pattern: str) -> tuple[pa.Array, pa.Array]:
    """Text as values of another type, null where it is none; and a mask of where that is.

    One cast where all is well. Where Arrow refuses, the half that holds the bad value is looked
    for again and again: a few casts a bad value, however long the column.
    """
    matching = pc.fill_null(pc.match_substring_regex(values, pattern), False)
    candidates = pc.if_else(matching, values, pa.scalar(None, values.type))
    parsed = _cast(candidates, kind)
    return parsed, pc.and_(values.is_valid(), parsed.is_null())


def _cast(values: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return values.cast(kind)
    except pa.ArrowInvalid:
        if len(values) == 1:
            return pa.nulls(1, kind)
        half = len(values) // 2
        return pa.concat_arrays([_cast(values[:half], kind), _cast(values[half:], kind)])
