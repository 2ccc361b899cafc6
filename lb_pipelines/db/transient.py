"""Which errors of the database heal by themselves: a lost connection or a lost race, by SQLSTATE.

Bad data, a wrong statement, a full disk or a missing right do not heal, so that nobody waits for a
second try of them. How often and after which pause one tries again is decided by the caller.
"""

from __future__ import annotations

import psycopg
from sqlalchemy.exc import DBAPIError

from lb_pipelines.errors import DatabaseUnavailable, PartitionBusy

# PostgreSQL's manual, appendix A. Class 08 is the connection itself.
_CONNECTION = "08"
_STATES = frozenset(
    {
        "25P03",  # idle_in_transaction_session_timeout
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
        "53300",  # too_many_connections
        "55P03",  # lock_not_available
        "57P01",  # admin_shutdown, which pg_terminate_backend gives too
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now: the server starts or stops
        "57P05",  # idle_session_timeout
    }
)


def is_transient(error: BaseException | None) -> bool:
    """Whether trying again can help.

    Without a SQLSTATE there was no server to give one: the connection was lost, or never made
    (libpq passes none on for a refused one, be it full or the password wrong).
    """
    match error:
        case DatabaseUnavailable() | PartitionBusy():
            return is_transient(error.__cause__)
        case DBAPIError():
            return is_transient(error.orig)
        case psycopg.Error():
            state = error.sqlstate
            if state is None:
                return isinstance(error, psycopg.OperationalError)
            return state.startswith(_CONNECTION) or state in _STATES
    return False
