"""Migrations: from empty to head, back, and again; by two at once; over rows that are there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import pytest

from lb_pipelines.db.engine import Database
from lb_pipelines.db.migrate import downgrade, upgrade
from lb_pipelines.db.partitions import ensure_snapshot_months
from lb_pipelines_tests.partition_rows import fill
from lb_pipelines_tests.waiting import LIMIT_SECONDS

# Everything a migration can make, as text that does not depend on oids.
_SCHEMA = """
    SELECT 'column', format('%I.%I.%I', n.nspname, c.relname, a.attname),
           concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated,
                     a.attstorage, a.attidentity, pg_get_expr(d.adbin, d.adrelid))
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE n.nspname IN ('lb', 'lb_part') AND a.attnum > 0 AND NOT a.attisdropped
      AND c.relkind IN ('r', 'p', 'v', 'S')
  UNION ALL
    SELECT 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid)
    FROM pg_index JOIN pg_class c ON c.oid = indexrelid
    WHERE c.relnamespace::regnamespace::text IN ('lb', 'lb_part')
  UNION ALL
    SELECT 'constraint', conrelid::regclass::text || '.' || conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace::regnamespace::text IN ('lb', 'lb_part')
  UNION ALL
    SELECT 'partition', oid::regclass::text, pg_get_expr(relpartbound, oid)
    FROM pg_class WHERE relispartition AND relkind = 'p'
      AND relnamespace::regnamespace::text IN ('lb', 'lb_part')
  UNION ALL
    SELECT 'function', p.oid::regprocedure::text, pg_get_functiondef(p.oid)
    FROM pg_proc p WHERE p.pronamespace::regnamespace::text IN ('lb', 'lb_part')
  UNION ALL
    SELECT 'policy', polrelid::regclass::text || '.' || polname, pg_get_expr(polqual, polrelid)
    FROM pg_policy
    ORDER BY 1, 2, 3
"""


def schema(database: Database) -> list[tuple[object, ...]]:
    with database.transaction() as connection:
        return connection.execute(_SCHEMA).fetchall()


def version(database: Database) -> list[tuple[object, ...]]:
    with database.transaction() as connection:
        return connection.execute("SELECT version_num FROM public.lb_pipelines_schema").fetchall()


@pytest.fixture
def empty(fresh_database_url: Callable[[], str]) -> Database:
    return Database(fresh_database_url())


def test_forward_back_and_forward_again(empty: Database) -> None:
    assert schema(empty) == []
    upgrade(empty)
    first = schema(empty)
    assert len(first) > 100
    assert len(version(empty)) == 1

    downgrade(empty)
    assert schema(empty) == []
    assert version(empty) == []
    with empty.transaction() as connection:
        left = connection.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'lb%%'"
        ).fetchall()
    assert left == []

    upgrade(empty)
    assert schema(empty) == first
    empty.close()


def test_a_second_upgrade_changes_nothing_and_keeps_rows(database: Database) -> None:
    ensure_snapshot_months(database, "inst_123", date(2023, 7, 1), date(2023, 7, 1))
    rows = fill(database, "inst_123", [date(2023, 7, 3)])
    before = schema(database)
    upgrade(database)
    assert schema(database) == before
    with database.transaction() as connection:
        found = connection.execute(
            "SELECT (SELECT count(*) FROM lb.leaderboard_snapshots)"
            " + (SELECT count(*) FROM lb.leaderboard_trends)"
        ).fetchone()
    assert found == (rows,)


def test_two_upgrades_at_once_make_one_schema(empty: Database, database: Database) -> None:
    start = threading.Barrier(3)

    def migrate() -> None:
        mine = Database(empty.url)
        start.wait(LIMIT_SECONDS)
        upgrade(mine)
        mine.close()

    with ThreadPoolExecutor(3) as pool:
        for result in [pool.submit(migrate) for _ in range(3)]:
            result.result(LIMIT_SECONDS)
    assert schema(empty) == schema(database)
    assert len(version(empty)) == 1
    empty.close()


def test_a_way_back_over_leaves_and_rows(database: Database) -> None:
    for institution, budget in (("inst_123", 3_000), ("other", 0)):
        ensure_snapshot_months(
            database, institution, date(2023, 7, 1), date(2023, 8, 1), budget=budget
        )
        fill(database, institution, [date(2023, 7, 3)])
    with database.transaction() as connection:
        # 3,000 leaves in one transaction are more locks than a server holds: so a few at a time.
        connection.execute(
            "CREATE FUNCTION public.refuse_many() RETURNS event_trigger LANGUAGE plpgsql AS $$"
            " BEGIN"
            "  IF (SELECT count(*) FROM pg_event_trigger_dropped_objects()"
            "      WHERE object_type = 'table' AND schema_name = 'lb_part') > 10 THEN"
            "   RAISE EXCEPTION 'too many leaves dropped at once';"
            "  END IF;"
            " END $$"
        )
        connection.execute(
            "CREATE EVENT TRIGGER refuse_many ON sql_drop EXECUTE FUNCTION public.refuse_many()"
        )
    downgrade(database)
    assert schema(database) == []
    upgrade(database)
    assert len(schema(database)) > 100
