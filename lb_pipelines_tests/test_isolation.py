"""Institutions apart, twice: every query names its institution, and where one forgot to, row level
security still shows nothing of another. Held for all that the service reads; for who may read what;
for pooled connections; and for owners who are no superusers, whom the same policies bind.
"""

from __future__ import annotations

import ast
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import URL, make_url

import lb_pipelines
from lb_pipelines.core.day_starts import find_day_starts
from lb_pipelines.core.periods import DayRange, academic_years_around
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.core.zones import load_zone
from lb_pipelines.db import queries
from lb_pipelines.db.embedded import EmbeddedServer
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.migrate import downgrade, upgrade
from lb_pipelines.db.migrations.versions.m0003_reading import _MAKE_ROLES
from lb_pipelines.db.partitions import demote, ensure_archive_years, promote
from lb_pipelines.errors import InvalidInstitution, MissingRole
from lb_pipelines.materialize import aggregates, snapshots, trends
from lb_pipelines.materialize.results import Provenance
from lb_pipelines_tests import stored, worlds
from lb_pipelines_tests.conftest import _SERVER_SETTINGS, _Databases, libpq_url
from lb_pipelines_tests.waiting import LIMIT_SECONDS

PACKAGE = Path(lb_pipelines.__file__).parent
RUN = Provenance("run")
READ, VICTIM, EMPTY = "inst_a", "inst_b", "inst_c"
DAY = date(2024, 1, 1)
ARCHIVED_DAY = DAY - timedelta(days=1)
# What lb_reader may see, each under a policy; everything else in lb and lb_part is refused.
SEEN = {
    *("institutions", "campuses", "subjects", "terms", "classes", "students", "enrollments"),
    *("student_points", "point_aggregates", "point_pairs", "point_totals", "materialized_days"),
    "input_changes",
    *("leaderboard_snapshots", "leaderboard_trends", "archived_leaderboard_snapshots"),
}


def materialize(database: Database, institution_id: str, days: DayRange, school: Any) -> None:
    """Load a school and make all its boards and trends of these days."""
    institution = worlds.load(database, school)
    assert institution.id == institution_id
    list(aggregates.materialize(database, institution, days, RUN))
    for type in BoardType:
        list(snapshots.materialize(database, institution, type, days, RUN))
        list(trends.materialize(database, institution, type, days, RUN))


@pytest.fixture(scope="module")
def twins(_databases: _Databases) -> Iterator[Database]:
    """Two institutions with equal ids of everything, and one that has nothing."""
    database = Database(_databases.create(migrated=True))
    for id in (READ, VICTIM):
        school = worlds.make_school(7, id=id, moment=("UTC", DAY), span=20, events=200)
        materialize(database, id, DayRange(DAY - timedelta(days=5), DAY), school)
    ensure_archive_years(database, academic_years_around(ARCHIVED_DAY))
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO lb.institutions (id, name, time_zone) VALUES (%s, 'C', 'UTC')", (EMPTY,)
        )
        connection.execute(
            "INSERT INTO lb.archived_leaderboard_snapshots (archive_run, created_at, snapshot_date,"
            " period_start, institution_id, type, reference_id, time_granularity, academic_year,"
            " content_hash, entries, metadata, distribution)"
            " SELECT 1, created_at, snapshot_date, period_start, institution_id, type,"
            " reference_id, time_granularity, '2023-2024', content_hash, entries, metadata,"
            " distribution FROM lb.leaderboard_snapshots WHERE snapshot_date = %s",
            (ARCHIVED_DAY,),
        )
        connection.execute(
            "DELETE FROM lb.leaderboard_snapshots WHERE snapshot_date = %s", (ARCHIVED_DAY,)
        )
        # A total that both of them have, in what it is asked by.
        connection.execute(
            "UPDATE lb.point_totals SET through_revision = 1000000,"
            " block_students = ARRAY[1], blocks = 'packed'"
        )
    yield database
    database.close()
    _databases.drop(database.url)


# Every query that the service runs.


def repository_queries() -> set[tuple[str, str]]:
    """(file, name) of every named query that a function of a repository runs which the service
    calls, itself or through others of its module."""
    found: set[tuple[str, str]] = set()
    for path in (PACKAGE / "service").glob("*.py"):
        tree = ast.parse(path.read_text())
        modules = {
            alias.asname or alias.name: alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "lb_pipelines.db.repositories"
            for alias in node.names
        }
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in modules
            ):
                found |= _queries_of(modules[node.value.id], node.attr)
    return found


