"""What the verbs work on: the database of the settings, institutions in it, what day it is, and the
service that answers questions about boards.

The only clock of the command line is here; every verb hands the day on as an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from lb_pipelines.clock import utc_now
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange, local_day
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions, reading
from lb_pipelines.errors import DatabaseUnavailable, NotMaterialized
from lb_pipelines.materialize.snapshots import asset_name
from lb_pipelines.service import LeaderboardService
from lb_pipelines.service.cache import region_from
from lb_pipelines.settings import Settings

_YEAR = timedelta(days=365)


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
    return local_day(utc_now(), institution.zone)


@dataclass(frozen=True)
class Desk:
    """What answers questions about boards: the service, and the database that it reads."""

    database: Database
    service: LeaderboardService

    def last_day(self, institution_id: str, types: Iterable[BoardType]) -> date:
        """The last day of which all boards of these types that are ever made have been made.

        Raises `NotMaterialized` where none of them ever was.
        """
        with self.database.transaction() as connection:
            institution = institutions.find_active(connection, institution_id)
            days = [
                reading.last_materialized(connection, institution, asset_name(type))
                for type in types
            ]
        try:
            return min(day for day in days if day is not None)
        except ValueError:
            raise NotMaterialized(
                f"No board of {institution_id} has ever been made",
                "Materialize a day of the institution",
            ) from None

    def series(
        self,
        institution_id: str,
        types: Iterable[BoardType],
        first: datetime | None,
        last: datetime | None,
    ) -> DayRange:
        """The days asked for: through the last day made, and a year of them, unless told."""
        end = last.date() if last else self.last_day(institution_id, types)
        return DayRange(first.date() if first else end - _YEAR, end)


@contextmanager
def desk_opened(as_if: tuple[str, datetime] | None = None) -> Iterator[Desk]:
    """The service over the database and the cache of the settings.

    `as_if`: an institution's id, and the day that it is taken to be there.
    """
    cache_url = Settings.from_env().cache_url
    # This process ends with the answer: only what outlives it is worth keeping anything in.
    region = region_from(cache_url) if cache_url else None
    with database_opened() as database:
        clock: dict[str, Callable[[], datetime]] = {}
        if as_if is not None:
            id, day = as_if
            noon = datetime.combine(day, time(12), find(database, id).zone)
            clock["now"] = lambda: noon
        yield Desk(
            database,
            LeaderboardService(database, region=region, keep=region is not None, **clock),
        )


def _require_schema(database: Database) -> None:
    with database.transaction() as connection:
        if not queries.imports.has_schema(connection):
            raise DatabaseUnavailable(
                f"Database {database.url.database!r} has no schema lb", "Run `lb migrate` first"
            )
