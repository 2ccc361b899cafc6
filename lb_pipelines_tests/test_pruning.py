"""Every question to the roots touches exactly the leaves that can answer it: held by EXPLAIN and by
the locks that were really taken. A query that stops pruning costs seconds over 3,000 leaves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date
from typing import Any

import aiosql
import pytest

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange, academic_years_around
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.partitions import (
    ensure_archive_years,
    ensure_event_months,
    ensure_snapshot_months,
)
from lb_pipelines.db.repositories import reading
from lb_pipelines.db.repositories.reading import NamedBoard
from lb_pipelines_tests.conftest import _Databases
from lb_pipelines_tests.partition_rows import SNAPSHOT, TREND, fill, locked_leaves, row

FIRST, LAST = date(2023, 6, 1), date(2024, 7, 31)
"""14 months, of which a year is asked for."""
YEAR = [f"2023-{month:02}" for month in range(7, 13)] + [
    f"2024-{month:02}" for month in range(1, 7)
]

HISTORY = """
    SELECT snapshot_date, entries FROM lb.leaderboard_snapshots
    WHERE institution_id = %(institution)s AND type = %(type)s AND reference_id = 'r0'
      AND time_granularity = 'daily' AND snapshot_date BETWEEN %(first)s AND %(last)s
"""
WHOLE = "SELECT count(*) FROM lb.leaderboard_snapshots WHERE institution_id = %(institution)s"
A_DAY = date(2024, 2, 29)
A_YEAR = {"first": date(2023, 7, 1), "last": date(2024, 6, 30), "type": "CLASS"}


@pytest.fixture(scope="module")
def district(_databases: _Databases) -> Iterator[Database]:
    """Two dedicated institutions whose ids look alike, two shared ones, 14 months each."""
    url = _databases.create(migrated=True)
    database = Database(url)
    for institution in ("a", "a_CLASS"):
        ensure_snapshot_months(database, institution, FIRST, LAST)
    ensure_snapshot_months(database, "s1", FIRST, LAST, budget=0)
    ensure_event_months(database, FIRST, LAST)
    ensure_archive_years(database, [f"{year}-{year + 1}" for year in range(2020, 2026)])
    for institution in ("a", "a_CLASS", "s1", "s2"):
        fill(database, institution, [date(2023, 8, 3), date(2024, 2, 29)])
    yield database
    database.close()
    _databases.drop(url)


def relations(plan: Any) -> set[str]:
    """The tables named anywhere in a plan."""
    if isinstance(plan, list):
        return set().union(*map(relations, plan))
    if not isinstance(plan, dict):
        return set()
    own = {plan["Relation Name"]} if "Relation Name" in plan else set()
    return own.union(*map(relations, plan.values()))


def explained(connection: Connection, query: str, parameters: dict[str, object]) -> set[str]:
    """The tables in the plan of a query with parameters bound by the server."""
    found = connection.execute(f"EXPLAIN (FORMAT JSON) {query}", parameters).fetchone()
    assert found is not None
    return relations(found[0] if not isinstance(found[0], str) else json.loads(found[0]))


@pytest.mark.parametrize(
    ("institution", "owner"), [("a", "a"), ("a_CLASS", "a_CLASS"), ("s1", "shared")]
)
@pytest.mark.parametrize("type", ["CLASS", "SUBJECT", "CAMPUS"])
def test_a_year_of_one_board_reads_its_twelve_leaves(
    district: Database, institution: str, owner: str, type: str
) -> None:
    parameters = A_YEAR | {"institution": institution, "type": type}
    twelve = {f"{owner}_{type}_{month}" for month in YEAR}
    with district.transaction() as connection:
        assert explained(connection, HISTORY, parameters) == twelve
    with district.transaction() as connection:
        assert len(connection.execute(HISTORY, parameters).fetchall()) == 2
        assert locked_leaves(connection) == twelve


@pytest.mark.parametrize(
    ("table", "suffix"), [("leaderboard_snapshots", ""), ("leaderboard_trends", ":trends")]
)
def test_one_institution_never_reads_another_s_leaf(
    district: Database, table: str, suffix: str
) -> None:
    query = WHOLE.replace("leaderboard_snapshots", table)
    for institution, owner in (("a", "a"), ("a_CLASS", "a_CLASS"), ("s1", "shared")):
        with district.transaction() as connection:
            assert connection.execute(query, {"institution": institution}).fetchone() == (12,)
            locked = locked_leaves(connection)
        expected = {
            f"{owner}_{type}_{month}{suffix}"
            for type in ("CLASS", "SUBJECT", "CAMPUS")
            for month in ["2023-06", *YEAR, "2024-07"]
        }
        assert locked == expected


def test_a_prepared_statement_prunes_however_often_it_ran(district: Database) -> None:
    mine = Database(district.url)
    with mine.autocommit() as connection:
        assert connection.execute("SHOW plan_cache_mode").fetchone() == ("force_custom_plan",)
        # More often than the five times after which PostgreSQL itself would choose a generic plan.
        for _ in range(8):
            with connection.transaction():
                for institution in ("a", "a_CLASS"):
                    parameters = A_YEAR | {"institution": institution}
                    connection.execute(HISTORY, parameters, prepare=True).fetchall()
                assert locked_leaves(connection) == {
                    f"{institution}_CLASS_{month}"
                    for institution in ("a", "a_CLASS")
                    for month in YEAR
                }
        prepared = connection.execute(
            "SELECT generic_plans, custom_plans FROM pg_prepared_statements"
            " WHERE statement LIKE '%%BETWEEN%%'"
        ).fetchall()
        assert prepared == [(0, 16)]
    mine.close()


def test_without_custom_plans_all_leaves_would_be_locked(district: Database) -> None:
    """Why `plan_cache_mode` is set: the finding, kept true by a test."""
    with district.transaction() as connection:
        connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        parameters = A_YEAR | {"institution": "a"}
        connection.execute(HISTORY, parameters, prepare=True).fetchall()
        assert len(locked_leaves(connection)) > 12


def test_a_constant_is_what_the_parameter_would_have_been(district: Database) -> None:
    query = aiosql.from_str(
        "-- name: odd(a, b, c, d, n)\nSELECT :a::text, :b::text[], :c::date, :d, :n::integer;",
        "psycopg",
    ).odd
    values = {"a": "o'x %s %(n)s \\", "b": ("a'b", "100%", '"'), "c": A_DAY, "d": True}
    with district.transaction() as connection:
        found = connection.execute(queries.with_constants(query, **values), {"n": 7}).fetchone()
        assert found == (values["a"], list(values["b"]), A_DAY, True, 7)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="no parameter z"):
        queries.with_constants(query, z=1)


@pytest.mark.parametrize(("id", "owner"), [("a", "a"), ("a_CLASS", "a_CLASS"), ("s1", "shared")])
def test_the_kept_plans_of_the_service_hold_the_leaves_of_their_months(
    district: Database, id: str, owner: str
) -> None:
    """Planned once, and with the parameters unknown: the constants alone keep others out."""
    institution = Institution(1, id, id, "ACTIVE", "UTC", 8, {})
    days = [date(2024, 2, 29), date(2023, 8, 3)]
    closing = [DayRange(days[1], days[0])]
    mine = Database(district.url)

    def asked(connection: Connection, type: BoardType, daily: Granularity) -> None:
        board = NamedBoard(1, "r0", type, "r0")
        for day in days:
            (found,) = reading.closing_snapshots(
                connection, institution, board, daily, [DayRange(day, day)], 1, student_ids=["s"]
            )
            assert found.day == day
        found_year = reading.closing_snapshots(connection, institution, board, daily, closing, 1)
        assert [one.day for one in found_year] == days[:1]
        gaps = [DayRange(days[1], days[0] - ONE_DAY)]
        found_year = reading.closing_snapshots(connection, institution, board, daily, gaps, 1)
        assert [one.day for one in found_year] == days[1:]
        assert len(reading.closing_trends(connection, institution, board, daily, closing)) == 1

    for _ in range(4):
        for type in BoardType:
            with mine.reading(id, generic_plans=True) as connection:
                asked(connection, type, Granularity.DAILY)
                held = {leaf for leaf in locked_leaves(connection) if leaf[:8] != "archive_"}
                months = [f"2023-{month:02}" for month in range(8, 13)] + ["2024-01", "2024-02"]
                assert held == {f"{owner}_{type}_{m}{s}" for m in months for s in ("", ":trends")}
        # One day: its month and no other.
        with mine.reading(id, generic_plans=True) as connection:
            board = NamedBoard(1, "r0", BoardType.CLASS, "r0")
            reading.places_of_boards(connection, institution, [board], days[0], "s")
            assert {leaf for leaf in locked_leaves(connection) if leaf[:8] != "archive_"} <= {
                f"{owner}_{type}_2024-02" for type in BoardType
            }
    plans = mine.at_once(
        lambda connection: connection.execute(
            "SELECT generic_plans, custom_plans FROM pg_prepared_statements"
            " WHERE statement LIKE '%leaderboard_%'",
            prepare=False,
        ).fetchall()
    )
    assert len(plans) > 10
    assert {custom for _, custom in plans} == {0}
    mine.close()


@pytest.mark.parametrize(("statement", "suffix"), [(SNAPSHOT, ""), (TREND, ":trends")])
@pytest.mark.parametrize(("institution", "owner"), [("a", "a"), ("s2", "shared")])
def test_writing_a_day_touches_one_leaf(
    district: Database, statement: str, suffix: str, institution: str, owner: str
) -> None:
    values = row(institution, date(2024, 2, 29), type="SUBJECT", reference="r0")
    for _ in ("new or changed", "again"):
        with district.transaction() as connection:
            connection.execute(statement, values)
            assert locked_leaves(connection) == {f"{owner}_SUBJECT_2024-02{suffix}"}


def test_a_join_with_a_loaded_table_prunes_by_the_constants_beside_it(district: Database) -> None:
    """How days are written: COPY into a temporary table, then one statement."""
    parameters = {"institution": "a", "type": "CLASS", "day": date(2024, 2, 29)}
    with district.transaction() as connection:
        connection.execute('CREATE TEMP TABLE loaded (reference_id text COLLATE "C")')
        connection.execute("INSERT INTO loaded VALUES ('r0'), ('r1')")
        cursor = connection.execute(
            "UPDATE lb.leaderboard_snapshots s SET status = 'ACTIVE' FROM loaded l"
            " WHERE s.reference_id = l.reference_id AND s.institution_id = %(institution)s"
            " AND s.type = %(type)s AND s.snapshot_date = %(day)s",
            parameters,
        )
        assert cursor.rowcount == 2
        assert locked_leaves(connection) == {"a_CLASS_2024-02"}
        connection.rollback()


# What the named queries take, all of institution `a`, type CLASS and 29 February 2024.
_PARAMETERS: dict[str, object] = {
    "institution_id": "a",
    "type": "CLASS",
    "day": date(2024, 2, 29),
    "first": date(2024, 2, 1),
    "last": date(2024, 2, 29),
    "academic_years": academic_years_around(date(2024, 2, 29)),
}


def _named() -> list[tuple[str, str]]:
    """All named queries of the two roots that ask for one day or for days of one month."""
    found = []
    for file in ("snapshots", "trends", "glances", "verification"):
        namespace = queries.load(file)
        for name in namespace.available_queries:
            text = getattr(namespace, name).sql
            taken = set(re.findall(r"%\((\w+)\)s", text))
            if (
                not name.endswith("_cursor")
                and {"institution_id", "type"} <= taken
                and (taken & {"day", "first"} and "next_day" not in taken)
            ):
                found.append((file, name))
    return found


@pytest.mark.parametrize(("file", "name"), _named())
def test_a_named_query_of_one_day_touches_one_leaf(
    district: Database, file: str, name: str
) -> None:
    text = getattr(queries.load(file), name).sql
    with district.transaction() as connection:
        queries.snapshots.prepare_stage(connection)
        queries.trends.prepare_stage(connection)
        others = {
            **{"method": "competition", "limits": "{}", "at_most": 5, "institution_key": 1},
            **{"days": [date(2024, 2, 29)], "references": ["r0"], "granularities": ["daily"]},
        }
        connection.execute(f"EXPLAIN {text}", _PARAMETERS | others)
        suffix = ":trends" if "leaderboard_trends" in text else ""
        # What only inserts takes its locks when the first row comes.
        years = {f"archive_{year}" for year in academic_years_around(date(2024, 2, 29))}
        assert locked_leaves(connection) <= {f"a_CLASS_2024-02{suffix}", *years}
        assert locked_leaves(connection) or name == "upsert"


def test_a_day_of_events_reads_one_month(district: Database) -> None:
    with district.transaction() as connection:
        assert explained(
            connection,
            "SELECT sum(amount) FROM lb.student_points WHERE institution_key = %(key)s"
            " AND occurred_at >= %(low)s AND occurred_at < %(high)s",
            {"key": 1, "low": "2024-02-28T21:00Z", "high": "2024-03-01T00:00Z"},
        ) == {"student_points_2024-02"}
