"""Where Dagster keeps its own tables: the database behind an instance's storage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dagster import DagsterInstance

from lb_pipelines.db.engine import Database
from lb_pipelines.errors import DagsterElsewhere


@contextmanager
def dagster_database(instance: DagsterInstance) -> Iterator[Database]:
    """The database of the instance's events; raises `DagsterElsewhere` if it is no PostgreSQL.

    dagster-postgres has its URL, search_path included; runs, events and ticks lie together.
    """
    url = getattr(instance.event_log_storage, "postgres_url", None)
    if not url:
        raise DagsterElsewhere(type(instance.event_log_storage).__name__)
    database = Database(url)
    try:
        yield database
    finally:
        database.close()