def _queries_of(module: str, function: str) -> set[tuple[str, str]]:
    tree = ast.parse((PACKAGE / "db" / "repositories" / f"{module}.py").read_text())
    named = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    values = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    texts, left, seen = [], [function], set()
    while left:
        name = left.pop()
        node: ast.AST | None = named.get(name) or values.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        texts.append(ast.unparse(node))
        left += [inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)]
    text = "\n".join(texts)
    found = set(re.findall(r"\bqueries\.(\w+)\.(\w+)", text))
    for file, family in re.findall(r"getattr\(queries\.(\w+), f'(.+?)'\)", text):
        pattern = re.sub(r"\{.*?\}", r"\\w+", family)
        names = queries.load(file).available_queries
        found |= {(file, n) for n in names if re.fullmatch(pattern, n)}
    return {(file, name) for file, name in found if not name.endswith("_cursor")}


# Read as the owner, because it is asked at every reading; refused to lb_reader altogether.
_AS_OWNER = {("versions", "version_of"), ("versions", "raise_versions")}
_CONDITION = re.compile(
    r"(?:\b\w+\.)?institution_(?:id|key)\s*=\s*%\(institution_(?:id|key)\)s"
    r"|(?:\b\w+\.)?\bid\s*=\s*%\((?:id|institution_id)\)s"
)


def without_institution(text: str) -> str:
    """The query with its conditions on the institution dropped; it must have had some."""
    dropped, count = _CONDITION.subn("true", text)
    assert count, "the query has no condition on the institution"
    left = set(re.findall(r"%\((institution_\w+)\)s", dropped))
    assert not left, f"{left} stands in the query in a way that this test cannot drop"
    return dropped


@pytest.fixture(scope="module")
def parameters(twins: Database) -> dict[str, Any]:
    """For every parameter a value that asks for what the victim has."""
    with twins.transaction() as connection:

        def one(query: str) -> Any:
            row = connection.execute(query, {"id": VICTIM, "day": DAY}).fetchone()
            assert row is not None, query
            return row[0]

        key = one("SELECT institution_key FROM lb.institutions WHERE id = %(id)s")
        reference, student = connection.execute(
            "SELECT reference_id, entries -> 0 ->> 'studentId' FROM lb.leaderboard_trends t"
            " JOIN lb.leaderboard_snapshots USING (institution_id, type, reference_id,"
            " time_granularity, snapshot_date) WHERE institution_id = %s AND type = 'CLASS'"
            " AND time_granularity = 'all-time' AND snapshot_date = %s ORDER BY 1 LIMIT 1",
            (VICTIM, DAY),
        ).fetchone() or pytest.fail("the world has no board of a class")
        class_key, student_key = connection.execute(
            "SELECT (SELECT class_key FROM lb.classes WHERE institution_key = %(key)s"
            "  AND id = %(reference)s), (SELECT student_key FROM lb.students"
            "  WHERE institution_key = %(key)s AND id = %(student)s)",
            {"key": key, "reference": reference, "student": student},
        ).fetchone() or pytest.fail("unreachable")
    first = DAY - timedelta(days=30)
    return {
        "type": "CLASS",
        "reference_id": reference,
        "granularity": "all-time",
        "class_key": class_key,
        "student_key": student_key,
        "student_id": student,
        "place": student,
        "student_ids": [student],
        "keys": [student_key],
        "asset": "class_snapshots",
        "assets": ["class_snapshots"],
        "days": [DAY - timedelta(days=n) for n in range(5)],
        "edges": [first, DAY + timedelta(days=1)],
        "revisions": [0],
        "least_days": 1,
        "block_bytes": 28,
        "whole": True,
        "day": DAY,
        "before": DAY,
        "through_revision": 1_000_000,
        "first_slot": 0,
        "first": first,
        "last": DAY,
        "firsts": [first],
        "lasts": [DAY],
        **find_day_starts(load_zone("UTC"), DayRange(first, DAY)).parameters,
        "at_most": 100,
        "years": ["2022-2023", "2023-2024"],
        "first_ids": [f"{VICTIM}:CLASS:{reference}:all-time:{first}"],
        "last_ids": [f"{VICTIM}:CLASS:{reference}:all-time:{DAY}"],
        "types": ["CLASS"],
        "references": [reference],
        "ids": [
            f"{VICTIM}:CLASS:{reference}:{g}:{d}" for g in Granularity for d in (DAY, ARCHIVED_DAY)
        ],
    }


