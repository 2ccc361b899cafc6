"""Connections. One `Database` a process: a pooled SQLAlchemy engine over psycopg 3.

Everything that must be true of every connection (custom plans, UTC, no JIT) is set here and
nowhere else. SQL lives in `db/sql`, statements are run by the repositories.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError

from lb_pipelines.errors import DatabaseUnavailable

Connection = psycopg.Connection[tuple[Any, ...]]

OLDEST_SERVER, NEWEST_SERVER = 15, 18
LEAF_BUDGET = 3_000
"""Leaves below both partitioned roots together; above it a plan that cannot prune costs seconds."""

# A generic plan of a prepared statement cannot prune and locks every leaf; JIT compiles plans
# that run for milliseconds; days are computed with explicit zones only.
_SESSION = "-c plan_cache_mode=force_custom_plan -c jit=off -c timezone=UTC"


def normalize_url(url: str | URL) -> URL:
    """Any PostgreSQL URL as one for psycopg 3; raises `DatabaseUnavailable` if it is none."""
    try:
        parsed = make_url(url)
    except sqlalchemy.exc.ArgumentError:
        parsed = None
    if parsed is None or not parsed.drivername.startswith("postgres"):
        raise DatabaseUnavailable(
            "LB_DATABASE_URL is no PostgreSQL URL",
            "Write it as postgresql://user:password@host:5432/database",
        )
    return parsed.set(drivername="postgresql+psycopg")


class Database:
    """The project's access to one PostgreSQL database.

    `url` is any PostgreSQL URL; `leaf_budget` the number of leaves up to which institutions get a
    subtree of their own. Opening nothing until first used, it is cheap to make.
    """

    def __init__(self, url: str | URL, *, leaf_budget: int = LEAF_BUDGET) -> None:
        self.leaf_budget = leaf_budget
        self.url = normalize_url(url)
        query = dict(self.url.query)
        options = f"{query.pop('options', '')} {_SESSION}".strip()
        self.engine = sqlalchemy.create_engine(
            self.url.set(query=query),
            connect_args={"options": options, "application_name": "lb_pipelines"},
            pool_pre_ping=True,
        )

    @contextmanager
    def transaction(self, *, snapshot: bool = False) -> Iterator[Connection]:
        """A psycopg connection in a transaction: committed at the end, rolled back on an error.

        With `snapshot` all statements see one state of the database (REPEATABLE READ, read only).
        Raises `DatabaseUnavailable` where no connection can be made.
        """
        with self._connection() as connection:
            if snapshot:
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """A psycopg connection outside any transaction, for statements that demand it."""
        with self._connection() as connection:
            connection.autocommit = True
            try:
                yield connection
            finally:
                connection.autocommit = False

    def check_server(self) -> int:
        """The server's major version; raises `DatabaseUnavailable` if it is not supported."""
        with self.transaction() as connection:
            major = connection.info.server_version // 10_000
        if not OLDEST_SERVER <= major <= NEWEST_SERVER:
            raise DatabaseUnavailable(
                f"PostgreSQL {major} is not supported",
                f"Use a server of version {OLDEST_SERVER} to {NEWEST_SERVER}",
            )
        return major

    def close(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        try:
            pooled = self.engine.raw_connection()
        except (DBAPIError, psycopg.OperationalError) as error:
            raise DatabaseUnavailable(
                f"No connection to {self.url.render_as_string(hide_password=True)}: {error}",
                "Start the server, or correct LB_DATABASE_URL",
            ) from error
        try:
            connection = pooled.driver_connection
            assert isinstance(connection, psycopg.Connection)
            yield connection
        finally:
            pooled.close()
