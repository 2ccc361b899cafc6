"""Sweeps: what goes where, with which term and year; beside others, stopped half way, refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import pytest
from sqlalchemy.engine import URL

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import institution_term
from lb_pipelines.core.selection import ArchiveSelection
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.partitions import ensure_archive_years
from lb_pipelines.db.repositories import archive_ledger, holds, institutions, writers
from lb_pipelines.db.repositories.revisions import Renewal
from lb_pipelines.errors import ArchiveContradicted, InvalidSetting
from lb_pipelines.retention import sweeping
from lb_pipelines.retention.restoring import restore
from lb_pipelines.retention.sweeping import Swept, sweep
from lb_pipelines_tests import retention_rows as rows
from lb_pipelines_tests.conftest import _Databases
from lb_pipelines_tests.partition_rows import locked_leaves
from lb_pipelines_tests.retention_rows import ACTOR, Live
from lb_pipelines_tests.waiting import wait_until

TODAY = date(2024, 3, 1)
OLD = [date(2023, 7, 31), date(2023, 8, 1), date(2024, 1, 30)]
"""With the default retention of daily boards, the last of these expired today."""
DAILY = Granularity.DAILY
ONE_DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def prepared(_databases: _Databases) -> Iterator[URL]:
    """A database with the institution and its leaves, to be copied: leaves take their time."""
    url = _databases.create(migrated=True)
    database = Database(url)
    rows.add_institution(database, "inst", months=(date(2023, 7, 1), date(2024, 3, 1)), budget=None)
    ensure_archive_years(database, ["2022-2023", "2023-2024"])
    database.close()
    yield url
    _databases.drop(url)


@pytest.fixture
def database(_databases: _Databases, prepared: URL) -> Iterator[Database]:
    url = _databases.copy(prepared)
    database = Database(url)
    yield database
    database.close()
    _databases.drop(url)


@pytest.fixture
def school(database: Database) -> Institution:
    with database.transaction() as connection:
        return institutions.find(connection, "inst")


def swept(database: Database, school: Institution, **options: Any) -> Swept:
    return sweep(database, school, DAILY, TODAY, ACTOR, **options)


def test_what_has_expired_is_archived_and_marked_and_the_rest_left(
    database: Database, school: Institution
) -> None:
    granularities = (DAILY, Granularity.TERM)
    made = rows.fill(
        database, school, [*OLD, date(2024, 1, 31), TODAY], granularities=granularities
    )
    old = {key: content for key, content in made.items() if key[2] == DAILY and key[3] in OLD}
    done = swept(database, school)
    assert (done.rows, done.left, done.cutoff) == (len(old), 0, date(2024, 1, 31))
    assert rows.live(database, school) == {
        key: Live("ARCHIVED" if key in old else "ACTIVE", content) for key, content in made.items()
    }
    copies = rows.archived(database, school)
    assert {key: copy.content for key, copy in copies.items()} == old
    assert {key[3]: copy.academic_year for key, copy in copies.items()} == {
        date(2023, 7, 31): "2022-2023",
        date(2023, 8, 1): "2023-2024",
        date(2024, 1, 30): "2023-2024",
    }
    with database.transaction() as connection:
        [line] = archive_ledger.latest(connection, school)
        assert archive_ledger.totals_of(connection, school, TODAY)[DAILY].digest == done.digest
    assert line.archive_run == done.archive_run
    assert (line.rows, line.bytes, line.digest) == (done.rows, done.bytes, done.digest)
    assert line.digest == rows.digest(school, old)
    assert (line.started_by, line.run_id) == ("a test", "run-1")
    assert line.finished_at is not None
    again = swept(database, school)
    assert (again.rows, again.archive_run) == (0, None)


def test_a_snapshot_keeps_its_revision_on_the_way_there_and_back(
    database: Database, school: Institution
) -> None:
    rows.fill(database, school, OLD[:1], types=[BoardType.CLASS])
    swept(database, school)
    with database.transaction() as connection:
        anew = {("r", DAILY): 7}
        renewal = Renewal("run", TODAY)
        rows.materialize(connection, school, BoardType.CLASS, OLD[0], anew, renewal=renewal)
    restore(database, school, ArchiveSelection(), TODAY, TODAY, ACTOR)
    sweep(database, school, DAILY, TODAY + ONE_DAY, ACTOR)
    [copy] = rows.archived(database, school).values()
    assert (copy.content, copy.revision) == (7, 2)


TERMS = [
    ("autumn", date(2023, 9, 1), date(2024, 1, 31)),
    ("year", date(2023, 9, 1), date(2024, 6, 30)),
    ("late", date(2024, 1, 10), date(2024, 1, 20)),
    ("lathe", date(2024, 1, 10), date(2024, 1, 20)),
    ("other", date(2024, 1, 15), date(2024, 1, 31)),
]
CLASSES = [("c_autumn", "maths", "autumn"), ("c_year", "maths", "year"), ("c_late", "art", "late")]
CLASSES += [("c_lathe", "art", "lathe"), ("c_other", "music", "other")]


def add_terms(connection: Connection, school: Institution) -> None:
    for id, first, last in TERMS:
        connection.execute(
            "INSERT INTO lb.terms (institution_key, id, name, starts_on, ends_on)"
            " VALUES (%s, %s, %s, %s, %s)",
            (school.key, id, id, first, last),
        )
    for id in ("maths", "art", "music", "idle"):
        connection.execute(
            "INSERT INTO lb.subjects (institution_key, id, name) VALUES (%s, %s, %s)",
            (school.key, id, id),
        )
    for id, subject, term in CLASSES:
        connection.execute(
            "INSERT INTO lb.classes (institution_key, id, name, subject_key, term_key)"
            " SELECT i, %s, %s,"
            " (SELECT subject_key FROM lb.subjects WHERE institution_key = i AND id = %s),"
            " (SELECT term_key FROM lb.terms WHERE institution_key = i AND id = %s)"
            " FROM (VALUES (%s::integer)) AS v (i)",
            (id, id, subject, term, school.key),
        )


def test_a_copy_carries_the_term_of_its_board(database: Database, school: Institution) -> None:
    neighbour = rows.add_institution(database, "neighbour")
    with database.transaction() as connection:
        # The same ids in another institution, other terms.
        add_terms(connection, neighbour)
        connection.execute("UPDATE lb.terms SET id = 'wrong ' || id, starts_on = '2020-01-01'")
        add_terms(connection, school)
        terms = institutions.terms(connection, school)
    days = [date(2023, 8, 31), date(2023, 9, 1), date(2024, 1, 10), date(2024, 1, 20)]
    days += [date(2024, 1, 15), date(2024, 1, 30)]
    classes, subjects = [c for c, _, _ in CLASSES], ["maths", "art", "music", "idle"]
    rows.fill(database, school, days, types=[BoardType.CLASS], references=[*classes, "gone"])
    rows.fill(database, school, days, types=[BoardType.SUBJECT], references=subjects)
    rows.fill(database, school, days, types=[BoardType.CAMPUS], references=["campus"])
    swept(database, school)
    found = rows.archived(database, school)
    assert len(found) == len(days) * (len(classes) + 1 + len(subjects) + 1)
    of_class = {id: term for id, _, term in CLASSES}
    for (type, reference, _, day), copy in found.items():
        expected: str | None
        if type == "CLASS":
            # Its own, whether or not it holds the day.
            expected = of_class.get(reference)
        else:
            held = {term for _, subject, term in CLASSES if subject == reference}
            chosen = [t for t in terms if type == "CAMPUS" or t.id in held]
            term = institution_term(chosen, day)
            expected = None if term is None else term.id
        assert copy.term_id == expected, (type, reference, day)
    # What the rule above comes to, said once by hand.
    assert found["SUBJECT", "maths", "daily", date(2024, 1, 10)].term_id == "year"
    assert found["SUBJECT", "art", "daily", date(2024, 1, 20)].term_id == "late"
    assert found["CAMPUS", "campus", "daily", date(2024, 1, 20)].term_id == "other"
    assert found["SUBJECT", "idle", "daily", date(2024, 1, 20)].term_id is None


def test_the_year_begins_in_the_institution_s_own_month(database: Database) -> None:
    months = (date(2023, 7, 1), date(2023, 7, 1))
    school = rows.add_institution(database, "july", months=months, start_month=7)
    rows.fill(database, school, OLD[:1])
    swept(database, school)
    assert {copy.academic_year for copy in rows.archived(database, school).values()} == {
        "2023-2024"
    }


class Stopped(Exception):
    pass


def test_a_sweep_that_was_stopped_goes_on(database: Database, school: Institution) -> None:
    # More batches than can be on their way while the first is told of.
    made = rows.fill(database, school, OLD, references=[f"r{n}" for n in range(20)])

    def stop(moved: object) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        swept(database, school, batch_rows=2, on_batch=stop)
    with database.transaction() as connection:
        [line] = archive_ledger.latest(connection, school)
    first = rows.archived(database, school)
    # What was on its way beside the first batch has come through.
    assert 2 <= line.rows == len(first) < len(made)
    assert line.digest == rows.digest(school, {key: copy.content for key, copy in first.items()})
    assert line.finished_at is None
    done = swept(database, school, batch_rows=2)
    assert done.rows == len(made) - len(first)
    assert rows.archived(database, school).keys() == made.keys()


def test_what_others_are_writing_is_left_and_said_so(
    database: Database, school: Institution
) -> None:
    made = rows.fill(database, school, OLD)
    pauses: list[float] = []
    with database.transaction() as writer:
        writer.execute(
            "SELECT FROM lb.leaderboard_snapshots WHERE institution_id = 'inst'"
            " AND type = 'CLASS' FOR UPDATE"
        )
        done = swept(database, school, tries=3, sleep=pauses.append)
        assert (done.rows, done.left) == (len(made) - 3, 3)
        assert pauses == [sweeping.PAUSE] * 2
        writer.rollback()
        # Let go while the sweep waits: it takes them after all.
        writer.execute(
            "SELECT FROM lb.leaderboard_snapshots WHERE institution_id = 'inst'"
            " AND type = 'CLASS' FOR UPDATE"
        )
        done = swept(database, school, sleep=lambda _: writer.rollback())
    assert (done.rows, done.left) == (3, 0)


def test_two_sweeps_at_once_share_the_work(database: Database, school: Institution) -> None:
    days = [date(2023, 9, 1) + n * ONE_DAY for n in range(60)]
    made = rows.fill(database, school, days, references=["a", "b", "c"])
    done: list[Swept] = []
    threads = [
        threading.Thread(target=lambda: done.append(swept(database, school, batch_rows=20)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one.rows for one in done) == len(made)
    assert [one.left for one in done] == [0, 0, 0]
    copies = rows.archived(database, school)
    assert {key: copy.content for key, copy in copies.items()} == made
    assert {row.status for row in rows.live(database, school).values()} == {"ARCHIVED"}
    together = 0
    for one in done:
        together ^= int(one.digest, 16)
    assert f"{together:032x}" == rows.digest(school, made)


def test_a_batch_waits_for_whoever_writes_alone(database: Database, school: Institution) -> None:
    made = rows.fill(database, school, OLD)
    done: list[Swept] = []
    with database.transaction() as connection:
        writers.write_alone(connection, school)
        thread = threading.Thread(target=lambda: done.append(swept(database, school)))
        thread.start()
        # It waits for the lock that this transaction holds, in the middle of its first batch.
        with database.autocommit() as observer:
            wait_until(lambda: rows.lock_waiters(observer))
        assert thread.is_alive()
        assert rows.archived(database, school) == {}
    thread.join()
    assert done[0].rows == len(made)


def test_a_hold_placed_after_the_plan_still_holds(database: Database, school: Institution) -> None:
    # More batches than can be on their way while the first is told of.
    made = rows.fill(database, school, OLD, references=[f"r{n}" for n in range(12)])
    moved_before: list[int] = []

    def place(_: object) -> None:
        if moved_before:
            return
        with database.transaction() as connection:
            writers.write_alone(connection, school)
            moved_before.append(len(rows.archived(database, school)))
            holds.place(
                connection,
                school,
                type=None,
                first_month=None,
                last_month=None,
                until=None,
                reason="r",
                placed_by="p",
            )

    done = swept(database, school, batch_rows=1, on_batch=place)
    assert [done.rows] == moved_before
    assert done.left == 0
    assert 1 <= len(rows.archived(database, school)) == done.rows < len(made)


@pytest.mark.parametrize("start_month", [8, 7])
def test_an_active_snapshot_with_a_copy_stops_the_sweep(
    database: Database, school: Institution, start_month: int
) -> None:
    """Also where the copy stands in another year, because the start month has changed."""
    rows.fill(database, school, OLD, references=["a"])
    swept(database, school)
    with database.transaction() as connection:
        connection.execute(
            "UPDATE lb.leaderboard_snapshots SET status = 'ACTIVE' WHERE institution_id = 'inst'"
            " AND type = 'CLASS' AND snapshot_date = %s",
            (OLD[0],),
        )
        connection.execute(
            "UPDATE lb.institutions SET academic_year_start_month = %s", (start_month,)
        )
        school = institutions.find(connection, school.id)
    with pytest.raises(ArchiveContradicted, match=r"'inst:CLASS:a:daily:2023-07-31'"):
        swept(database, school)
    assert len(rows.archived(database, school)) == 9


def test_a_wrong_setting_stops_the_sweep_before_it_begins(database: Database) -> None:
    school = rows.add_institution(
        database, "other", metadata={"leaderboardRetention": {"daily": "soon"}}
    )
    with pytest.raises(InvalidSetting, match=r"'other'.*daily is 'soon'"):
        swept(database, school)


def test_a_batch_touches_one_leaf_and_no_archived_row(
    database: Database, school: Institution
) -> None:
    """What history costs a sweep: nothing. Read off the plan that was really run."""
    days = [date(2023, 9, 1) + n * ONE_DAY for n in range(30)]
    rows.fill(database, school, days, references=[f"r{n}" for n in range(40)])
    swept(database, school)
    rows.fill(database, school, [date(2023, 9, 15)], references=["new"])
    ensure_archive_years(database, ["2023-2024"])
    with database.transaction() as connection:
        connection.execute("ANALYZE lb.leaderboard_snapshots")
    parameters = {
        "institution_id": "inst",
        "institution_key": school.key,
        "type": BoardType.CLASS,
        "granularity": DAILY,
        "first": date(2023, 9, 1),
        "last": date(2023, 9, 30),
        "cutoff": TODAY,
        "today": TODAY,
        "academic_year": "2023-2024",
        "archive_run": 0,
        "batch_rows": 100,
    }
    with database.transaction() as connection:
        row = connection.execute(
            f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {queries.archive.sweep.sql}", parameters
        ).fetchone()
        assert locked_leaves(connection) == {"inst_CLASS_2023-09", "archive_2023-2024"}
        connection.rollback()
    assert row is not None
    scans = [
        node
        for node in _nodes(row[0] if not isinstance(row[0], str) else json.loads(row[0]))
        if node.get("Relation Name") == "inst_CLASS_2023-09" and "Scan" in node["Node Type"]
    ]
    assert scans
    for node in scans:
        read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        assert read == 1, node


def _nodes(plan: Any) -> list[dict[str, Any]]:
    if isinstance(plan, list):
        return [node for part in plan for node in _nodes(part)]
    if not isinstance(plan, dict):
        return []
    own = [plan] if "Node Type" in plan else []
    return own + [node for part in plan.values() for node in _nodes(part)]