def rows(connection: Connection, text: str, values: dict[str, Any]) -> list[str]:
    """The rows of a query, in an order of their own."""
    return sorted(map(repr, connection.execute(text, values).fetchall()))


@pytest.mark.parametrize(("file", "name"), sorted(repository_queries() - _AS_OWNER))
def test_a_query_that_forgets_its_institution_sees_no_other(
    twins: Database, parameters: dict[str, Any], file: str, name: str
) -> None:
    text = getattr(queries.load(file), name).sql
    forgetful = without_institution(text)
    unknown = set(re.findall(r"%\((\w+)\)s", text)) - parameters.keys()
    unknown -= {"institution_id", "institution_key", "id"}
    assert not unknown, f"say in the fixture `parameters` what {unknown} is"
    for id in (READ, EMPTY):
        with twins.reading(id) as connection:
            found = connection.execute("SELECT institution_key FROM lb.institutions").fetchall()
            ((key,),) = found
            values = parameters | {"institution_id": id, "institution_key": key, "id": id}
            honest = rows(connection, text, values)
            assert rows(connection, forgetful, values) == honest
    # Without the policies it would have been seen: else nothing is shown by the above.
    with twins.transaction() as connection:
        assert rows(connection, forgetful, values) != honest


def test_all_queries_of_the_service_are_found() -> None:
    found = repository_queries()
    everything = queries.load("reading").available_queries
    assert {n for f, n in found if f == "reading"} == {
        n for n in everything if not n.endswith("_cursor")
    }
    assert {("institutions", "find"), ("institutions", "terms")} <= found


@pytest.mark.parametrize(("file", "name"), sorted(_AS_OWNER))
def test_what_runs_as_the_owner_is_refused_to_a_reader(
    twins: Database, file: str, name: str
) -> None:
    values = {"institution_id": READ, "institution_key": 1, "types": ["CLASS"], "months": [DAY]}
    with twins.transaction() as connection:
        connection.execute("SET LOCAL ROLE lb_reader")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(
                getattr(queries.load(file), name).sql, values | {"first": DAY, "last": DAY}
            )
        connection.rollback()


# Who may read what.


def test_a_reader_sees_the_roots_and_dimensions_and_nothing_else(twins: Database) -> None:
    with twins.transaction() as connection:
        relations = connection.execute(
            "SELECT relnamespace::regnamespace::text, relname::text, oid, relrowsecurity,"
            " relforcerowsecurity FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f')"
            " AND relnamespace IN ('lb'::regnamespace, 'lb_part'::regnamespace)"
        ).fetchall()
        for schema, relation, oid, enabled, forced in relations:
            seen = schema == "lb" and relation in SEEN
            may = (
                {
                    privilege
                    for (privilege,) in connection.execute(
                        "SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) p"
                        " WHERE has_any_column_privilege('lb_reader', %(oid)s::oid, p)"
                        " UNION SELECT p FROM unnest(ARRAY['DELETE', 'TRUNCATE', 'TRIGGER']) p"
                        " WHERE has_table_privilege('lb_reader', %(oid)s::oid, p)",
                        {"oid": oid},
                    )
                }
                if relation not in {"aggregate_revisions"}
                else set()
            )
            assert may == ({"SELECT"} if seen else set()), relation
            assert (enabled, forced) == (seen, seen), relation
        assert {relation for schema, relation, *_ in relations if schema == "lb"} >= SEEN
        schemas = connection.execute(
            "SELECT n, p FROM unnest(ARRAY['lb', 'lb_part']) n, unnest(ARRAY['USAGE', 'CREATE']) p"
            " WHERE has_schema_privilege('lb_reader', n, p)"
        ).fetchall()
        assert schemas == [("lb", "USAGE")]


@pytest.mark.parametrize(
    "statement",
    [
        'SELECT FROM lb_part."shared:all"',
        "SELECT FROM lb.archive_runs",
        "SELECT FROM lb.erasures",
        "SELECT FROM lb.point_aggregate_cells",
        "SELECT erasure_salt FROM lb.institutions",
        "SELECT nextval('lb.aggregate_revisions')",
        "INSERT INTO lb.subjects (institution_key, id, name) VALUES (1, 'x', 'x')",
        "UPDATE lb.leaderboard_snapshots SET status = 'ARCHIVED'",
        "DELETE FROM lb.students",
        "TRUNCATE lb.leaderboard_trends",
        "CREATE TABLE lb.mine (x integer)",
    ],
)
def test_a_reader_is_refused(twins: Database, statement: str) -> None:
    with twins.transaction() as connection:
        # Not only because `reading` is read only.
        connection.execute("SET LOCAL ROLE lb_reader")
        connection.execute(f"SET LOCAL app.institution_id = '{READ}'")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)
        connection.rollback()


