"""Whatever happens in whatever order, no snapshot is lost, doubled or changed by retention.

Random histories of materializations, renewals, sweeps, restores, holds, purges and days that pass,
against a model of a few lines: two dictionaries. After every step the tables hold exactly what the
model holds; live ACTIVE and the archive together are every snapshot made, once, with the content
last materialized; and what the planner says is what the sweep then moves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import next_month
from lb_pipelines.core.retention import Hold
from lb_pipelines.core.selection import ArchiveSelection
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import holds
from lb_pipelines.db.repositories.revisions import Renewal
from lb_pipelines.errors import UnderLegalHold
from lb_pipelines.retention import planning, restoring, sweeping, verifying
from lb_pipelines_tests import retention_rows as rows
from lb_pipelines_tests.conftest import _Databases
from lb_pipelines_tests.retention_rows import ACTOR, Copy, Key, Live

FIRST, LAST = date(2023, 6, 20), date(2023, 9, 10)
"""Snapshots of these days: months and, whichever its first month is, an academic year end in it."""
FILLED = (FIRST, date(2023, 6, 30), date(2023, 7, 1), date(2023, 7, 31), date(2023, 8, 1))
TYPES = (BoardType.CLASS, BoardType.CAMPUS)
GRANULARITIES = (Granularity.DAILY, Granularity.TERM)
REFERENCES = ("a", "b")

days = st.dates(FIRST, LAST)
some = st.sampled_from


@dataclass(frozen=True)
class Wait:
    days: int


@dataclass(frozen=True)
class Materialize:
    type: BoardType
    day: date
    contents: dict[tuple[str, Granularity], int]
    renew: bool


@dataclass(frozen=True)
class Sweep:
    granularity: Granularity
    batch_rows: int


@dataclass(frozen=True)
class Restore:
    selection: ArchiveSelection
    for_days: int
    batch_rows: int


@dataclass(frozen=True)
class Place:
    type: BoardType | None
    first_month: date | None
    months: int | None
    for_days: int | None


@dataclass(frozen=True)
class Release:
    pass


@dataclass(frozen=True)
class Purge:
    type: BoardType
    month: date


@dataclass(frozen=True)
class Change:
    """Of the institution's settings."""

    retention: dict[str, int]
    start_month: int


@st.composite
def selections(draw: st.DrawFn) -> ArchiveSelection:
    first, last = sorted((draw(days), draw(days)))
    return ArchiveSelection(
        types=draw(st.lists(some(TYPES), max_size=1).map(tuple)),
        granularities=draw(st.lists(some(GRANULARITIES), max_size=1).map(tuple)),
        reference_ids=draw(st.lists(some(REFERENCES), max_size=1).map(tuple)),
        first_day=draw(some((None, first))),
        last_day=draw(some((None, last))),
        academic_years=draw(some(((), ("2023-2024",), ("2022-2023", "2023-2024")))),
    )


policies = st.dictionaries(some([str(g) for g in GRANULARITIES]), st.integers(1, 60))
contents = st.dictionaries(
    st.tuples(some(REFERENCES), some(GRANULARITIES)), st.integers(0, 9), max_size=4
)
steps = st.one_of(
    st.builds(Wait, st.integers(1, 20)),
    st.builds(Wait, st.integers(1, 4)),
    st.builds(Materialize, some(TYPES), days, contents, st.just(False)),
    st.builds(Materialize, some(TYPES), days, contents, st.booleans()),
    st.builds(Sweep, some(GRANULARITIES), some((1, 2, 100))),
    st.builds(Sweep, some(GRANULARITIES), st.just(100)),
    st.builds(Restore, selections(), st.integers(0, 5), some((1, 100))),
    st.builds(Restore, st.just(ArchiveSelection()), st.integers(0, 40), st.just(100)),
    st.builds(
        Place,
        some((None, *TYPES)),
        some((None, date(2023, 6, 1), date(2023, 7, 1))),
        some((None, 0, 1)),
        some((None, 0, 20)),
    ),
    st.builds(Release),
    st.builds(Purge, some(TYPES), some((date(2023, 7, 1), date(2023, 8, 1)))),
    st.builds(Change, policies, some((7, 8, 9))),
)


