"""What the verbs work on: the database of the settings, institutions in it, and what day it is.

The only clock of the command line is here; every verb hands the day on as an argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import local_day
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.errors import DatabaseUnavailable
from lb_pipelines.settings import Settings


@contextmanager
def database_opened(*, migrated: bool = True) -> Iterator[Database]:
    """The database of the settings, with its server running meanwhile; `migrated` demands lb."""
    settings = Settings.from_env()
    with settings.server() as url:
        database = Database(url, leaf_budget=settings.leaf_budget)
        try:
            if migrated:
                _require_schema(database)
            yield database
        finally:
            database.close()


def find(database: Database, institution_id: str) -> Institution:
    """One institution, active or not; raises `UnknownInstitution`."""
    with database.transaction() as connection:
        return institutions.find(connection, institution_id)


def chosen(database: Database, ids: Sequence[str] | None) -> list[Institution]:
    """Those named, each once and active or not; without names every active one."""
    with database.transaction() as connection:
        if ids:
            return [institutions.find(connection, id) for id in dict.fromkeys(ids)]
        every = institutions.every(connection)
    return [institution for institution in every if institution.status == "ACTIVE"]


def today_of(institution: Institution) -> date:
    """The day that it is now in the institution's own zone; raises `InvalidInstitution`."""
    return local_day(datetime.now(UTC), institution.zone)


def _require_schema(database: Database) -> None:
    with database.transaction() as connection:
        if not queries.imports.has_schema(connection):
            raise DatabaseUnavailable(
                f"Database {database.url.database!r} has no schema lb", "Run `lb migrate` first"
            )