def test_a_leaf_is_refused_too(twins: Database) -> None:
    with twins.transaction() as connection:
        leaves = connection.execute(
            "SELECT relname::text FROM pg_class WHERE relkind = 'r'"
            " AND relnamespace = 'lb_part'::regnamespace"
        ).fetchall()
    assert len(leaves) > 10
    for (leaf,) in leaves:
        with twins.reading(READ) as connection:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f'SELECT FROM lb_part."{leaf}"')


@pytest.mark.parametrize("setting", [None, "", "nobody", "inst_%", f"{READ}' OR true --"])
def test_without_an_institution_there_is_no_row(twins: Database, setting: str | None) -> None:
    with twins.transaction() as connection:
        connection.execute("SET LOCAL ROLE lb_reader")
        if setting is not None:
            connection.execute("SELECT set_config('app.institution_id', %s, true)", (setting,))
        for relation in sorted(SEEN):
            assert connection.execute(f"SELECT count(*) FROM lb.{relation}").fetchone() == (0,)
        connection.rollback()


def test_with_one_there_are_its_rows(twins: Database) -> None:
    with twins.reading(READ) as connection:
        for relation in sorted(SEEN):
            ((mine,),) = connection.execute(f"SELECT count(*) FROM lb.{relation}").fetchall()
            assert mine > 0, relation
    with twins.transaction() as connection:
        for relation in sorted(SEEN - {"institutions"}):
            column = "institution_id" if "leaderboard" in relation else "institution_key"
            both = connection.execute(
                f"SELECT count(DISTINCT {column}) FROM lb.{relation}"
            ).fetchone()
            assert both == (2,), relation


def test_an_id_that_is_none_is_refused_before_any_statement(twins: Database) -> None:
    for id in ("", "shared", "a'; RESET ROLE; --"):
        with pytest.raises(InvalidInstitution), twins.reading(id):
            pass


# Connections of a pool.


_STATE = (
    "SELECT pg_backend_pid(), current_user::text, current_setting('app.institution_id', true),"
    " current_setting('transaction_isolation'), current_setting('transaction_read_only'),"
    " current_setting('search_path'), current_setting('plan_cache_mode')"
)


def state(connection: Connection) -> tuple[Any, ...]:
    row = connection.execute(_STATE).fetchone()
    assert row is not None
    return row


@pytest.fixture
def reader(twins: Database) -> Iterator[Database]:
    """A pool of its own on the same database."""
    database = Database(twins.url)
    yield database
    database.close()


def ids(connection: Connection) -> list[str]:
    found = connection.execute(
        "SELECT id FROM lb.institutions UNION SELECT institution_id FROM lb.leaderboard_snapshots"
        " UNION SELECT coalesce(i.id, 'another')"
        " FROM lb.students LEFT JOIN lb.institutions i USING (institution_key)"
    )
    return sorted(id for (id,) in found)


def test_nothing_is_left_on_a_connection(reader: Database) -> None:
    pid, owner, *rest = reader.at_once(state)
    clean = [None, "read committed", "off", *rest[-2:]]
    assert rest == clean
    with reader.reading(READ) as connection:
        inside = state(connection)
        assert inside[:5] == (pid, "lb_reader", READ, "repeatable read", "on")
        # A plan that is kept cannot prune.
        assert inside[-1] == "force_custom_plan"
        # Not LOCAL, so a commit would keep them.
        connection.execute(f"SET app.institution_id = '{VICTIM}'")
        connection.execute("SET search_path = lb")
        connection.execute("SET SESSION AUTHORIZATION DEFAULT")
    clean[0] = ""  # PostgreSQL's own way to say that a setting was known once.
    assert reader.at_once(state) == (pid, owner, *clean)

    with pytest.raises(psycopg.errors.DivisionByZero), reader.reading(READ) as connection:
        connection.execute("SELECT 1 / 0")
    assert reader.at_once(state) == (pid, owner, *clean)
    with pytest.raises(KeyError), reader.reading(READ):
        raise KeyError
    assert reader.at_once(state) == (pid, owner, *clean)

    # The very same connection, for another institution.
    with reader.reading(VICTIM) as connection:
        assert state(connection)[:3] == (pid, "lb_reader", VICTIM)
        assert ids(connection) == [VICTIM]