@dataclass
class Model:
    """What must be true, written down as plainly as it can be."""

    retention: dict[str, int]
    start_month: int = 8
    today: date = date(2023, 7, 1)
    live: dict[Key, Live] = field(default_factory=dict)
    copies: dict[Key, Copy] = field(default_factory=dict)
    revisions: dict[Key, int] = field(default_factory=dict)
    held: list[Hold] = field(default_factory=list)
    made: dict[Key, int] = field(default_factory=dict)

    def days_of(self, granularity: str) -> int:
        return self.retention.get(granularity, {"daily": 30, "term": 730}[granularity])

    def is_held(self, key: Key) -> bool:
        for hold in self.held:
            over = hold.released or (hold.until is not None and hold.until < self.today)
            of_type = hold.type in (None, key[0])
            after = hold.first_month is None or key[3] >= hold.first_month
            before = hold.last_month is None or key[3] < next_month(hold.last_month)
            if not over and of_type and after and before:
                return True
        return False

    def due(self, granularity: str) -> dict[Key, int]:
        return {
            key: row.content
            for key, row in self.live.items()
            if row.status == "ACTIVE"
            and key[2] == granularity
            and (self.today - key[3]).days > self.days_of(granularity)
            and not (row.active_until is not None and row.active_until >= self.today)
            and not self.is_held(key)
        }

    def sweep(self, granularity: str) -> dict[Key, int]:
        moved = self.due(granularity)
        for key, content in moved.items():
            year = rows.year_of(key[3], self.start_month)
            self.copies[key] = Copy(content, year, self.revisions.get(key, 1))
            self.live[key] = Live("ARCHIVED", content)
        return moved

    def restore(self, selection: ArchiveSelection, until: date) -> dict[Key, int]:
        moved = {
            key: copy.content
            for key, copy in self.copies.items()
            if (not selection.types or key[0] in selection.types)
            and (not selection.reference_ids or key[1] in selection.reference_ids)
            and (not selection.granularities or key[2] in selection.granularities)
            and (selection.first_day is None or key[3] >= selection.first_day)
            and (selection.last_day is None or key[3] <= selection.last_day)
            and (not selection.academic_years or copy.academic_year in selection.academic_years)
        }
        for key, content in moved.items():
            del self.copies[key]
            self.live[key] = Live("ACTIVE", content, until)
        return moved

    def materialize(self, step: Materialize) -> bool:
        """False where a hold forbids it."""
        new = {
            (str(step.type), reference, str(granularity), step.day): content
            for (reference, granularity), content in step.contents.items()
        }
        old = {key for key in {*self.live, *self.copies} if key[0] == step.type}
        old = {key for key in old if key[3] == step.day}
        frozen = {key for key in old if key in self.copies}
        differing = {key for key in frozen if new.get(key) != self.copies[key].content}
        if step.renew and any(map(self.is_held, differing)):
            return False
        for key in old | set(new):
            if key not in frozen:
                # A restored snapshot stays restored, whatever it says now.
                until = self.live[key].active_until if key in self.live else None
                self._set(self.live, key, key in new and Live("ACTIVE", new[key], until))
                self._set(self.made, key, new.get(key))
            elif step.renew and key in differing:
                copy = self.copies[key]
                self.revisions[key] = 1 + max(copy.revision, self.revisions.get(key, 0))
                self._set(
                    self.copies,
                    key,
                    key in new and copy._replace(content=new[key], revision=self.revisions[key]),
                )
                if key in self.live:
                    self._set(self.live, key, key in new and Live("ARCHIVED", new[key]))
                self._set(self.made, key, new.get(key))
        return True

    @staticmethod
    def _set(into: dict[Key, Any], key: Key, value: Any) -> None:
        if value is None or value is False:
            into.pop(key, None)
        else:
            into[key] = value

    def purge(self, type: str, month: date) -> None:
        for key in list(self.live):
            purged = key[0] == type and month <= key[3] < next_month(month)
            if purged and self.live[key].status == "ARCHIVED":
                del self.live[key]


@pytest.fixture(scope="module")
def district(_databases: _Databases) -> Iterator[tuple[Database, dict[str, Institution]]]:
    """An institution with a subtree of its own, two in the shared one."""
    url = _databases.create(migrated=True)
    database = Database(url)
    months = (date(2023, 6, 1), date(2023, 9, 1))
    known = {
        "own": rows.add_institution(database, "own", months=months, budget=None),
        "shared_1": rows.add_institution(database, "shared_1", months=months),
        "neighbour": rows.add_institution(database, "neighbour", months=months),
    }
    rows.fill(database, known["neighbour"], [FIRST, date(2023, 7, 31)], references=REFERENCES)
    yield database, known
    database.close()
    _databases.drop(url)


