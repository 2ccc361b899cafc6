"""Killed at any moment and run again, or run twice at once: the result is that of one clean run.

The moments are chosen by what the process says of its progress, plus a random part of the time
that it takes for a day, so that kills fall between any two statements; none depends on a guess
of how fast the machine is. Only kills that hit work in progress count.
"""

from __future__ import annotations

import itertools
import random
import time
from datetime import date
from typing import Any

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import input_changes
from lb_pipelines.materialize import aggregates, snapshots, trends
from lb_pipelines.materialize.results import Provenance
from lb_pipelines.materialize.snapshots import asset_name
from lb_pipelines.materialize.staleness import stale_ranges
from lb_pipelines_tests import oracle, stored, worlds
from lb_pipelines_tests.conftest import libpq_url
from lb_pipelines_tests.killable import DONE, READY, Worker
from lb_pipelines_tests.oracle import School
from lb_pipelines_tests.test_staleness import change, late_event, local_days, some_changes
from lb_pipelines_tests.test_trends import stored_trends

KILLS = 12
MOMENT = ("America/St_Johns", date(2010, 11, 7))


def run_clean(database: Database, institution: Institution, days: DayRange) -> None:
    run = Provenance("clean")
    list(aggregates.materialize(database, institution, days, run))
    for type in BoardType:
        list(snapshots.materialize(database, institution, type, days, run))
        list(trends.materialize(database, institution, type, days, run))


def everything(database: Database, institution: Institution) -> Any:
    """Aggregates, snapshots and trends, without what names the institution or the run."""
    with database.transaction() as connection:
        cells = connection.execute(
            "SELECT day, student_id, class_id, subject_id, campus_id, points, events"
            " FROM lb.point_aggregate_cells WHERE institution_id = %s ORDER BY 1, 2, 3, 4, 5",
            (institution.id,),
        ).fetchall()
    snapshot_rows = stored.snapshots(database, institution.id)
    trend_rows = stored_trends(database, institution.id)
    return (
        cells,
        {key: row.content[2:] for key, row in snapshot_rows.items()},
        {
            key: {name: of for name, of in row.items() if name != "partition_key"}
            for key, row in trend_rows.items()
        },
    )


def assert_every_day_is_whole(database: Database, school: School, institution: Institution) -> None:
    """Every day has the rows that the ledger says, and the right ones if it passes for current."""
    # One state: the server may still be committing the last words of the dead.
    with database.transaction(snapshot=True) as connection:
        changed = input_changes.find_stale_aggregates(connection, institution, date.max)
        made = connection.execute(
            "SELECT asset, day, boards, through_revision >= coalesce(("
            "  SELECT max(revision) FROM lb.point_aggregates a"
            "  WHERE a.institution_key = m.institution_key AND a.day <= m.day), 0)"
            " FROM lb.materialized_days m WHERE institution_key = %s",
            (institution.key,),
        ).fetchall()
        found = connection.execute(
            "SELECT lower(type) || '_snapshots', snapshot_date, count(*)"
            " FROM lb.leaderboard_snapshots WHERE institution_id = %(id)s GROUP BY 1, 2"
            " UNION ALL"
            " SELECT lower(type) || '_trends', snapshot_date, count(*)"
            " FROM lb.leaderboard_trends WHERE institution_id = %(id)s GROUP BY 1, 2",
            {"id": institution.id},
        ).fetchall()
    made = [row for row in made if row[0] != aggregates.ASSET]
    assert sorted(found) == sorted((asset, day, boards) for asset, day, boards, _ in made if boards)
    current = {
        type: {
            day
            for asset, day, _, is_current in made
            if asset == asset_name(type) and is_current and day < min([*changed, date.max])
        }
        for type in BoardType
    }
    stored.assert_snapshots_equal_the_reference(database, school, current, others=True)


def load(database: Database, seed: int) -> tuple[School, Institution, DayRange]:
    school = worlds.make_school(seed, id="inst_killed", moment=MOMENT, span=11, events=70)
    institution = worlds.load(database, school)
    first, last = worlds.span_of(school)
    return school, institution, DayRange(first - ONE_DAY, last + ONE_DAY)


def assert_as_if_nothing_had_happened(
    database: Database, school: School, institution: Institution, days: DayRange
) -> None:
    twin = worlds.load(database, oracle.renamed(school, "inst_clean"))
    run_clean(database, twin, days)
    assert everything(database, institution) == everything(database, twin)
    assert_every_day_is_whole(database, school, institution)
    assert stale_ranges(database, institution) == []
    stored.assert_snapshots_equal_the_reference(
        database, school, {key: list(days) for key in oracle.TYPES}
    )


