"""Sweeps, restores, purges and materializations at once, killed at any moment.

Nothing is lost, doubled or diverged.

Four processes go on and on, each with its own kind of work on the same institution; one after the
other is hit by SIGKILL at a random moment and replaced. A kill counts where it hit work in
progress: after the word that a piece begins, before the word that it is done.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import time
import traceback
from datetime import date, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange, days_between
from lb_pipelines.core.selection import ArchiveSelection
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.materialize import aggregates, snapshots
from lb_pipelines.materialize.results import Provenance
from lb_pipelines.retention.actor import Actor
from lb_pipelines.retention.purging import purge
from lb_pipelines.retention.restoring import restore
from lb_pipelines.retention.sweeping import sweep
from lb_pipelines.retention.verifying import verify
from lb_pipelines_tests import oracle, worlds
from lb_pipelines_tests.conftest import libpq_url
from lb_pipelines_tests.killable import Worker, _context
from lb_pipelines_tests.oracle import GRANULARITIES, TYPES, School
from lb_pipelines_tests.waiting import LIMIT_SECONDS

log = logging.getLogger(__name__)

KILLS = int(os.environ.get("LB_TEST_KILLS", "20"))
KINDS = ("sweep", "restore", "purge", "materialize")
BEGIN, END = "begin", "end"
# Far behind all days of the world and behind the moment at which anything was archived.
TODAY = date(2040, 1, 1)
# Days of two months, so that there are six partitions to purge.
MOMENT = ("America/St_Johns", date(2010, 11, 1))


class Endless(Worker):
    """A process that does one kind of work over and over, and says when a piece begins and ends."""

    def __init__(self, url: str, kind: str, seed: int, days: DayRange, exports: Path) -> None:
        self.kind = kind
        self._hears, says = _context.Pipe(duplex=False)
        self.process = _context.Process(
            target=_endless, args=(says, url, kind, seed, days.first, days.last, exports)
        )
        self.process.daemon = True
        self.process.start()
        says.close()

    def kill_at_work(self) -> bool:
        """SIGKILL; gives whether that hit a piece of work that had begun and was not done."""
        self.process.kill()
        self.process.join()
        last = None
        while (said := self.next()) is not None:
            last = said
        self._hears.close()
        # Nothing left in the pipe: its last word had been heard, and that was BEGIN.
        return last in (BEGIN, None)


def _endless(
    says: Connection, url: str, kind: str, seed: int, first: date, last: date, exports: Path
) -> None:
    try:
        chance = random.Random(seed)
        database, days = Database(url), DayRange(first, last)
        with database.transaction() as connection:
            institution = institutions.find_active(connection, "inst_killed")
        work = {"sweep": _sweep, "restore": _restore, "purge": _purge, "materialize": _materialize}
        while True:
            says.send(("said", BEGIN))
            work[kind](chance, database, institution, days, exports)
            says.send(("said", END))
    except BaseException:
        says.send(("error", traceback.format_exc()))


def _sweep(
    chance: random.Random, database: Database, institution: Institution, days: DayRange, _: Path
) -> None:
    # Late enough for whatever was restored until some day to have expired again.
    today = _today(chance) + timedelta(days=41)
    for granularity in chance.sample(list(Granularity), 5):
        batch_rows = chance.choice((3, 10, 1000))
        sweep(
            database,
            institution,
            granularity,
            today,
            Actor("sweep"),
            batch_rows=batch_rows,
            sleep=lambda _: None,
        )


def _restore(
    chance: random.Random, database: Database, institution: Institution, days: DayRange, _: Path
) -> None:
    first = chance.choice(list(days))
    today = _today(chance)
    restore(
        database,
        institution,
        ArchiveSelection(
            # Seldom a campus: partitions that are always half restored are never purged.
            types=tuple(chance.choices(list(BoardType), weights=(10, 10, 1))),
            granularities=tuple(chance.sample(list(Granularity), chance.randint(0, 4))),
            first_day=first,
            last_day=min(days.last, first + timedelta(days=chance.randint(0, 5))),
        ),
        today + timedelta(days=chance.randint(0, 40)),
        today,
        Actor("restore"),
        batch_rows=chance.choice((3, 10, 1000)),
    )


def _purge(
    chance: random.Random, database: Database, institution: Institution, _: DayRange, exports: Path
) -> None:
    purge(database, institution, _today(chance), Actor("purge"), exports)


def _materialize(
    chance: random.Random, database: Database, institution: Institution, days: DayRange, _: Path
) -> None:
    first = chance.choice(list(days))
    part = DayRange(first, min(days.last, first + timedelta(days=chance.randint(0, 3))))
    run = Provenance(f"process {os.getpid()}")
    for _done in aggregates.materialize(database, institution, part, run):
        pass
    for type in BoardType:
        for _done in snapshots.materialize(
            database,
            institution,
            type,
            part,
            run,
            rematerialize_archived=chance.random() < 0.5,
            today=_today(chance),
        ):
            pass


def _today(chance: random.Random) -> date:
    return TODAY + timedelta(days=chance.randint(0, 700))


def test_killed_at_any_moment_while_all_work_at_once(database: Database, tmp_path: Path) -> None:
    chance = random.Random(7)
    school, institution, days = _load(database)
    _make(database, institution, days)
    expected = _expected(school, days)
    _assert_everything_is_there_once(database, institution, set(expected))
    url, seeds = libpq_url(database.url), itertools.count(1)

    def start(kind: str) -> Endless:
        return Endless(url, kind, next(seeds), days, tmp_path)

    workers = {kind: start(kind) for kind in KINDS}
    hits: dict[str, int] = dict.fromkeys(KINDS, 0)
    attempts = 0
    try:
        # On and on until each kind of work has also come to its end once. Nothing is dropped while
        # a partition is half restored, and restores may always be faster than sweeps and purges:
        # once the kills are done they are no longer replaced, and what is archived stays so.
        give_up = time.monotonic() + LIMIT_SECONDS
        while (
            sum(hits.values()) < KILLS
            or min(hits.values()) < KILLS // 10
            or not _all_done(database, institution)
        ):
            attempts += 1
            assert time.monotonic() < give_up, (hits, _ledgers(database, institution))
            kind = KINDS[attempts % len(KINDS)]
            if kind not in workers:
                continue
            worker, pace = workers[kind], 0.02
            # Some pieces to their end, then into the next one: how long a piece takes is heard.
            for _ in range(chance.randint(0, 1)):
                started = time.perf_counter()
                while worker.next() != END:
                    pass
                pace = time.perf_counter() - started
            while worker.next() != BEGIN:
                pass
            time.sleep(chance.random() * pace)
            hits[kind] += worker.kill_at_work()
            if kind == "restore" and sum(hits.values()) >= KILLS and hits[kind] >= KILLS // 10:
                del workers[kind]
            else:
                workers[kind] = start(kind)
            if attempts % 5 == 0:
                _assert_everything_is_there_once(database, institution, set(expected))
                school = _change_amounts(database, institution, school, chance)
    finally:
        for worker in workers.values():
            worker.process.kill()
            worker.process.join()
    done = _ledgers(database, institution)
    assert all(done.get(what) for what in ("SWEEP", "RESTORE", "DROPPED", "renewals")), done
    log.info(
        "%d of %d kills hit work in progress: %s; %s", sum(hits.values()), attempts, hits, done
    )

    _make(database, institution, days, rematerialize_archived=True)
    _assert_everything_is_there_once(database, institution, set(expected))
    for granularity in Granularity:
        assert sweep(database, institution, granularity, date(2100, 1, 1), Actor("last")).left == 0
    assert verify(database, institution).wrong == 0
    stored, wanted = _stored(database, institution), _expected(school, days)
    wrong = {key: (of, wanted[key]) for key, of in stored.items() if of != wanted[key]}
    assert not wrong, next(iter(wrong.items()))
    assert stored == wanted


def _load(database: Database) -> tuple[School, Institution, DayRange]:
    school = worlds.make_school(
        3,
        id="inst_killed",
        moment=MOMENT,
        span=11,
        events=70,
        metadata={"leaderboardPurge": {"graceDays": 1}},
    )
    # Only amounts change later, so that the boards which must be there stay the same.
    events = tuple(event._replace(status="ACTIVE") for event in school.events)
    school = oracle.renamed(school, school.id, events=events)
    institution = worlds.load(database, school)
    first, last = worlds.span_of(school)
    return school, institution, DayRange(first, last + ONE_DAY)


def _make(database: Database, institution: Institution, days: DayRange, **options: Any) -> None:
    run = Provenance("test")
    list(aggregates.materialize(database, institution, days, run))
    for type in BoardType:
        options_of = {**options, **({"today": TODAY} if options else {})}
        list(snapshots.materialize(database, institution, type, days, run, **options_of))


def _change_amounts(
    database: Database, institution: Institution, school: School, chance: random.Random
) -> School:
    changed = [
        event._replace(amount=chance.randint(1, 50), updated_at=event.updated_at + ONE_DAY)
        for event in chance.sample(list(school.events), 3)
    ]
    with database.transaction() as connection:
        worlds.write_events(connection, institution.key, changed)
    by_id = {event.id: event for event in changed}
    events = tuple(by_id.get(event.id, event) for event in school.events)
    return oracle.renamed(school, school.id, events=events)


Key = tuple[str, str, str, date]


def _expected(school: School, days: DayRange) -> dict[Key, Any]:
    """Every snapshot that must be there, by the naive reference."""
    found = {}
    for type in TYPES:
        for reference in school.references(type):
            for granularity in GRANULARITIES:
                for day in days_between(days.first, days.last):
                    snapshot = oracle.snapshot(school, type, reference, granularity, day)
                    if snapshot is not None:
                        key = (type, reference, granularity, day)
                        found[key] = (snapshot.period_start, snapshot.entries)
    return found


_EVERYTHING = """
    SELECT type, reference_id, time_granularity, snapshot_date, status, content_hash, 'live'
    FROM lb.leaderboard_snapshots WHERE institution_id = %(id)s
    UNION ALL
    SELECT type, reference_id, time_granularity, snapshot_date, 'COPY', content_hash, 'archive'
    FROM lb.archived_leaderboard_snapshots WHERE institution_id = %(id)s