def test_a_block_that_ends_its_transaction_is_told_so(reader: Database) -> None:
    for end in (psycopg.Connection.commit, psycopg.Connection.rollback):
        with pytest.raises(RuntimeError, match="ended its own transaction"):
            with reader.reading(READ) as connection:
                end(connection)


def test_a_plan_that_is_kept_belongs_to_whoever_runs_it(reader: Database) -> None:
    """Prepared statements outlive the transaction; whom they are for does not."""
    count = "SELECT count(*) FROM lb.students"

    def found(connection: Connection) -> int:
        row = connection.execute(count, prepare=True).fetchone()
        assert row is not None
        return int(row[0])

    own, prepared = {}, 0
    for _ in range(4):
        for id in (READ, VICTIM, EMPTY):
            with reader.reading(id, generic_plans=True) as connection:
                assert own.setdefault(id, found(connection)) == found(connection)
                (prepared,) = connection.execute(
                    "SELECT count(*) FROM pg_prepared_statements WHERE statement = %s", (count,)
                ).fetchone() or (0,)
        assert reader.at_once(found) == sum(own.values())
    assert prepared == 1
    assert own[READ] == own[VICTIM] > own[EMPTY] == 0


def test_threads_that_share_a_pool_never_meet(reader: Database) -> None:
    owner = reader.at_once(state)[1]
    start = threading.Barrier(6)

    def read(number: int) -> None:
        start.wait(LIMIT_SECONDS)
        for turn in range(40):
            id = (READ, VICTIM, EMPTY)[(number + turn) % 3]
            if turn % 5 == 4:
                assert reader.at_once(state)[1] == owner
            with reader.reading(id) as connection:
                assert ids(connection) == [id]

    with ThreadPoolExecutor(6) as pool:
        for result in [pool.submit(read, number) for number in range(6)]:
            result.result(LIMIT_SECONDS)


def test_connections_that_the_server_has_ended_are_replaced(
    reader: Database, twins: Database
) -> None:
    for _ in range(2):
        with reader.reading(READ) as one, reader.reading(VICTIM) as other:
            pids = [state(one)[0], state(other)[0]]
        with twins.transaction() as connection:
            for pid in pids:
                connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        with reader.reading(READ) as one, reader.reading(VICTIM) as other:
            assert ids(one) + ids(other) == [READ, VICTIM]
        assert reader.at_once(state)[0] not in pids


# Owners, superusers or not.


