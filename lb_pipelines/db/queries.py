"""Named SQL: every file of `db/sql` as a namespace of functions that take a connection.

`queries.institutions.find(connection, id=...)` runs the statement named `find` of
`sql/institutions.sql`; its text is `queries.institutions.find.sql`. The files are read when a
namespace is first used.
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import aiosql
from psycopg.sql import Literal

_DIRECTORY = Path(__file__).parent / "sql"


@cache
def load(name: str) -> Any:
    """The queries of `sql/{name}.sql`."""
    return aiosql.from_path(_DIRECTORY / f"{name}.sql", "psycopg")


def text(query: Any) -> str:
    """A named query's SQL without its final semicolon, to stand inside another statement."""
    return str(query.sql).rstrip().rstrip(";")


@lru_cache(maxsize=4_096)
def with_constants(query: Any, **constants: Any) -> str:
    """A named query's SQL with some of its parameters written out: psycopg takes the others.

    The planner sees through a constant. One that partitions are chosen by lets a prepared
    statement, whose plan is made once a connection, hold the leaves that it needs and no others.
    """
    sql = text(query)
    for name, value in constants.items():
        # A tuple, for it can be a key here, stands for an array.
        literal = Literal(list(value) if isinstance(value, tuple) else value).as_string()
        placeholder, literal = f"%({name})s", literal.replace("%", "%%")
        if placeholder not in sql:
            raise ValueError(f"{query.__name__} has no parameter {name}")
        sql = sql.replace(placeholder, literal)
    return sql


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    return load(name)