"""


def _assert_everything_is_there_once(
    database: Database, institution: Institution, expected: set[Key]
) -> None:
    with database.transaction(snapshot=True) as connection:
        rows = connection.execute(_EVERYTHING, {"id": institution.id}).fetchall()
    counted = [row[:4] for row in rows if row[4] in ("ACTIVE", "COPY")]
    assert len(counted) == len(set(counted)), "a snapshot is ACTIVE and in the archive, or twice"
    assert set(counted) == expected
    copies = {row[:4]: row[5] for row in rows if row[4] == "COPY"}
    for *key, status, content_hash, _ in rows:
        if status == "ARCHIVED":
            assert copies.get(tuple(key)) == content_hash, key


def _all_done(database: Database, institution: Institution) -> bool:
    done = _ledgers(database, institution)
    return all(done.get(what) for what in ("SWEEP", "RESTORE", "DROPPED", "renewals"))


def _ledgers(database: Database, institution: Institution) -> dict[str, int]:
    """How often each thing was begun, by the ledgers."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT kind, count(*) FROM lb.archive_runs WHERE institution_key = %(key)s GROUP BY 1"
            " UNION ALL"
            " SELECT state, count(*) FROM lb.purges WHERE institution_key = %(key)s GROUP BY 1"
            " UNION ALL"
            " SELECT 'renewals', count(*) FROM lb.archive_revisions"
            " WHERE institution_key = %(key)s",
            {"key": institution.key},
        ).fetchall()
    return dict(rows)


def _stored(database: Database, institution: Institution) -> dict[Key, Any]:
    with database.transaction(snapshot=True) as connection:
        rows = connection.execute(
            "SELECT type, reference_id, time_granularity, snapshot_date, period_start, entries"
            " FROM lb.archived_leaderboard_snapshots WHERE institution_id = %(id)s",
            {"id": institution.id},
        ).fetchall()
    return {row[:4]: (row[4], row[5]) for row in rows}