class History:
    """A model and the institution that it is a model of, taking the same steps."""

    def __init__(self, database: Database, institution: Institution, model: Model) -> None:
        self.database = database
        self.institution = institution
        self.model = model
        with database.transaction() as connection:
            for table in ("leaderboard_snapshots", "archived_leaderboard_snapshots"):
                connection.execute(
                    f"DELETE FROM lb.{table} WHERE institution_id = %s", (institution.id,)
                )
            for table in ("archive_runs", "archive_revisions", "legal_holds", "purges"):
                connection.execute(
                    f"DELETE FROM lb.{table} WHERE institution_key = %s", (institution.key,)
                )
        self.change(Change(model.retention, model.start_month))
        for day in FILLED:
            for type in TYPES:
                whole = {(r, g): 5 for r in REFERENCES for g in GRANULARITIES}
                self.materialize(Materialize(type, day, whole, renew=False))

    def take(self, step: object) -> None:
        getattr(self, type(step).__name__.lower())(step)
        self.check()

    def check(self) -> None:
        live = rows.live(self.database, self.institution)
        copies = rows.archived(self.database, self.institution)
        assert live == self.model.live
        assert copies == self.model.copies
        active = {key: row.content for key, row in live.items() if row.status == "ACTIVE"}
        assert active.keys().isdisjoint(copies)
        assert active | {key: copy.content for key, copy in copies.items()} == self.model.made
        verdict = verifying.verify(self.database, self.institution)
        assert verdict.wrong == 0, verdict
        assert verdict.originals == len(live) - len(active)
        assert verdict.copies == len(copies)

    def change(self, step: Change) -> None:
        self.model.retention, self.model.start_month = step.retention, step.start_month
        self.institution = replace(
            self.institution,
            academic_year_start_month=step.start_month,
            metadata={"leaderboardRetention": step.retention},
        )
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE lb.institutions SET academic_year_start_month = %s,"
                " metadata = %s WHERE institution_key = %s",
                (step.start_month, Jsonb(self.institution.metadata), self.institution.key),
            )

    def wait(self, step: Wait) -> None:
        self.model.today += timedelta(days=step.days)

    def materialize(self, step: Materialize) -> None:
        renewal = Renewal("run", self.model.today) if step.renew else None
        allowed = self.model.materialize(step)
        try:
            with self.database.transaction() as connection:
                rows.materialize(
                    connection,
                    self.institution,
                    step.type,
                    step.day,
                    step.contents,
                    renewal=renewal,
                )
            assert allowed
        except UnderLegalHold:
            assert not allowed

    def sweep(self, step: Sweep) -> None:
        today = self.model.today
        now = datetime.combine(today, time(12), UTC)
        due = {
            (found.granularity, found.today, found.cutoff)
            for found in planning.due(self.database, now).found
            if found.institution.id == self.institution.id
        }
        assert due == {
            (g, today, today - timedelta(days=self.model.days_of(g)))
            for g in GRANULARITIES
            if self.model.due(g)
        }
        [line] = planning.plan(self.database, self.institution, today, [step.granularity])
        moved = self.model.sweep(step.granularity)
        swept = sweeping.sweep(
            self.database,
            self.institution,
            step.granularity,
            today,
            ACTOR,
            batch_rows=step.batch_rows,
            sleep=lambda _: None,
        )
        assert swept.rows == line.rows == len(moved)
        assert swept.bytes == line.bytes
        assert swept.left == 0
        assert swept.digest == rows.digest(self.institution, moved)
        assert (line.first, line.last) == (
            min((key[3] for key in moved), default=None),
            max((key[3] for key in moved), default=None),
        )

    def restore(self, step: Restore) -> None:
        until = self.model.today + timedelta(days=step.for_days)
        planned = restoring.plan_restore(self.database, self.institution, step.selection)
        moved = self.model.restore(step.selection, until)
        restored = restoring.restore(
            self.database,
            self.institution,
            step.selection,
            until,
            self.model.today,
            ACTOR,
            batch_rows=step.batch_rows,
        )
        assert restored.rows == planned.rows == len(moved)
        assert restored.bytes == planned.bytes
        assert restored.digest == rows.digest(self.institution, moved)

    def place(self, step: Place) -> None:
        last = None
        if step.months is not None:
            last = step.first_month or date(2023, 7, 1)
            for _ in range(step.months):
                last = next_month(last)
        until = None
        if step.for_days is not None:
            until = self.model.today + timedelta(days=step.for_days)
        with self.database.transaction() as connection:
            number = holds.place(
                connection,
                self.institution,
                type=step.type,
                first_month=step.first_month,
                last_month=last,
                until=until,
                reason="r",
                placed_by="p",
            )
        self.model.held.append(
            Hold(number, step.type, step.first_month, last, until, False, "p", "r")
        )

    def release(self, step: Release) -> None:
        if self.model.held:
            with self.database.transaction() as connection:
                assert holds.release(
                    connection, self.institution, self.model.held.pop().number, "r"
                )

    def purge(self, step: Purge) -> None:
        """What is left when a purge is over: rows gone, a line in the ledger."""
        self.model.purge(step.type, step.month)
        with self.database.transaction() as connection:
            connection.execute(
                "DELETE FROM lb.leaderboard_snapshots WHERE institution_id = %s AND type = %s"
                " AND snapshot_date >= %s AND snapshot_date < %s AND status = 'ARCHIVED'",
                (self.institution.id, step.type, step.month, next_month(step.month)),
            )
            connection.execute(
                "INSERT INTO lb.purges (institution_key, type, month, state, relation, rows,"
                " bytes, digest_high, digest_low, drop_after, started_by)"
                " VALUES (%s, %s, %s, 'DROPPED', 'x', 0, 0, 0, 0, %s, 'p')",
                (self.institution.key, step.type, step.month, step.month),
            )


@pytest.mark.parametrize("id", ["own", "shared_1"])
@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(retention=policies, history=st.lists(steps, min_size=1, max_size=25))
def test_nothing_is_lost_doubled_or_changed(
    district: tuple[Database, dict[str, Institution]],
    id: str,
    retention: dict[str, int],
    history: list[object],
) -> None:
    database, known = district
    neighbour = rows.live(database, known["neighbour"])
    taking = History(database, known[id], Model(retention))
    for step in history:
        taking.take(step)
    assert rows.live(database, known["neighbour"]) == neighbour
