"""The database that the verbs work on: the one of the settings, open while a verb runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lb_pipelines.db import queries
from lb_pipelines.db.engine import Database
from lb_pipelines.errors import DatabaseUnavailable
from lb_pipelines.settings import Settings


@contextmanager
def database_opened(*, migrated: bool = True) -> Iterator[Database]:
    """The database of the settings, with its server running meanwhile; `migrated` demands lb."""
    with Settings.from_env().server() as url:
        database = Database(url)
        try:
            if migrated:
                _require_schema(database)
            yield database
        finally:
            database.close()


def _require_schema(database: Database) -> None:
    with database.transaction() as connection:
        if not queries.imports.has_schema(connection):
            raise DatabaseUnavailable(
                f"Database {database.url.database!r} has no schema lb", "Run `lb migrate` first"
            )
