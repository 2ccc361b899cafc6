"""Fixtures that every test may use: a real server, and databases on it.

The server is embedded, one for each process of tests, and lives as long as the session, or is the
one that LB_TEST_DATABASE_URL names (its role must be allowed to CREATE DATABASE). The schema is
migrated once, into a template; a test's own database is a copy of that (20 ms; see `_STRATEGY`),
dropped when the test ends.
Tests that use any of this carry the marker `database`, so that they can be run on another server.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from datetime import datetime, tzinfo
from pathlib import Path

import hypothesis
import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from sqlalchemy.engine import URL

from lb_pipelines import clock
from lb_pipelines.db.embedded import EmbeddedServer
from lb_pipelines.db.engine import Database, normalize_url
from lb_pipelines.db.migrate import upgrade

# How long an example takes says nothing: servers and machines differ.
hypothesis.settings.register_profile("lb_pipelines", deadline=None)
hypothesis.settings.load_profile("lb_pipelines")

# Measured on PostgreSQL 18 without fsync: FILE_COPY 20 ms, WAL_LOG (the default) 235 ms.
_STRATEGY = SQL("STRATEGY FILE_COPY")
# Nothing here outlives the session, so nothing has to survive a crash.
_SERVER_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "128MB",
}
_DATABASE_FIXTURES = {"server_url", "database", "fresh_database_url"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need the server: `pytest -m database` runs just those."""
    for item in items:
        if _DATABASE_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.database)


class _WatchedClock:
    """What `lb_pipelines.clock` asks, in the place of `datetime`: notes that it was asked."""

    def __init__(self) -> None:
        self.was_asked = False

    def now(self, zone: tzinfo) -> datetime:
        self.was_asked = True
        return datetime.now(zone)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that asks what time it is without the marker `present`: on other dates than
    today's, only those that carry it run (`dates`).
    """
    watched = _WatchedClock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "datetime", watched)
        result = yield
    if watched.was_asked and item.get_closest_marker("present") is None:
        pytest.fail("It asks what time it is: mark it with pytest.mark.present")
    return result


class _Databases:
    """Makes and drops databases on one server; the names are unique to the session."""

    def __init__(self, server: URL) -> None:
        self.server = server
        self._prefix = f"lb_test_{secrets.token_hex(4)}"
        self._numbers = itertools.count()
        self.template: str | None = None

    def create(self, *, migrated: bool) -> URL:
        """A new database, empty or as the migrations leave it; the URL of it."""
        if migrated and self.template is None:
            empty = self.create(migrated=False)
            database = Database(empty)
            upgrade(database)
            database.close()
            self.template = empty.database
        return self._copy(self.template if migrated and self.template else "template0")

    def copy(self, url: URL) -> URL:
        """A new database with all that another holds, to which nobody may be connected."""
        assert url.database is not None
        return self._copy(url.database)

    def _copy(self, template: str) -> URL:
        name = f"{self._prefix}_{next(self._numbers)}"
        self._run(
            SQL("CREATE DATABASE {} TEMPLATE {} {}").format(
                Identifier(name), Identifier(template), _STRATEGY
            )
        )
        return self.server.set(database=name)

    def drop(self, url: URL) -> None:
        """Drop a database, whoever is still connected."""
        assert url.database is not None
        self._run(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(url.database)))

    def _run(self, statement: psycopg.sql.Composed) -> None:
        with psycopg.connect(libpq_url(self.server), autocommit=True) as connection:
            connection.execute(statement)


def libpq_url(url: URL) -> str:
    """A SQLAlchemy URL as psycopg itself takes it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The server of this session: the URL of a database on it that no test writes to."""
    external = os.environ.get("LB_TEST_DATABASE_URL")
    if external:
        yield external
        return
    home = Path(tempfile.mkdtemp(prefix="lb-tests-", dir="/tmp"))
    home.chmod(0o711)  # As root the server runs as another user, who must get this far.
    server = EmbeddedServer(home, settings=_SERVER_SETTINGS)
    try:
        yield server.start()
    finally:
        server.destroy()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def _databases(server_url: str) -> Iterator[_Databases]:
    databases = _Databases(normalize_url(server_url))
    yield databases
    if databases.template is not None:
        databases.drop(databases.server.set(database=databases.template))


@pytest.fixture
def database(_databases: _Databases) -> Iterator[Database]:
    """A migrated database of the test's own, without rows."""
    url = _databases.create(migrated=True)
    database = Database(url)
    yield database
    database.close()
    _databases.drop(url)


@pytest.fixture
def fresh_database_url(_databases: _Databases) -> Iterator[Callable[[], str]]:
    """A factory of URLs of empty databases (no schema), dropped after the test."""
    made: list[URL] = []

    def create() -> str:
        made.append(_databases.create(migrated=False))
        return libpq_url(made[-1])

    yield create
    for url in made:
        _databases.drop(url)