def owned(server: URL, role: str, name: str, *, options: str = "") -> Database:
    """An empty database of a role that is no superuser."""
    with psycopg.connect(libpq_url(server), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret' {options}")
        connection.execute(f"CREATE DATABASE {name} OWNER {role} TEMPLATE template0")
    return Database(server.set(username=role, password="secret", database=name))


def live_as(database: Database) -> None:
    """All that an owner does: boards and trends, again, moves out of and into `shared`."""
    moment = ("UTC", DAY)
    school = worlds.make_school(7, id=READ, moment=moment, span=20, events=200)
    days = DayRange(DAY - timedelta(days=3), DAY)
    materialize(database, READ, days, school)
    materialize(database, VICTIM, days, worlds.make_school(8, id=VICTIM, moment=moment, span=20))
    made = {type: list(days) for type in ("CLASS", "SUBJECT", "CAMPUS")}
    rows = stored.assert_snapshots_equal_the_reference(database, school, made)
    assert rows > 10
    before = stored.snapshots(database, READ)
    for move in (demote, promote, demote):
        moved = move(database, READ)
        assert moved >= rows
        assert stored.snapshots(database, READ) == before
    with database.reading(READ) as connection:
        assert ids(connection) == [READ]
        assert connection.execute("SELECT count(*) FROM lb.leaderboard_snapshots").fetchone() == (
            rows,
        )


@pytest.fixture
def server(_databases: _Databases) -> Iterator[URL]:
    """The session's server; what `owned` makes there under this name is dropped afterwards."""
    yield _databases.server
    with psycopg.connect(libpq_url(_databases.server), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS lb_test_owned WITH (FORCE)")
        connection.execute("DROP ROLE IF EXISTS lb_test_owner")


def test_an_owner_who_may_make_no_roles_is_told_what_to_do(twins: Database, server: URL) -> None:
    database = owned(server, "lb_test_owner", "lb_test_owned")
    with pytest.raises(MissingRole, match='GRANT lb_reader, lb_worker TO "lb_test_owner"'):
        upgrade(database)
    with twins.transaction() as connection:
        connection.execute("GRANT lb_reader, lb_worker TO lb_test_owner")
    upgrade(database)
    live_as(database)
    with twins.transaction() as connection:
        connection.execute("REVOKE lb_reader FROM lb_test_owner")
    with pytest.raises(MissingRole), database.reading(READ):
        pass
    database.close()


def test_an_owner_who_may_make_roles_needs_nobody() -> None:
    """On a server of its own, because roles belong to all of it: three databases at once."""
    home = Path(tempfile.mkdtemp(prefix="lb-tests-", dir="/tmp"))
    home.chmod(0o711)
    server = EmbeddedServer(home, settings=_SERVER_SETTINGS)
    try:
        url = make_url(server.start())
        first = owned(url, "lb_test_owner", "lb_test_0", options="CREATEROLE")
        with psycopg.connect(libpq_url(url), autocommit=True) as connection:
            for number in (1, 2):
                connection.execute(f"CREATE DATABASE lb_test_{number} OWNER lb_test_owner")
        databases = [first, *(Database(first.url.set(database=f"lb_test_{n}")) for n in (1, 2))]
        start = threading.Barrier(3)

        # The rest of a migration is no business of another database; Alembic is not for threads.
        def make_roles(database: Database) -> None:
            with database.transaction() as connection:
                start.wait(LIMIT_SECONDS)
                connection.execute(_MAKE_ROLES)

        with ThreadPoolExecutor(3) as pool:
            for result in [pool.submit(make_roles, database) for database in databases]:
                result.result(LIMIT_SECONDS)
        for database in databases:
            upgrade(database)
        live_as(first)

        def roles() -> list[tuple[Any, ...]]:
            with databases[0].transaction() as connection:
                return connection.execute(
                    "SELECT rolname FROM pg_roles WHERE rolname IN ('lb_reader', 'lb_worker')"
                ).fetchall()

        for database in databases:
            # Until the last of the cluster has gone back.
            assert len(roles()) == 2
            downgrade(database, "0002")
        assert roles() == []
        upgrade(databases[1])
        assert len(roles()) == 2
        for database in databases:
            database.close()
    finally:
        server.destroy()
        shutil.rmtree(home, ignore_errors=True)


def test_an_owner_outside_lb_worker_sees_nothing(twins: Database, server: URL) -> None:
    """Why FORCE: what a policy does not open stays shut, to owners too."""
    database = owned(server, "lb_test_owner", "lb_test_owned")
    with twins.transaction() as connection:
        connection.execute("GRANT lb_reader, lb_worker TO lb_test_owner")
    upgrade(database)
    worlds.load(database, worlds.make_school(7, id=READ))
    count = "SELECT count(*) FROM lb.students"
    with database.transaction() as connection:
        assert connection.execute(count).fetchone() == (6,)
    with twins.transaction() as connection:
        connection.execute("REVOKE lb_worker FROM lb_test_owner")
    with database.transaction() as connection:
        assert connection.execute(count).fetchone() == (0,)
    database.close()


def test_migrations_lock_no_leaf_of_snapshots(fresh_database_url: Callable[[], str]) -> None:
    """With those of trends 3,000 are more than a server has locks for; and each is somebody's. A
    column more of trends (0008) locks theirs.
    """
    database = Database(fresh_database_url())
    upgrade(database)
    materialize(
        database,
        READ,
        DayRange(DAY, DAY),
        worlds.make_school(7, id=READ, moment=("UTC", DAY), span=20),
    )
    downgrade(database, "0002")
    options = {"options": "-c lock_timeout=1s"}
    hurried = Database(database.url.update_query_dict(options))
    with database.transaction() as connection:
        leaves = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r'"
            " AND relnamespace = 'lb_part'::regnamespace AND relname NOT LIKE 'student_points%'"
            " AND relname NOT LIKE '%trends%'"
        ).fetchall()
        for (leaf,) in leaves:
            connection.execute(f'LOCK TABLE lb_part."{leaf}" IN ACCESS EXCLUSIVE MODE')
        upgrade(hurried)
        downgrade(hurried, "0002")
        upgrade(hurried)
    database.close()
    hurried.close()
