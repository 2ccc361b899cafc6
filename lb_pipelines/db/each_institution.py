"""Ask each of several institutions the same, so that none of them ends it for the others.

What a schedule, sensor, job or command asks of institution after institution goes through here. An
institution that cannot answer (settings, zone, data, a lock) is named with the reason; only what
concerns all of them, above all a lost server, ends the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Generic, NamedTuple, TypeVar

import psycopg

from lb_pipelines.core.institution import Institution
from lb_pipelines.db.engine import Database
from lb_pipelines.errors import (
    DatabaseUnavailable,
    InstitutionLocked,
    LeaderboardError,
    UnreadableInstitution,
)

T = TypeVar("T")

READ_LOCK_TIMEOUT = timedelta(seconds=2)
"""How long a statement that only reads waits for a lock: only DDL locks readers out, and the
project's own holds its locks for less."""
WRITE_LOCK_TIMEOUT = timedelta(minutes=1)
"""How long a statement that writes waits for others who write, as for an erasure."""
TICK_STATEMENT_TIMEOUT = timedelta(seconds=20)
"""How long a statement of a sensor or schedule may take; Dagster ends a tick after 60 seconds."""

# SQLSTATE, PostgreSQL's manual, appendix A. A lost connection or server (08, 57P), a full one (53),
# missing rights or tables (42) concern all institutions.
_LOCKED = frozenset({"55P03", "40P01", "57014"})
_CLASSES_OF_DATA = frozenset({"21", "22", "23", "40", "54", "55", "P0"})
_DAMAGED = frozenset({"XX001", "XX002"})


class Answers(NamedTuple, Generic[T]):
    """By institution id what was answered, and why the others could not answer."""

    answers: dict[str, T]
    failures: dict[str, LeaderboardError]


def ask_each(institutions: Iterable[Institution], ask: Callable[[Institution], T]) -> Answers[T]:
    """Ask institution after institution; each is in `answers` or in `failures`.

    `ask` begins its own transactions, on a database `with_short_waits` where it reads. Raises what
    concerns all institutions.
    """
    answers: dict[str, T] = {}
    failures: dict[str, LeaderboardError] = {}
    for institution in institutions:
        try:
            with name_institution(institution.id):
                answers[institution.id] = ask(institution)
        except DatabaseUnavailable:
            raise
        except LeaderboardError as error:
            failures[institution.id] = error
    return Answers(answers, failures)


@contextmanager
def name_institution(institution_id: str) -> Iterator[None]:
    """Raise what the database refuses because of this institution as a typed error that names it.

    What does not concern the institution alone is raised as it is.
    """
    try:
        yield
    except psycopg.Error as error:
        state = error.sqlstate or ""
        reason = (error.diag.message_primary or str(error)).strip().partition("\n")[0]
        if state in _LOCKED:
            raise InstitutionLocked(institution_id, reason) from error
        if state[:2] in _CLASSES_OF_DATA or state in _DAMAGED or _is_beyond_python(error):
            raise UnreadableInstitution(institution_id, reason) from error
        raise
    except OverflowError as error:
        # Dates and instants at the end of the calendar, moved beyond it.
        raise UnreadableInstitution(institution_id, str(error)) from error


def with_short_waits(database: Database, statement_timeout: timedelta | None = None) -> Database:
    """The database for whoever reads of one institution after the other."""
    return database.with_timeouts(lock=READ_LOCK_TIMEOUT, statement=statement_timeout)


def _is_beyond_python(error: psycopg.Error) -> bool:
    """Whether the server gave a value that Python has no object for, such as a date after 9999."""
    return error.sqlstate is None and isinstance(error, psycopg.DataError)