def changed_within(
    database: Database,
    institution: Institution,
    school: School,
    days: DayRange,
    chance: random.Random,
    number: int,
) -> School:
    """Change events of these days: the processes make those again, and no other."""
    changes = some_changes(chance, school, number)
    inside = [event for event in changes if local_days(school, [event]) <= set(days)]
    return change(database, institution, school, inside)


def test_killed_at_any_moment_and_run_again(database: Database) -> None:
    chance = random.Random(1)
    school, institution, days = load(database, 1)
    url = libpq_url(database.url)
    # Aggregates, and snapshots and trends of three types; the word READY before them.
    words = 7 * len(days) + 1
    hits = attempts = 0
    while hits < KILLS:
        attempts += 1
        assert attempts <= 4 * KILLS, "the process is done before it is killed"
        # Each kill in a later part of the work: all statements of all assets get their turn.
        listen = 1 + hits * words // KILLS + chance.randrange(words // KILLS)
        worker = Worker(url, institution.id, days, words=listen + 2)
        started = time.perf_counter()
        heard = list(itertools.takewhile(DONE.__ne__, (worker.next() for _ in range(listen))))
        pace = (time.perf_counter() - started) / (1 + len(heard))
        # Any moment is right; after two more words the process waits for it.
        time.sleep(chance.random() * 2 * pace)
        hits += worker.kill()
        assert_every_day_is_whole(database, school, institution)
        if chance.random() < 0.5:
            # Another state of the events to get to: what is there must be replaced.
            school = changed_within(database, institution, school, days, chance, attempts)
    Worker(url, institution.id, days).finish()
    assert_as_if_nothing_had_happened(database, school, institution, days)


def test_killed_between_the_claim_of_a_day_and_its_rows(database: Database) -> None:
    """Held at that very point by a lock on the rows; the day must not pass for current."""
    school, institution, days = load(database, 4)
    run_clean(database, institution, days)
    day = days.first + 5 * ONE_DAY
    school = change(
        database, institution, school, [late_event(school, day, class_id="a", amount=400)]
    )
    url = libpq_url(database.url)
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT FROM lb.leaderboard_snapshots WHERE institution_id = %s AND type = 'CLASS'"
            " AND snapshot_date = %s FOR UPDATE",
            (institution.id, day),
        ).fetchall()
        assert rows
        worker = Worker(url, institution.id, days)
        (holder,) = connection.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        held: list[tuple[int]] = []
        # Outside a transaction, in which the list of who is active never changes.
        with database.autocommit() as observer:
            while not held:
                assert worker.process.is_alive()
                held = observer.execute(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                    " AND %s = ANY (pg_blocking_pids(pid))",
                    (holder,),
                ).fetchall()
        assert worker.kill()
    with database.autocommit() as connection:
        while connection.execute("SELECT FROM pg_stat_activity WHERE pid = %s", held[0]).fetchall():
            pass
    assert days.last in {day for stale in stale_ranges(database, institution) for day in stale}
    assert_every_day_is_whole(database, school, institution)
    Worker(url, institution.id, days).finish()
    assert_as_if_nothing_had_happened(database, school, institution, days)


def test_two_processes_at_once_on_the_same_days(database: Database) -> None:
    chance = random.Random(2)
    school, institution, days = load(database, 2)
    url = libpq_url(database.url)
    for round_ in range(3):
        workers = [Worker(url, institution.id, days) for _ in range(2)]
        for worker in workers:
            assert worker.next() == READY
        assert [worker.finish() for worker in workers] == [7 * len(days)] * 2
        assert_every_day_is_whole(database, school, institution)
        if round_ < 2:
            school = changed_within(database, institution, school, days, chance, round_)
    assert_as_if_nothing_had_happened(database, school, institution, days)


def test_one_of_two_processes_is_killed(database: Database) -> None:
    """The other neither fails nor waits for what the dead one held."""
    chance = random.Random(3)
    school, institution, days = load(database, 3)
    url = libpq_url(database.url)
    for number in itertools.count(1):
        listen = chance.randrange(1, 4 * len(days))
        survivor = Worker(url, institution.id, days)
        victim = Worker(url, institution.id, days, words=listen + 2)
        for _ in range(listen):
            if victim.next() == DONE:
                break
        hit = victim.kill()
        survivor.finish()
        if hit:
            break
        assert number < 10, "the process is done before it is killed"
    assert_as_if_nothing_had_happened(database, school, institution, days)
