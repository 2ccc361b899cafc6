"""What an import read, wrote and refused: for the screen, for machines and as a CSV of refusals."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

REFUSAL_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("line", pa.int64()),
        ("column", pa.string()),
        ("value", pa.string()),
        ("reason", pa.string()),
    ]
)
SHOWN = 20
"""How many refusals a person is shown; the CSV has all."""


@dataclass
class Read:
    """A source file: its rows, and how many of them were refused."""

    rows: int
    refused: int = 0
    published: int | None = None


@dataclass(frozen=True)
class Written:
    """What became of the rows for one table of the database.

    `moved` events (counted among `inserted` too) had another time under the same id; the old row
    was removed. `left_out` rows are of students who were erased.
    """

    inserted: int = 0
    changed: int = 0
    unchanged: int = 0
    moved: int = 0
    left_out: int = 0

    def __add__(self, other: Written) -> Written:
        return Written(
            self.inserted + other.inserted,
            self.changed + other.changed,
            self.unchanged + other.unchanged,
            self.moved + other.moved,
            self.left_out + other.left_out,
        )


@dataclass
class ImportReport:
    """The account of one import. `read` is by file, `written` by table, in order of the work."""

    read: dict[str, Read] = field(default_factory=dict)
    written: dict[str, Written] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    refusals: pa.Table = field(default_factory=REFUSAL_SCHEMA.empty_table)

    @property
    def refused_rows(self) -> int:
        """Rows refused in all files (one row may be refused for several reasons)."""
        return sum(read.refused for read in self.read.values())

    @property
    def changes(self) -> int:
        """Rows that were new or different; 0 for an import that has been made before."""
        return sum(table.inserted + table.changed for table in self.written.values())

    def add_written(self, table: str, written: Written) -> None:
        """Count what was written to a table, on top of what was counted before."""
        self.written[table] = self.written.get(table, Written()) + written

    def note_left_out(self) -> None:
        """Say how many rows of erased students were left out, if any; not which."""
        left_out = sum(table.left_out for table in self.written.values())
        if left_out:
            self.notes.append(f"{left_out:,} rows of erased students left out")

    def order_refusals(self) -> None:
        """Bring the refusals into the order of the files as they were read, and of their lines."""
        files = pa.array(list(self.read), pa.string())
        keys = pa.table(
            {
                "file": pc.index_in(self.refusals["file"], value_set=files),
                "line": self.refusals["line"],
            }
        )
        by_line = [("file", "ascending"), ("line", "ascending")]
        # Stable: what is wrong with one row stays in the order of its checks.
        self.refusals = self.refusals.take(pc.sort_indices(keys, sort_keys=by_line))

    def first_refusals(self, count: int = SHOWN) -> list[dict[str, Any]]:
        """The first refusals as dictionaries of file, line, column, value and reason."""
        rows: list[dict[str, Any]] = self.refusals.slice(0, count).to_pylist()
        return rows

    def write_refusals(self, path: Path) -> None:
        """All refusals as a CSV with a header, also where there are none."""
        with path.open("wb") as file:
            csv.write_csv(self.refusals, file)

    def as_json(self) -> dict[str, Any]:
        """Everything but the rows refused beyond the first ones, as plain values."""
        return {
            "read": {name: vars(read) for name, read in self.read.items()},
            "written": {name: vars(written) for name, written in self.written.items()},
            "notes": self.notes,
            "refusedRows": self.refused_rows,
            "refusals": self.first_refusals(),
            "seconds": round(self.seconds, 3),
        }
