"""Killed while archived snapshots are made anew: live and archive stay equal, the ledger whole.

The moments are chosen as in test_kill; here some days of every world lie in the archive, with and
without their originals.
"""

from __future__ import annotations

import itertools
import random
import time
from datetime import date

import psycopg

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import writers
from lb_pipelines_tests import oracle, stored, worlds
from lb_pipelines_tests.conftest import libpq_url
from lb_pipelines_tests.killable import DONE, Worker
from lb_pipelines_tests.oracle import School
from lb_pipelines_tests.stored import Key, SnapshotRow
from lb_pipelines_tests.test_kill import changed_within, load, run_clean
from lb_pipelines_tests.test_rematerialize import (
    archive,
    assert_each_stands_once,
    copies,
    purge,
    revisions,
    same,
)
from lb_pipelines_tests.test_staleness import aggregate, change, late_event

KILLS = 6
TODAY = date(2026, 1, 1)


def archived_school(
    database: Database, seed: int
) -> tuple[School, Institution, DayRange, dict[Key, bytes]]:
    """All days made, the older two thirds archived, some of it purged; gives what was archived."""
    school, institution, days = load(database, seed)
    run_clean(database, institution, days)
    old = set(list(days)[: 2 * len(days) // 3])
    rows = stored.snapshots(database, institution.id)
    archive(database, institution, {key for key in rows if key[3] in old})
    purged = set(sorted(old)[:2])
    purge(database, institution, {key for key in rows if key[3] in purged})
    archived = {key: row.content_hash for key, row in copies(database, institution.id).items()}
    return school, institution, days, archived


def assert_history_is_whole(
    database: Database, institution: Institution, archived: dict[Key, bytes]
) -> int:
    """From what was archived, entry by entry, to what the archive says now; gives the entries."""
    assert_each_stands_once(database, institution)
    now = copies(database, institution.id)
    said: dict[str, bytes | None] = {
        f"{institution.id}:{':'.join(map(str, key))}": hash for key, hash in archived.items()
    }
    entries = revisions(database, institution)
    for id, of_snapshot in itertools.groupby(entries, key=lambda entry: entry.original_id):
        for number, entry in enumerate(of_snapshot, start=2):
            assert (entry.revision, entry.old_hash) == (number, said[id])
            said[id] = entry.new_hash
    assert {row.id: row.content_hash for row in now.values()} == {
        id: hash for id, hash in said.items() if hash is not None
    }
    return len(entries)


def assert_all_is_as_the_events_say(
    database: Database, school: School, institution: Institution, days: DayRange
) -> None:
    twin = worlds.load(database, oracle.renamed(school, "inst_clean"))
    run_clean(database, twin, days)
    expected = stored.snapshots(database, "inst_clean")
    found: dict[Key, SnapshotRow] = {
        **stored.snapshots(database, institution.id),
        **copies(database, institution.id),
    }
    assert found.keys() == expected.keys()
    for key, row in found.items():
        assert same(row, expected[key]), key


def wait_for_the_dead(database: Database, institution: Institution) -> None:
    """The server may still be committing their last words: until nobody writes any more."""
    with database.transaction() as connection:
        writers.write_alone(connection, institution)


def test_killed_at_any_moment_of_a_renewal(database: Database) -> None:
    chance = random.Random(11)
    school, institution, days, archived = archived_school(database, 1)
    url = libpq_url(database.url)
    hits = attempts = 0
    while hits < KILLS:
        attempts += 1
        assert attempts <= 4 * KILLS, "the process is done before it is killed"
        everywhere = late_event(
            school, days.first, class_id="a", subject="a", campus="a", amount=attempts
        )
        stamp = everywhere.updated_at.replace(microsecond=attempts)
        school = change(database, institution, school, [everywhere._replace(updated_at=stamp)])
        school = changed_within(database, institution, school, days, chance, attempts)
        # Aggregates first; each kill in a later part of the snapshots of three types.
        listen = 1 + len(days) + hits * 3 * len(days) // KILLS
        worker = Worker(url, institution.id, days, TODAY, words=listen + 2)
        started = time.perf_counter()
        heard = list(itertools.takewhile(DONE.__ne__, (worker.next() for _ in range(listen))))
        pace = (time.perf_counter() - started) / (1 + len(heard))
        # Any moment is right; after two more words the process waits for it.
        time.sleep(chance.random() * 2 * pace)
        hits += worker.kill()
        wait_for_the_dead(database, institution)
        assert_history_is_whole(database, institution, archived)
    Worker(url, institution.id, days, TODAY).finish()
    assert assert_history_is_whole(database, institution, archived)
    assert_all_is_as_the_events_say(database, school, institution, days)


def test_killed_between_the_original_and_its_copy(database: Database) -> None:
    """Held at that very point by a lock on a copy: the original has been written by then."""
    school, institution, days, archived = archived_school(database, 2)
    late = late_event(school, days.first, class_id="a", subject="a", campus="a", amount=400)
    school = change(database, institution, school, [late])
    aggregate(database, institution, days)
    (day,) = {key[3] for key in archived if key[3] == sorted({k[3] for k in archived})[-1]}
    with psycopg.connect(libpq_url(database.url)) as holder:
        rows = holder.execute(
            "SELECT FROM lb.archived_leaderboard_snapshots WHERE institution_id = %s"
            " AND type = 'CLASS' AND reference_id = 'a' AND snapshot_date = %s FOR UPDATE",
            (institution.id, day),
        ).fetchall()
        assert rows
        worker = Worker(libpq_url(database.url), institution.id, days, TODAY)
        held: list[tuple[int]] = []
        # Outside a transaction, in which the list of who is active never changes.
        with database.autocommit() as observer:
            while not held:
                assert worker.process.is_alive()
                held = observer.execute(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                    " AND %s = ANY (pg_blocking_pids(pid))",
                    (holder.info.backend_pid,),
                ).fetchall()
        assert worker.kill()
    wait_for_the_dead(database, institution)
    entries = assert_history_is_whole(database, institution, archived)
    Worker(libpq_url(database.url), institution.id, days, TODAY).finish()
    assert assert_history_is_whole(database, institution, archived) > entries
    assert_all_is_as_the_events_say(database, school, institution, days)
