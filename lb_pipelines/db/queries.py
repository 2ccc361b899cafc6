"""Named SQL: every file of `db/sql` as a namespace of functions that take a connection.

`queries.institutions.find(connection, id=...)` runs the statement named `find` of
`sql/institutions.sql`; its text is `queries.institutions.find.sql`. The files are read when a
namespace is first used.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import aiosql

_DIRECTORY = Path(__file__).parent / "sql"


@cache
def load(name: str) -> Any:
    """The queries of `sql/{name}.sql`."""
    return aiosql.from_path(_DIRECTORY / f"{name}.sql", "psycopg")


def text(query: Any) -> str:
    """A named query's SQL without its final semicolon, to stand inside another statement."""
    return str(query.sql).rstrip().rstrip(";")


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    return load(name)
