"""Connections. One `Database` a process: a pooled SQLAlchemy engine over psycopg 3.

Everything that must be true of every connection (custom plans, UTC, no JIT) is set here and
nowhere else. SQL lives in `db/sql`, statements are run by the repositories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from datetime import timedelta
from typing import Any, TypeVar

import orjson
import psycopg
import psycopg.errors
import sqlalchemy
from psycopg.pq import TransactionStatus
from psycopg.sql import SQL, Literal
from psycopg.types.json import set_json_loads
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError

from lb_pipelines.core.words import validate_institution_id
from lb_pipelines.errors import DatabaseUnavailable, MissingRole

T = TypeVar("T")
Connection = psycopg.Connection[tuple[Any, ...]]

OLDEST_SERVER, NEWEST_SERVER = 15, 18
LEAF_BUDGET = 3_000
"""Leaves below both partitioned roots together; above it a plan that cannot prune costs seconds."""

# A generic plan of a prepared statement cannot prune and locks every leaf; JIT compiles plans
# that run for milliseconds; days are computed with explicit zones only.
_SESSION = "-c plan_cache_mode=force_custom_plan -c jit=off -c timezone=UTC"
_SETTINGS = "SET plan_cache_mode = force_custom_plan; SET jit = off; SET timezone = 'UTC'"
# Who reads, and what of: one message, so that it costs one round trip. REPEATABLE READ: all
# statements see one state. LOCAL: none of it outlives the transaction.
_READ = SQL(
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL ROLE lb_reader;"
    " SET LOCAL app.institution_id = {}; SET LOCAL plan_cache_mode = {}"
)


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
        url = self.url.set(query=query)
        connect_args = {"options": options, "application_name": "lb_pipelines"}
        self.engine = sqlalchemy.create_engine(url, connect_args=connect_args, pool_pre_ping=True)
        # Readers have a pool of their own, whose connections are always in autocommit and are not
        # asked whether they live: the first statement tells, and can be said again.
        self._timeouts: dict[str, int] = {}
        self._readers = sqlalchemy.create_engine(
            url,
            connect_args=connect_args,
            isolation_level="AUTOCOMMIT",
            pool_reset_on_return=None,
        )
        _made_for_reading(self._readers)

    @classmethod
    def over(cls, engine: sqlalchemy.Engine, *, leaf_budget: int = LEAF_BUDGET) -> Database:
        """The database of somebody's engine, by connections made the way that it makes them.

        They lie in pools of their own, as large as the engine's, because they need settings that
        its other users may not expect. Raises `DatabaseUnavailable` for any driver but psycopg 3.
        """
        if (engine.dialect.name, engine.dialect.driver) != ("postgresql", "psycopg"):
            raise DatabaseUnavailable(
                f"The engine speaks {engine.dialect.name} through {engine.dialect.driver}",
                "Make it with sqlalchemy.create_engine('postgresql+psycopg://...')",
            )
        database = cls(engine.url, leaf_budget=leaf_budget)
        database.engine = _engine_like(engine, pool_pre_ping=True)
        database._readers = _engine_like(engine, isolation_level="AUTOCOMMIT")
        _made_for_reading(database._readers)
        return database

    def with_timeouts(
        self, *, lock: timedelta | None = None, statement: timedelta | None = None
    ) -> Database:
        """The same database over the same connections, for whoever must not wait for ever.

        In its transactions and outside them (not in `reading` and `at_once`) no statement waits
        longer than `lock` for a lock, nor takes longer than `statement`; None: as long as it takes.
        """
        bounded = copy(self)
        bounded._timeouts = {
            name: max(1, round(timeout / timedelta(milliseconds=1)))
            for name, timeout in (("lock_timeout", lock), ("statement_timeout", statement))
            if timeout is not None
        }
        return bounded

    @property
    def lock_timeout(self) -> float | None:
        """How many seconds a statement waits for a lock; None: for ever."""
        milliseconds = self._timeouts.get("lock_timeout")
        return None if milliseconds is None else milliseconds / 1000

    @contextmanager
    def transaction(self, *, snapshot: bool = False) -> Iterator[Connection]:
        """A psycopg connection in a transaction: committed at the end, rolled back on an error.

        With `snapshot` all statements see one state of the database (REPEATABLE READ, read only).
        Raises `DatabaseUnavailable` where no connection can be made.
        """
        with self._connection() as connection:
            if snapshot:
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            self._set_timeouts(connection, "SET LOCAL {} = {}")
            try:
                yield connection
            except BaseException:
                # Of a lost connection the error at hand says why; a rollback would only say that.
                if not connection.closed:
                    with suppress(psycopg.OperationalError):
                        connection.rollback()
                raise
            connection.commit()

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """A psycopg connection outside any transaction, for statements that demand it."""
        with self._connection() as connection:
            connection.autocommit = True
            self._set_timeouts(connection, "SET {} = {}")
            try:
                yield connection
            finally:
                # A lost one is told of by whatever was said last on it, and thrown away.
                if not connection.closed:
                    with suppress(psycopg.OperationalError):
                        self._set_timeouts(connection, "RESET {}")
                    connection.autocommit = False

    @contextmanager
    def reading(self, institution_id: str, *, generic_plans: bool = False) -> Iterator[Connection]:
        """Read one institution and nothing else: as `lb_reader`, in one state of the database.

        Row level security hides all other institutions, whatever a statement asks for (roots and
        dimensions; leaves and ledgers are refused). One round trip begins it and one ends it, and
        the connection keeps nothing of it. It guards against mistakes in statements, not against
        SQL that strangers write: whoever can say RESET ROLE is out of it.
        `generic_plans`: prepared statements are planned once a connection; whoever asks for it has
        read the charter of sql/reading.sql.
        Raises `MissingRole` where this user may not become lb_reader.
        """
        mode = "force_generic_plan" if generic_plans else "force_custom_plan"
        statement = _READ.format(Literal(validate_institution_id(institution_id)), Literal(mode))

        def begin(connection: Connection) -> None:
            try:
                connection.execute(statement, prepare=False)
            except (
                psycopg.errors.InsufficientPrivilege,
                psycopg.errors.InvalidParameterValue,
            ) as error:
                raise MissingRole(connection.info.user) from error

        pooled, connection, _ = self._reader(begin)
        try:
            yield connection
            if connection.pgconn.transaction_status == TransactionStatus.IDLE:
                # What the block read after that, it read as the owner.
                raise RuntimeError("a block of Database.reading ended its own transaction")
        finally:
            _give_back(pooled, connection)

    def at_once(self, work: Callable[[Connection], T]) -> T:
        """What `work` reads by one statement outside any transaction, in one round trip.

        Not from partitioned tables: what it prepares keeps one plan. Where the server was started
        anew meanwhile, `work` runs a second time.
        """
        pooled, connection, result = self._reader(work)
        _give_back(pooled, connection)
        return result

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
        self._readers.dispose()

    def _set_timeouts(self, connection: Connection, statement: str) -> None:
        for name, milliseconds in self._timeouts.items():
            connection.execute(SQL(statement).format(SQL(name), Literal(milliseconds)))

    def _reader(
        self, first: Callable[[Connection], T]
    ) -> tuple[sqlalchemy.pool.PoolProxiedConnection, Connection, T]:
        """A reader's connection, to be given back, and what its first statement gave."""
        for last in (False, True):
            pooled, connection = self._check_out(self._readers)
            try:
                return pooled, connection, first(connection)
            except BaseException:
                lost = connection.closed
                _give_back(pooled, connection)
                if last or not lost:
                    raise
                # What else lies in the pool was lost with it.
                self._readers.dispose()
        raise AssertionError("unreachable")

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        pooled, connection = self._check_out(self.engine)
        try:
            yield connection
        finally:
            if connection.closed:
                pooled.invalidate()
            else:
                pooled.close()

    def _check_out(
        self, engine: sqlalchemy.Engine
    ) -> tuple[sqlalchemy.pool.PoolProxiedConnection, Connection]:
        try:
            pooled = engine.raw_connection()
        except (DBAPIError, psycopg.OperationalError) as error:
            raise DatabaseUnavailable(
                f"No connection to {self.url.render_as_string(hide_password=True)}: {error}",
                "Start the server, or correct LB_DATABASE_URL",
            ) from error
        connection = pooled.driver_connection
        assert isinstance(connection, psycopg.Connection)
        return pooled, connection


def _engine_like(engine: sqlalchemy.Engine, **options: Any) -> sqlalchemy.Engine:
    """Another engine whose connections are made as this one's, and have the session's settings."""
    pool = engine.pool.recreate()
    pool._pre_ping = options.pop("pool_pre_ping", False)
    made = sqlalchemy.create_engine(engine.url, pool=pool, **options)

    def prepare(connection: Connection, _: object) -> None:
        connection.execute(_SETTINGS)
        if not connection.autocommit:
            connection.commit()

    sqlalchemy.event.listen(made, "connect", prepare)
    return made


def _made_for_reading(readers: sqlalchemy.Engine) -> None:
    """Let a reader's connections keep their plans from the first time on, and read JSON fast."""

    def prepare(connection: Connection, _: object) -> None:
        # `reading` sets its own way.
        connection.execute("SET plan_cache_mode = auto", prepare=False)
        if not connection.autocommit:
            connection.commit()
        connection.prepare_threshold = 0
        set_json_loads(orjson.loads, connection)

    sqlalchemy.event.listen(readers, "connect", prepare)


def _give_back(pooled: sqlalchemy.pool.PoolProxiedConnection, connection: Connection) -> None:
    """Return a reader's connection as it came; one that cannot be made so is closed.

    Never committed: there is nothing to keep, and a rollback takes back any SET too.
    """
    if connection.pgconn.transaction_status != TransactionStatus.IDLE:
        # By libpq itself: Connection.rollback() would forget all prepared statements, and planning
        # is half of what reading costs.
        with suppress(psycopg.Error):
            connection.pgconn.exec_(b"ROLLBACK")
    if connection.pgconn.transaction_status == TransactionStatus.IDLE:
        pooled.close()
    else:
        pooled.invalidate()
